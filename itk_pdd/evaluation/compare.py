"""Compare methods: register every pair by every method, each in a process of its own; resumable.

The folder of results holds one JSON file per registration (``runs/``), what the programs printed (``logs/``), small
pictures for the report (``views/``), on request the fields (``fields/``), and the tables made from them. A file of
``runs/`` is named after everything the result depends on: files, method, settings, versions and rules. A registration
whose file is there is not done again.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from itk_pdd._version import __version__
from itk_pdd.evaluation.datasets import Pair
from itk_pdd.evaluation.methods import INITIAL, Candidate
from itk_pdd.evaluation.process import kill_session, program_of_its_own
from itk_pdd.evaluation.run import Rules, failed, write_json
from itk_pdd.io.digests import file_digest

__all__ = ["Run", "compare", "load_result", "pair_names", "plan"]

_HEADERS = (".mhd", ".nhdr", ".hdr")  # files whose voxels are in a second one
_POLL = 0.1  # seconds between two looks at the processes


@dataclass(frozen=True)
class Run:
    """One registration of the comparison."""

    pair: str
    method: str
    key: str  # name of its files
    job: Mapping[str, Any]  # instructions for the process; empty if it cannot be done at all
    problem: str = ""  # why it cannot be done, empty if it can
    skipped: bool = False  # True if the problem is that of the pair, not that of the method
    # True if the pair is in the list; False for a swapped pair, which the inverse consistency needs
    listed: bool = True


def pair_names(pairs: Sequence[Pair]) -> list[str]:
    """Name the pairs for tables; a name that is taken gets the number of its row."""
    names: list[str] = []
    for number, pair in enumerate(pairs, start=1):
        name, taken = pair.name, {*names, *(other.name for other in pairs[number:])} if pair.name in names else set()
        while name in taken:
            name = f"{name}_row{number}"
        names.append(name)
    return names


def _fingerprint(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]


@cache
def _digest(path: Path, size: int, changed: int) -> str:
    """Hash a file; copies elsewhere have the same hash."""
    return file_digest(path)


def _stamp(path: Path) -> str:
    status = path.stat()
    digest = _digest(path.absolute(), status.st_size, status.st_mtime_ns)
    if path.suffix.lower() not in _HEADERS:
        return digest
    # The voxels lie in another file: a new time of writing, of it or of the header, counts as a new image.
    times = (other.stat().st_mtime_ns for other in sorted(path.parent.glob(f"{path.stem}.*")))
    return " ".join([digest, *map(str, times)])


def plan(
    pairs: Sequence[Pair],
    methods: Sequence[Candidate],
    rules: Rules,
    folder: Path,
    *,
    fields: bool = False,
    inverse_consistency: bool = False,
    views: bool = False,
) -> list[Run]:
    """List all registrations of a comparison, in the order of the pairs, then of the methods.

    A pair that comes again, or whose files are missing, gets runs with a problem. With ``inverse_consistency`` the
    swapped pairs are registered too, where they are not in the list.
    """
    names = pair_names(pairs)
    first: dict[tuple[Path, Path], int] = {}
    runs = []
    for number, (name, pair) in enumerate(zip(names, pairs, strict=True), start=1):
        missing = [f"{role} {path}" for role, path in pair.files().items() if not path.is_file()]
        ends = (pair.fixed.absolute(), pair.moving.absolute())
        problem = f"there is no file {', '.join(missing)}" if missing else ""
        if ends in first:
            problem = f"pair {number} is the same as pair {first[ends]}"
        first.setdefault(ends, number)
        runs += [
            _run(name, pair, method, rules, folder, fields or inverse_consistency, problem, views=views)
            for method in methods
        ]
    if inverse_consistency:
        done = {(r.job["pair"]["fixed"], r.job["pair"]["moving"]) for r in runs if r.job}
        for name, pair in zip(names, pairs, strict=True):
            back = pair.swapped()
            if (str(back.fixed), str(back.moving)) in done or not all(p.is_file() for p in pair.files().values()):
                continue
            done.add((str(back.fixed), str(back.moving)))
            runs += [
                _run(f"{name}_swapped", back, method, rules, folder, True, "", listed=False)
                for method in methods
                if method.name != INITIAL
            ]
    return runs


def _run(
    name: str,
    pair: Pair,
    method: Candidate,
    rules: Rules,
    folder: Path,
    keep_field: bool,
    problem: str,
    *,
    listed: bool = True,
    views: bool = False,
) -> Run:
    stamps: dict[str, str] = {}
    if not problem:
        try:
            stamps = {role: _stamp(path) for role, path in pair.files().items()}
        except OSError as error:
            problem = f"{error.filename or name} cannot be read ({error.strerror or error})"
    if problem or method.problem:
        return Run(name, method.name, "", {}, problem or method.problem, skipped=bool(problem), listed=listed)
    # The limits are left out: they do not change a result.
    fingerprint = _fingerprint(
        {
            "files": stamps,
            "method": [method.kind, method.command, method.settings, method.version],
            "rules": [rules.clamp, rules.start, rules.threads],
            "version": __version__,
        }
    )
    key = f"{name}__{method.name}__{fingerprint}"
    job = {
        "key": key,
        "kind": method.kind,
        "pair": {role: str(path) for role, path in pair.files().items()},
        "method": method.name,
        "command": list(method.command),
        "settings": dict(method.settings),
        "rules": asdict(rules),
        "result": str(folder / "runs" / f"{key}.json"),
        "field": str(folder / "fields" / f"{key}.nii.gz") if keep_field and method.kind != "initial" else None,
        "view": str(folder / "views" / f"{key}.npz") if views else None,
        "scratch": str(folder / "work" / key),
        "log": str(folder / "logs" / f"{key}.txt"),
    }
    return Run(name, method.name, key, job, listed=listed)


def load_result(run: Run, folder: Path) -> dict[str, Any] | None:
    """Return the result of a run, None if there is none yet."""
    if run.problem:
        return {**failed(run.problem), "status": "skipped" if run.skipped else "failed"}
    return _read(folder / "runs" / f"{run.key}.json")


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def compare(
    pairs: Sequence[Pair],
    methods: Sequence[Candidate],
    folder: Path,
    *,
    rules: Rules | None = None,
    jobs: int = 1,
    fields: bool = False,
    inverse_consistency: bool = False,
    retry_failed: bool = False,
    views: bool = False,
    program: str = "itk_pdd.evaluation.run",
    progress: Callable[[int, int, Run, Mapping[str, Any]], None] | None = None,
) -> list[tuple[Run, dict[str, Any]]]:
    """Register all pairs by all methods and measure the results; finished registrations are not repeated.

    Parameters
    ----------
    folder : pathlib.Path
        Folder of the results, made if needed.
    rules : Rules, optional
        Rules that hold for all methods, by default those of :class:`Rules`.
    jobs : int
        Registrations at the same time.
    fields, views : bool
        Keep the displacement fields; keep pictures for the report, some megabytes each (runs that are done get none).
    inverse_consistency : bool
        Also measure how far the fields of a pair and of the swapped pair are from being inverse to each other.
    retry_failed : bool
        Repeat registrations that failed in a former call.
    program : str
        Module that does a job, called with its file.
    progress : callable, optional
        Called after each run with the number done, the number of all, the run and its result.

    Returns
    -------
    list of (Run, dict)
        The runs of the listed pairs with their results, in the order of :func:`plan`.
    """
    rules, folder = rules or Rules(), folder.absolute()
    for name in ("runs", "logs", "work", *(["fields"] * (fields or inverse_consistency)), *(["views"] * views)):
        (folder / name).mkdir(parents=True, exist_ok=True)
    runs = plan(pairs, methods, rules, folder, fields=fields, inverse_consistency=inverse_consistency, views=views)
    write_json(_description(methods, rules, jobs), folder / "comparison.json")
    checks = _consistency_jobs(runs, folder) if inverse_consistency else {}
    todo = []
    for run in runs:
        result = load_result(run, folder)
        if result is not None and result["status"] == "failed" and retry_failed and run.job:
            result = None
        settled = run.problem or (result is not None and result["status"] == "failed")
        if result is None or not (settled or _field_there(run, checks, fields, folder)):
            todo.append(run)
    done = len(runs) - len(todo)

    def report(key: str, result: Mapping[str, Any]) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, len(runs), next(run for run in runs if run.key == key), result)

    _execute([run.job for run in todo], folder, jobs, program, report)
    if checks:
        wanted = {job["key"]: job for _, job in checks.values()}
        wanted = {k: j for k, j in wanted.items() if not Path(j["result"]).is_file()}
        wanted = {k: j for k, j in wanted.items() if Path(j["forward"]).is_file() and Path(j["backward"]).is_file()}
        _execute(list(wanted.values()), folder, jobs, program, lambda key, result: None)
        if not fields:
            shutil.rmtree(folder / "fields", ignore_errors=True)
    shutil.rmtree(folder / "work", ignore_errors=True)
    results = []
    for run in runs:
        if not run.listed:
            continue
        result = load_result(run, folder) or failed("the run left no result")
        if run.key in checks:
            check = _read(Path(checks[run.key][1]["result"]))
            if check is not None and check["status"] == "ok":
                result["overall"] |= {"inverse_mean": check["mean"], "inverse_p95": check["p95"]}
        results.append((run, result))
    return results


def _field_there(run: Run, checks: Mapping[str, tuple[Run, dict[str, Any]]], fields: bool, folder: Path) -> bool:
    """Return True if the field of a finished run is there, or is no longer needed."""
    if not run.job["field"] or Path(run.job["field"]).is_file():
        return True
    if fields or run.key not in checks:
        return False
    back, check = checks[run.key]
    result = load_result(back, folder)
    return Path(check["result"]).is_file() or (result is not None and result["status"] == "failed")


def _consistency_jobs(runs: Sequence[Run], folder: Path) -> dict[str, tuple[Run, dict[str, Any]]]:
    """Find for every run of a method the run of the swapped pair, and the job that compares both fields."""
    by_ends = {(r.method, r.job["pair"]["fixed"], r.job["pair"]["moving"]): r for r in runs if r.job and r.job["field"]}
    jobs = {}
    for (method, fixed, moving), run in by_ends.items():
        back = by_ends.get((method, moving, fixed))
        if back is None:
            continue
        key = f"{run.key}__inverse_{_fingerprint([run.key, back.key])}"
        jobs[run.key] = (
            back,
            {
                "key": key,
                "kind": "consistency",
                "forward": run.job["field"],
                "backward": back.job["field"],
                "result": str(folder / "runs" / f"{key}.json"),
                "log": str(folder / "logs" / f"{key}.txt"),
            },
        )
    return jobs


def _execute(
    jobs: Sequence[Mapping[str, Any]], folder: Path, at_once: int, program: str, report: Callable[..., None]
) -> None:
    """Run jobs in processes of their own, ``at_once`` at a time; a process that dies leaves a failed result."""
    waiting = list(jobs)[::-1]
    running: list[tuple[subprocess.Popen, Mapping[str, Any]]] = []
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop()
                file = folder / "work" / f"{job['key']}.json"
                write_json(job, file)
                Path(job["result"]).unlink(missing_ok=True)
                with (folder / "work" / f"{job['key']}.log").open("wb") as stream:
                    command = [sys.executable, "-m", program, str(file)]
                    running.append((program_of_its_own(command, stream), job))
            time.sleep(_POLL)
            for process, job in list(running):
                if process.poll() is None:
                    continue
                running.remove((process, job))
                path = Path(job["result"])
                if not path.is_file():
                    words = (folder / "work" / f"{job['key']}.log").read_text(errors="replace").strip().splitlines()
                    last = words[-1][:500] if words else "no message"
                    reason = f"the process of the comparison ended with code {process.returncode}: {last}"
                    write_json(failed(reason, key=job["key"]), path)
                report(job["key"], _read(path) or {})
    finally:
        for process, _ in running:
            kill_session(process.pid)
            process.wait()


def _description(methods: Sequence[Candidate], rules: Rules, jobs: int) -> dict[str, Any]:
    """Describe methods, rules and machine, for readers of the tables."""
    return {
        "version": __version__,
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "rules": asdict(rules),
        "jobs": jobs,
        "methods": [asdict(method) for method in methods],
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
