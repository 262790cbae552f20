"""Register the pairs of a cohort: skip what is done, give the rest to workers, and write the summary."""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itk_pdd.cohort import records
from itk_pdd.cohort.bids import describe, items_of_bids
from itk_pdd.cohort.cluster import Place, Workers
from itk_pdd.cohort.estimate import most_memory, needed_memory
from itk_pdd.cohort.listing import OUTPUTS, Item, items_of_files, items_of_rows, read_items
from itk_pdd.cohort.pair import failure
from itk_pdd.cohort.records import DONE, RECORDS, VIEWS, WORK
from itk_pdd.cohort.summary import write_summary
from itk_pdd.cohort.work import Work, work_off
from itk_pdd.errors import RegistrationError
from itk_pdd.io.messages import system_reason
from itk_pdd.io.outputs import OutputError

__all__ = ["Cohort", "Progress", "prepare_folder", "register_batch", "register_items"]

log = logging.getLogger("itk_pdd")

Progress = Callable[[int, int, str, Mapping[str, Any]], None]


@dataclass(frozen=True)
class Cohort:
    """Outcome of the registrations of a cohort.

    Attributes
    ----------
    folder : pathlib.Path
        Folder of the results.
    records : dict
        The record of each pair by its name, in the order of the list; ``status`` is "done" or "failed".
    made : int
        Pairs that were registered now; the others had been done before.
    waiting : int
        Pairs of the list that belong to another chunk and are not done yet.
    """

    folder: Path
    records: dict[str, dict[str, Any]]
    made: int = 0
    waiting: int = 0

    @property
    def failed(self) -> dict[str, str]:
        """The reasons of the pairs that failed."""
        return {name: record["reason"] for name, record in self.records.items() if record["status"] != DONE}


def register_batch(
    pairs: Any = None,
    output: str | os.PathLike[str] = "out",
    *,
    fixed: str | os.PathLike[str] | None = None,
    moving: str | Sequence[str | os.PathLike[str]] | None = None,
    bids: str | os.PathLike[str] | None = None,
    suffix: str = "T1w",
    outputs: Sequence[str] = ("field", "warped", "labels"),
    model: str | os.PathLike[str] = "auto",
    initialise: str | None = None,
    smoothness: float = 1.0,
    spacing: float | None = None,
    device: str = "auto",
    force: bool = False,
    workers: int | None = None,
    threads: int | None = None,
    memory: float | None = None,
    scheduler: str | None = None,
    cluster: str | None = None,
    chunk: tuple[int, int] | None = None,
    time_limit: float | None = None,
    report: bool = True,
    progress: Progress | None = None,
) -> Cohort:
    """Register many pairs of images on the workers of a Dask cluster, into a folder.

    What is done is not done again: a result counts if its record names the same options, model, version and the same
    content of the input files. A pair that cannot be registered is reported, and the others go on. In a script the call
    belongs under ``if __name__ == "__main__":``, since the workers are new processes that import the script.

    Parameters
    ----------
    pairs : path-like or list, optional
        A CSV file with the columns ``fixed`` and ``moving`` and, where needed, ``name``, ``fixed_mask``,
        ``moving_mask``, ``initial_transform``, ``moving_labels``, ``fixed_labels``, ``fixed_points``,
        ``moving_points``, ``model``; or a list of mappings with these keys, or of pairs of paths.
    output : path-like
        Folder of the results, made if needed: a folder for each pair, ``records/NAME.json``, ``summary.csv`` and
        ``report.html``.
    fixed, moving : path-like, str, optional
        Instead of ``pairs``: one fixed image, and the moving images as a pattern (``scans/*.nii.gz``) or a list.
    bids : path-like, optional
        Instead: a BIDS folder, whose images of ``suffix`` are registered to ``fixed``; without ``fixed`` every session
        is registered to the first one of its subject. Outputs are named as BIDS derivatives.
    suffix : str
        Kind of the BIDS images.
    outputs : sequence of str
        What to write for each pair: "field", "warped", "labels" (where the list has ``moving_labels``), "transform",
        "inverse", "uncertainty", "report".
    model, initialise, smoothness, spacing, device, force
        As for :func:`itk_pdd.register`.
    workers : int, optional
        Registrations at a time; by default as many as processors and memory allow.
    threads : int, optional
        Threads of each registration.
    memory : float, optional
        GB that the workers of this machine may hold together, or that each job of a cluster gets.
    scheduler : str, optional
        Address or file of a running Dask scheduler, whose workers register.
    cluster : {"slurm", "pbs"}, optional
        Start the workers as jobs of this queueing system.
    chunk : (int, int), optional
        ``(i, n)``: register the i-th of n parts of the list alone, i from 1 on. For job arrays.
    time_limit : float, optional
        Seconds after which a registration is ended.
    report : bool
        Write ``report.html``.
    progress : callable, optional
        Called after each pair with the number of finished pairs, the number of all, the name and the record.

    Returns
    -------
    Cohort
        The records of all pairs.

    Raises
    ------
    RegistrationError
        If there is no list that can be used, Dask is not installed, or the scheduler cannot be reached.
    OutputError
        If the folder of the results cannot be written.
    """
    given = [name for name, value in (("pairs", pairs), ("moving", moving), ("bids", bids)) if value is not None]
    if len(given) != 1:
        raise RegistrationError(
            f"{' and '.join(given) or 'neither pairs, nor moving, nor bids'} given, expected one of pairs, moving, bids"
        )
    folder = Path(output)
    if bids is not None:
        items = items_of_bids(bids, fixed=fixed, suffix=suffix)
    elif moving is not None:
        if fixed is None:
            raise RegistrationError("moving is given without fixed: give the fixed image, too")
        items = items_of_files(fixed, moving)
    elif isinstance(pairs, str | os.PathLike):
        items = read_items(pairs)
    else:
        items = items_of_rows(pairs)
    options = {
        "initialise": initialise, "model": os.fspath(model), "smoothness": smoothness, "spacing": spacing,
        "device": device, "force": force,
    }  # fmt: skip
    place = Place(scheduler, cluster, workers, threads, memory)
    with Workers(place) as hands:
        found = register_items(
            items, folder, options, outputs, hands, chunk=chunk, time_limit=time_limit, progress=progress
        )
    if bids is not None:
        describe(folder, Path(bids))
    write_summary(found.records, items, folder, report=report)
    return found


def register_items(
    items: Sequence[Item],
    folder: Path,
    options: Mapping[str, Any],
    outputs: Sequence[str],
    workers: Workers,
    *,
    chunk: tuple[int, int] | None = None,
    time_limit: float | None = None,
    progress: Progress | None = None,
) -> Cohort:
    """Register the items that are not done yet; see :func:`register_batch`."""
    unknown = sorted(set(outputs) - set(OUTPUTS))
    if unknown or not outputs:
        raise RegistrationError(f"outputs are {', '.join(unknown) or 'empty'}, expected some of {', '.join(OUTPUTS)}")
    if chunk is not None and not 1 <= chunk[0] <= chunk[1]:
        raise RegistrationError(f"chunk is {chunk[0]}/{chunk[1]}, expected i/n with i from 1 to n")
    prepare_folder(folder)
    mine = items if chunk is None else items[chunk[0] - 1 :: chunk[1]]
    found: dict[str, dict[str, Any]] = {}
    made = 0
    options = {name: value for name, value in options.items() if value is not None}

    def tell(item: Item, record: dict[str, Any], *, new: bool = True) -> None:
        nonlocal made
        found[item.name] = record
        made += new and record["status"] == DONE
        if record["status"] != DONE:
            with suppress(OSError):
                records.write_record(folder, item.name, record)
        if progress is not None:
            progress(len(found), len(mine), item.name, record)

    waiting = []
    for item in mine:
        if problem := item.problem or item.missing():
            tell(item, failure(item, problem))
            continue
        key, old = records.key_of(item, options, list(outputs)), records.read_record(folder, item.name)
        if old is not None and not (why := records.changed(old, item, key, folder)):
            tell(item, old, new=False)
            continue
        if old is not None:
            log.info("%s is registered again: %s", item.name, why)
        waiting.append((item, key))
    _clear(folder, (item.name for item, _ in waiting))
    if waiting:
        _run(waiting, folder, options, outputs, workers, time_limit, tell)
    rest = {item.name: records.read_record(folder, item.name) for item in items if item.name not in found}
    done = {name: record for name, record in rest.items() if record is not None}
    ordered = {item.name: (found | done)[item.name] for item in items if item.name in found or item.name in done}
    return Cohort(folder, ordered, made, len(rest) - len(done))


def _run(
    waiting: Sequence[tuple[Item, str]],
    folder: Path,
    options: Mapping[str, Any],
    outputs: Sequence[str],
    workers: Workers,
    time_limit: float | None,
    tell: Callable[[Item, dict[str, Any]], None],
) -> None:
    run = uuid.uuid4().hex[:8]
    chosen = [item for item, _ in waiting]

    def orders(threads: int | None) -> Iterator[Work]:
        settings = {**options} | ({} if threads is None else {"threads": threads})
        for item, key in waiting:
            order = {
                "name": item.name, "files": item.files, "model": item.model, "targets": item.targets, "key": key,
                "folder": str(folder.resolve()), "outputs": list(outputs), "options": settings, "run": run,
                "time_limit": time_limit,
            }  # fmt: skip
            yield Work(item, order, needed_memory(item, dict(options)))

    client, threads = workers.reached(need=most_memory(chosen, dict(options)), pairs=len(chosen))
    try:
        work_off(client, orders(threads), tell)
    finally:
        for left in (folder / WORK).glob(f"*.{run}.begun"):
            with suppress(OSError):
                left.unlink()
        with suppress(OSError):
            (folder / WORK).rmdir()  # unless another chunk is at work


def prepare_folder(folder: Path) -> None:
    """Make the folders of the results."""
    try:
        for part in ("", RECORDS, VIEWS, WORK):
            (folder / part).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"output: the folder {folder} cannot be made ({system_reason(error)})") from error
    if not os.access(folder, os.W_OK):
        raise OutputError(f"output: nothing can be written to the folder {folder}")


def _clear(folder: Path, names: Iterable[str]) -> None:
    """Remove what interrupted runs have left in work for some pairs."""
    for name in names:
        for left in (folder / WORK).glob(f"{records.glob_safe(name)}.*"):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
