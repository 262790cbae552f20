"""Give pairs to the workers, take the records in, and try again what a worker lost."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from itk_pdd.cohort.cluster import MEMORY, members
from itk_pdd.cohort.listing import Item
from itk_pdd.cohort.pair import ATTEMPTS, begun, failure, perform
from itk_pdd.errors import RegistrationError

__all__ = ["Work", "work_off"]

log = logging.getLogger("itk_pdd")

_WAIT = 2.0  # seconds between two looks at the workers
_NOBODY = 600.0  # seconds to wait for a worker where there is none
_LOSSES = 3 * ATTEMPTS  # of a pair, before it was begun or after


@dataclass(frozen=True)
class Work:
    """A pair to register."""

    item: Item
    order: Mapping[str, Any] = field(default_factory=dict)  # what :func:`itk_pdd.cohort.pair.perform` takes
    need: int = 0
    lost: tuple[str, ...] = ()  # addresses of the workers that have lost it


def work_off(
    client: Any,
    works: Iterable[Work],
    finished: Callable[[Item, dict[str, Any]], None],
    *,
    register: Callable[[Mapping[str, Any]], dict[str, Any]] = perform,
) -> None:
    """Register pairs on the workers of a client; ``finished`` is called with each pair and its record.

    A worker has one pair at a time: if it dies, this pair is lost and no other. The pair is tried again, on another
    worker where there is one and with less memory, and given up after :data:`itk_pdd.cohort.pair.ATTEMPTS`. An error is
    raised if the scheduler is lost, or no worker comes.
    """
    import distributed

    source, again = iter(works), deque[Work]()
    running: dict[Any, tuple[Work, str]] = {}
    workers: dict[str, Any] = {}
    looked, alone, upcoming = -_WAIT, time.monotonic(), next(source, None)
    while upcoming is not None or again or running:
        if time.monotonic() - looked > _WAIT:
            workers, looked = _members(client), time.monotonic()
            alone = looked if workers else alone
            if looked - alone > _NOBODY:
                raise RegistrationError(f"no worker has come to the scheduler within {_NOBODY:g} s")
        busy = {address for _, address in running.values()}
        free = [address for address in workers if address not in busy]
        while free and (again or upcoming is not None):
            if again:
                work = again.popleft()
            else:
                assert upcoming is not None
                work, upcoming = upcoming, next(source, None)
            address = _fitting(work, free, workers)
            free.remove(address)
            running[_submitted(client, register, work, address, workers[address])] = work, address
        done = _some(distributed, client, running)
        gone = {future for future, (_, address) in running.items() if address not in workers} - done
        for future in [*done, *gone]:
            work, address = running.pop(future)
            record = _record(distributed, future, work, address, client) if future in done else None
            if record is None:
                future.cancel()
                looked = -_WAIT  # the worker may be gone
                work = replace(work, lost=(*work.lost, address))
                if begun(work.order) < ATTEMPTS and len(work.lost) < _LOSSES:
                    log.info("%s was lost by the worker %s; it is tried again", work.item.name, address)
                    again.append(work)
                    continue
                times = "once" if len(work.lost) == 1 else f"{len(work.lost)} times"
                record = failure(work.item, f"{times} its worker ended without a word (memory?)")
                record["attempts"] = begun(work.order)
            elif record.get("again") and begun(work.order) < ATTEMPTS and len(work.lost) < _LOSSES:
                again.append(replace(work, lost=(*work.lost, address)))
                continue
            finished(work.item, record)


def _fitting(work: Work, free: list[str], workers: Mapping[str, Any]) -> str:
    """Choose a free worker: one that has not lost the pair, and with the least memory that is enough."""

    def order(address: str) -> tuple[bool, bool, float]:
        memory = workers[address]["memory_limit"] or 0
        return address in work.lost, 0 < memory < work.need, memory

    return min(free, key=order)


def _submitted(client: Any, register: Any, work: Work, address: str, worker: Mapping[str, Any]) -> Any:
    declared = worker["resources"].get(MEMORY)
    options = work.order.get("options", {})
    order = {**work.order, "options": {"threads": worker["nthreads"], **options}}
    return client.submit(
        register,
        order,
        pure=False,
        retries=0,
        workers=[address],
        resources=None if declared is None else {MEMORY: min(work.need, declared)},
    )


def _some(distributed: Any, client: Any, running: Mapping[Any, Any]) -> set[Any]:
    """Wait until a pair is finished, but not long."""
    if not running:
        time.sleep(_WAIT / 4)
        return set()
    try:
        return set(distributed.wait(list(running), timeout=_WAIT, return_when="FIRST_COMPLETED").done)
    except TimeoutError:
        _check(client)
        return set()
    except (distributed.CancelledError, OSError):
        _check(client)
        return {future for future in running if future.done()}


def _record(distributed: Any, future: Any, work: Work, address: str, client: Any) -> dict[str, Any] | None:
    """Return the record of a pair; None if the worker was lost."""
    try:
        return future.result(timeout=10 * _WAIT)
    except (distributed.KilledWorker, distributed.CancelledError, TimeoutError, OSError):
        _check(client)
        return None
    except Exception as error:
        # Not one that a registration raises: the worker could not even begin.
        reason = f"the worker {address} cannot register ({type(error).__name__}: {' '.join(str(error).split())})"
        return failure(work.item, reason)


def _members(client: Any) -> dict[str, Any]:
    try:
        return members(client)
    except (OSError, TimeoutError, RuntimeError):
        _check(client)
        return {}


def _check(client: Any) -> None:
    """Raise an error if the scheduler is gone."""
    if client.status != "running":
        raise RegistrationError("the connection to the scheduler was lost: start it and give the same command again")
