"""Workers for a cohort: processes on this machine, a running Dask scheduler, or jobs of SLURM and PBS."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from itk_pdd.errors import RegistrationError
from itk_pdd.kernels.threads import allowed
from itk_pdd.solver.memory import available

__all__ = ["CLUSTERS", "MEMORY", "Place", "Workers", "connected", "members"]

log = logging.getLogger("itk_pdd")

CLUSTERS = {"slurm": "SLURMCluster", "pbs": "PBSCluster"}
"""Queueing systems, with the names of their classes in dask-jobqueue."""
MEMORY = "MEMORY"
"""Dask's resource by which a pair asks for memory, in bytes."""

_SPARE = 0.9  # share of the free memory that the workers of this machine get together
_SECONDS = 30  # to reach a scheduler
_SETTINGS = {
    # A worker that dies costs the pair that it registered: this package tries it again, in another way.
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.work-stealing": False,
    # Only the limit itself counts: a registration needs its memory, and has nothing to put on the disk.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    # By default a worker that takes long to start again is not waited for.
    "distributed.deploy.lost-worker-timeout": "10 minutes",
    "distributed.comm.timeouts.connect": f"{_SECONDS}s",
    "distributed.admin.low-level-log-length": 1000,
}


@dataclass(frozen=True)
class Place:
    """Tell where the pairs of a cohort are registered."""

    # address of a running Dask scheduler (``tcp://host:8786``), or the file that it wrote (``--scheduler-file``)
    scheduler: str | None = None
    # "slurm", "pbs": queueing system that starts the workers as jobs; their settings are those of dask-jobqueue's
    # configuration
    cluster: str | None = None
    # processes; by default as many as this machine's processors and memory allow, or one job
    workers: int | None = None
    threads: int | None = None  # threads of each; by default the processors of this machine are shared out
    # GB that the workers of this machine may hold together, or that each job gets; by default what is free
    memory: float | None = None


class Workers:
    """Workers that start when the first pair needs them, and end with the ``with`` block."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._stack = contextlib.ExitStack()
        self._reached: tuple[Any, int | None] | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.close()

    def reached(self, *, need: int, pairs: int) -> tuple[Any, int | None]:
        """Return a client and the threads of each registration; see :func:`connected`."""
        if self._reached is None:
            self._reached = self._stack.enter_context(connected(self.place, need=need, pairs=pairs))
        return self._reached


@contextlib.contextmanager
def connected(place: Place, *, need: int, pairs: int) -> Iterator[tuple[Any, int | None]]:
    """Start the workers, or reach those that are running; all that was started ends with the block.

    ``need`` are the bytes that the largest pair takes; no more workers are started than ``pairs``. Yields a client of
    the scheduler, and the threads of each registration; None leaves them to the worker.
    """
    if place.cluster not in (None, *CLUSTERS):
        raise RegistrationError(f"cluster is {place.cluster!r}, expected one of {', '.join(CLUSTERS)}")
    if place.cluster is not None and place.scheduler is not None:
        raise RegistrationError("scheduler and cluster are both given: give one of them")
    dask, distributed = _dask()
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set(_SETTINGS))
        for name in ("distributed", "distributed.nanny", "distributed.scheduler", "distributed.core"):
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)
        if place.scheduler is not None:
            yield stack.enter_context(_client(distributed, place.scheduler)), place.threads
            return
        if place.cluster is not None:
            cluster, threads = stack.enter_context(_jobs(place, need, pairs)), place.threads
        else:
            if sys.platform == "linux":
                stack.enter_context(dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}))
                # Workers are copies of a process that has imported what they need: they start in a tenth of the time.
                distributed.utils.get_mp_context().set_forkserver_preload(["distributed", "itk_pdd.cohort.pair"])
            count, threads, limit = shares(place, need, pairs)
            log.info("workers: %d of %d threads and %.2g GB each", count, threads, limit / 1e9)
            stack.enter_context(_safe_path())
            try:
                started = distributed.LocalCluster(
                    n_workers=count, threads_per_worker=1, processes=True, memory_limit=limit, dashboard_address=":0",
                    resources={MEMORY: limit}, silence_logs=logging.CRITICAL,
                )  # fmt: skip
            except RuntimeError as error:
                reason = error.__cause__ or error
                raise RegistrationError(
                    f"the workers cannot be started ({reason}): look at the messages above, or start them yourself "
                    "and name their scheduler"
                ) from error
            cluster = stack.enter_context(started)
        yield stack.enter_context(distributed.Client(cluster)), threads


@contextlib.contextmanager
def _safe_path() -> Iterator[None]:
    """Keep the workers' first process from importing what lies in the folder at hand."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def shares(place: Place, need: int, pairs: int) -> tuple[int, int, int]:
    """Share this machine out: the number of workers, the threads of each, and the bytes of each."""
    processors = allowed()[0]
    total = _SPARE * available() if place.memory is None else place.memory * 1e9
    fitting = max(1, min(processors // (place.threads or 1), int(total // need), pairs))
    count = place.workers or fitting
    return count, place.threads or max(1, processors // count), int(total / count)


def members(client: Any) -> dict[str, Any]:
    """Return the running workers by their addresses, with their threads, memory and resources."""
    found = client.scheduler_info()["workers"]
    return {address: each for address, each in found.items() if each.get("status", "running") == "running"}


def _dask() -> tuple[Any, Any]:
    try:
        import dask
        import distributed
    except ImportError as error:
        raise RegistrationError(
            f"the workers of a cohort need Dask, which is not installed ({error}): run pip install '.[batch]' "
            "in the folder of the checkout"
        ) from None
    return dask, distributed


def _client(distributed: Any, where: str) -> Any:
    """Reach a scheduler by its address or its file."""
    named = {"scheduler_file": where} if where.endswith(".json") else {"address": where}
    try:
        return distributed.Client(**named, timeout=_SECONDS)
    except (OSError, TimeoutError, ValueError) as error:
        raise RegistrationError(
            f"there is no scheduler at {where} ({error}): start one with `dask scheduler`"
        ) from None


def _jobs(place: Place, need: int, pairs: int) -> Any:
    """Start workers as jobs of a queueing system."""
    assert place.cluster is not None
    try:
        import dask_jobqueue
    except ImportError:
        raise RegistrationError("jobs of SLURM and PBS need dask-jobqueue: pip install dask-jobqueue") from None
    limit = int(max(need, (place.memory or 0) * 1e9))
    threads = place.threads or 1
    pbs = f"select=1:ncpus={threads}:mem={math.ceil(limit / 2**20)}mb"
    cluster = getattr(dask_jobqueue, CLUSTERS[place.cluster])(
        cores=1,
        processes=1,
        memory=f"{math.ceil(limit / 2**20)}MiB",
        worker_extra_args=["--resources", f"{MEMORY}={limit}"],
        **({"job_cpu": threads} if place.cluster == "slurm" else {"resource_spec": pbs}),
    )
    count = min(place.workers or 1, pairs)
    cluster.adapt(minimum_jobs=count, maximum_jobs=count)  # a job that is lost is given in again
    return cluster
