"""Register one pair of a cohort on a worker: results whole or not at all, its record last."""

from __future__ import annotations

import errno
import json
import logging
import os
import platform
import shutil
import tempfile
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from itk_pdd.cohort import records
from itk_pdd.cohort.listing import Item
from itk_pdd.cohort.records import DONE, FAILED, RECORDS, VIEWS, WORK
from itk_pdd.commands.register import register_files
from itk_pdd.errors import RegistrationError, RegistrationWarning
from itk_pdd.io.outputs import OutputError
from itk_pdd.solver.reuse import Kept

__all__ = ["ATTEMPTS", "begun", "failure", "perform"]

ATTEMPTS = 3
"""How often a pair is begun at most."""

_ARGUMENTS = {
    "field": "output", "labels": "warped_labels", "warped": "warped", "transform": "transform", "inverse": "inverse",
    "uncertainty": "uncertainty", "report": "report",
}  # fmt: skip
_SHARES = (0.9, 0.6, 0.4)  # of the memory of the worker, by attempt: with less, the work is done in more blocks
_FULL = (errno.ENOSPC, errno.EDQUOT)


def perform(order: Mapping[str, Any]) -> dict[str, Any]:
    """Register a pair and write its results; return its record.

    ``order`` has ``name``, ``files``, ``model``, ``targets`` of the :class:`itk_pdd.cohort.listing.Item`; ``key``;
    ``folder`` of the results; ``outputs``; ``options`` of :func:`itk_pdd.register`; ``time_limit`` in seconds; ``run``,
    a word for this run. The ``status`` of the record is "done", or "failed" with its ``reason``; ``again`` tells if
    another attempt may do better.
    """
    item = Item(order["name"], order["files"], order["model"], "", order["targets"])
    folder = Path(order["folder"])
    old = records.read_record(folder, item.name)
    if old is not None and old.get("run") == order["run"] and old["status"] == DONE:
        return old  # its worker died before it could tell
    attempt = _begin(order)
    started, memory = time.perf_counter(), _own_memory()
    _quiet()
    about = {"name": item.name, "key": order["key"], "host": platform.node(), "process": os.getpid()}
    about |= {"attempts": attempt, "run": order["run"]}
    try:
        if attempt > ATTEMPTS:
            raise _Given(f"the process that registered it ended {ATTEMPTS} times without a word (memory?)")
        found = _registered(item, order, folder, memory, attempt)
    except Exception as error:
        found = failure(item, _reason(error), again=isinstance(error, MemoryError))
    seconds = round(time.perf_counter() - started, 3)
    content = {**about, **found, "wall_seconds": seconds}
    if found["status"] == DONE:
        try:
            records.write_record(folder, item.name, content)
        except OSError as error:
            content = {**about, **failure(item, _reason(error)), "wall_seconds": seconds}
    return content


def failure(item: Item, reason: str, *, again: bool = False) -> dict[str, Any]:
    """Describe a pair that could not be registered."""
    inputs = {role: {"name": ", ".join(path.name for path in paths)} for role, paths in item.paths().items()}
    return {"name": item.name, "status": FAILED, "reason": reason, "again": again, "inputs": inputs}


class _Given(RegistrationError):
    """A pair is given up."""


def _registered(
    item: Item, order: Mapping[str, Any], folder: Path, memory: float | None, attempt: int
) -> dict[str, Any]:
    if missing := item.missing():
        raise RegistrationError(missing)
    stamps = {role: [records.stamp_of(path) for path in paths] for role, paths in item.paths().items()}
    options = {**order["options"], "progress": _clock(order["time_limit"])}
    if item.model is not None:
        options["model"] = item.model
    if memory is not None and options.get("memory") is None:
        options["memory"] = _SHARES[attempt - 1] * memory / 1e9
    (folder / WORK).mkdir(exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f"{item.name}.", dir=folder / WORK))
    try:
        roles = ("initial_transform", "fixed_mask", "moving_mask", "moving_labels")
        given: dict[str, Any] = {role: item.files[role] for role in roles if role in item.files}
        wanted = [name for name in order["outputs"] if name != "labels" or "moving_labels" in given]
        if "labels" not in wanted:
            given.pop("moving_labels", None)
        ways: dict[str, Any] = {
            name: stage / f"{name}{''.join(Path(item.target(name)).name.partition('.')[1:])}" for name in wanted
        }
        _clear_peak()
        result = register_files(
            item.files["fixed"],
            item.files["moving"],
            **{_ARGUMENTS[name]: path for name, path in ways.items()},
            **given,
            **options,
            kept=_kept_of(item, stamps),
            thumbnail=stage / "view.jpg",
            record=stage / "record.json",
        )
        found = json.loads((stage / "record.json").read_text(encoding="utf-8"))
        found["measures"] = _measures(item, result.field)
        for role, paths in item.paths().items():
            digests = [records.digest_of(path) for path in paths]
            found.setdefault("stamps", {})[role] = [list(each) for each in zip(stamps[role], digests, strict=True)]
        places = {name: item.target(name) for name in wanted} | {"view": f"{VIEWS}/{item.name}.jpg"}
        found["files"] = {
            name: [places[name], path.stat().st_size] for name, path in (*ways.items(), ("view", stage / "view.jpg"))
        }
        found["outputs"] = {name: places[name] for name in wanted}
        # The old record vouches for the old files: it goes first. The new one comes last.
        (folder / RECORDS / f"{item.name}.json").unlink(missing_ok=True)
        for name, path in (*ways.items(), ("view", stage / "view.jpg")):
            target = folder / places[name]
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
        return {**found, "status": DONE}
    finally:
        shutil.rmtree(stage, ignore_errors=True)


_fixed: tuple[Any, Kept] = (None, Kept())


def _kept_of(item: Item, stamps: Mapping[str, Any]) -> Kept:
    """Return what the worker keeps of the fixed image: of the one before, if that is the same."""
    global _fixed
    same = [(str(item.files.get(role)), stamps.get(role)) for role in ("fixed", "fixed_mask")]
    if _fixed[0] != same:
        _fixed = same, Kept()
    return _fixed[1]


def _measures(item: Item, field: Any) -> dict[str, float]:
    """Measure the overlap of the labels and the error of the landmarks, where the list names both sides of them."""
    sides = [kind for kind in ("labels", "points") if {f"fixed_{kind}", f"moving_{kind}"} <= item.files.keys()]
    if not sides:
        return {}
    from itk_pdd.evaluation.datasets import Pair
    from itk_pdd.evaluation.scoring import load_case, score

    roles = ("fixed", "moving", *(f"{side}_{kind}" for kind in sides for side in ("fixed", "moving")))
    case = load_case(Pair(**{role: Path(item.files[role]) for role in roles}))
    found = score(case, field, surfaces=False, similarity=False)
    measures = {"dice": found.mean("dice")} if found.labels else {}
    return measures | {name: value for name, value in found.overall.items() if name.startswith("tre_")}


def begun(order: Mapping[str, Any]) -> int:
    """Count how often workers have begun a pair in this run: one that is killed cannot tell."""
    try:
        return len(_marker(order).read_text(encoding="utf-8").splitlines())
    except (OSError, KeyError):
        return 0


def _begin(order: Mapping[str, Any]) -> int:
    """Note that the pair is begun, and return how often it has been."""
    with suppress(OSError):
        _marker(order).parent.mkdir(exist_ok=True)
        with _marker(order).open("a", encoding="utf-8") as stream:
            stream.write(f"{platform.node()} {os.getpid()}\n")
    return max(1, begun(order))


def _marker(order: Mapping[str, Any]) -> Path:
    return Path(order["folder"]) / WORK / f"{order['name']}.{order['run']}.begun"


def _reason(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    if isinstance(error, OutputError):
        return f"its results cannot be written: {error}"
    if isinstance(error, RegistrationError):
        return str(error).rstrip(".")
    if isinstance(error, OSError):
        what = "the disk is full" if error.errno in _FULL else (error.strerror or str(error)).lower()
        return f"its results cannot be written: {what}" + (f" ({error.filename})" if error.filename else "")
    if isinstance(error, TimeoutError):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _clock(limit: float | None) -> Any:
    """Return a function for the progress that ends a registration after so many seconds."""
    if limit is None:
        return None
    end = time.monotonic() + limit

    def check(fraction: float, _: str) -> None:
        if time.monotonic() > end:
            raise _Given(f"it took longer than {limit:g} s and was ended at {fraction:.0%}")

    return check


def _own_memory() -> float | None:
    """Return the bytes that the worker may hold, None without a limit."""
    from distributed import get_worker

    try:
        limit = get_worker().memory_manager.memory_limit
    except (ValueError, AttributeError):
        return None
    return None if limit is None else float(limit)


def _quiet() -> None:
    """Keep warnings out of the worker's output: they are in the record."""
    warnings.simplefilter("ignore", RegistrationWarning)
    log = logging.getLogger("itk_pdd")
    if not log.handlers:
        log.addHandler(logging.NullHandler())
        log.propagate = False


def _clear_peak() -> None:
    """Let the kernel measure the largest memory of this process anew (Linux)."""
    with suppress(OSError), open("/proc/self/clear_refs", "w") as stream:
        stream.write("5")
