"""Do one registration of a comparison, in a process of its own: ``python -m itk_pdd.evaluation.run JOB.json``.

Prepares the images by the common rules, runs the method under its limits, measures the result, and writes one JSON
file, whole or not at all. An error becomes a result with its message.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.evaluation import warping
from itk_pdd.evaluation.baselines import Task, run_method
from itk_pdd.evaluation.datasets import Pair
from itk_pdd.evaluation.process import Outcome, run_limited
from itk_pdd.evaluation.scoring import Case, load_case, score
from itk_pdd.evaluation.verdict import Rivals, judge
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.mapping import AffineMapping
from itk_pdd.io.fields import read_field, write_field
from itk_pdd.io.files import write_image
from itk_pdd.io.outputs import whole_file
from itk_pdd.io.volume import Volume

__all__ = ["Rules", "failed", "fill_template", "main", "perform", "write_json"]

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)
_FILES = ("fixed", "moving", "field", "folder", "fixed_labels", "moving_labels", "fixed_points", "moving_points")
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Rules:
    """Rules that hold for all methods alike."""

    clamp: tuple[float, float] | None = None  # intensities are clamped to this range before registration
    # "none", "centre": ``centre`` shifts the moving image before registration so that the centres of both grids
    # coincide; the shift becomes part of the field that is measured
    start: str = "none"
    threads: int = 1  # threads of each method
    time_limit: float | None = None  # seconds of wall time for each registration
    memory_limit: float | None = None  # GiB of memory for each registration


def write_json(content: Any, path: Path) -> None:
    """Write a JSON file, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def failed(reason: str, **more: Any) -> dict[str, Any]:
    """Make the result of a run that failed."""
    return {"status": "failed", "reason": reason, **more}


def fill_template(template: Sequence[str], values: Mapping[str, Any]) -> list[str]:
    """Replace every ``{name}`` in the words of a command; a file name with blanks stays one word."""

    def replaced(match: re.Match[str]) -> str:
        if values.get(match[1]) is None:
            raise RegistrationError(f"command asks for {match[0]}, which this pair does not have.")
        return str(values[match[1]])

    return [_PLACEHOLDER.sub(replaced, word) for word in template]


def perform(job: Mapping[str, Any], rivals: Callable[..., Rivals] | None = None) -> dict[str, Any]:
    """Do a job (see :func:`itk_pdd.evaluation.compare.plan`) and return its result.

    ``rivals`` registers the pair again where the result is in doubt: called with the case, the start and the threads.
    """
    pair = Pair(**{role: Path(path) for role, path in job["pair"].items()})
    rules = Rules(**job["rules"])
    scratch = Path(job["scratch"])
    shutil.rmtree(scratch, ignore_errors=True)  # left by a run that was killed
    scratch.mkdir(parents=True)
    try:
        case = load_case(pair)
        shift = case.moving.grid.centre - case.fixed.grid.centre if rules.start == "centre" else None
        measured: dict[str, Any] = {}
        if job["kind"] == "initial":
            field = DisplacementField.zeros(case.fixed.grid)
        else:
            outcome = _register(job, case, rules, shift, scratch)
            measured = {"seconds": outcome.seconds, "cpu_seconds": outcome.cpu_seconds, "memory": outcome.peak_memory}
            if outcome.reason is not None:
                return failed(outcome.reason, **measured)
            field = _bring_home(scratch / "field.nii", case.fixed.grid)
        if shift is not None:
            field = DisplacementField((field.vectors + shift).astype(np.float32), field.grid)
        found = score(case, field)
        if job["kind"] != "initial":
            start = None if shift is None else AffineMapping.translation(shift)
            measured["verdict"] = judge(
                (case.fixed,), (case.moving,), field, initial=start, fixed_mask=case.fixed_mask,
                moving_mask=case.moving_mask,
                rivals=None if rivals is None else lambda: rivals(case, start, rules.threads),
            ).to_dict()  # fmt: skip
        if job.get("field"):
            write_field(field, job["field"])
        if job.get("view"):
            _keep_view(case, field, Path(job["view"]))
        return {"status": "ok", "reason": "", **asdict(found), **measured}
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _keep_view(case: Case, field: DisplacementField, path: Path) -> None:
    """Keep small pictures of the result for the report."""
    from itk_pdd.views.display import moved_view, save_view
    from itk_pdd.views.picture import grey_limits

    labels = None if case.moving_labels is None else warping.warp_labels(case.moving_labels, field)
    limits = grey_limits(case.moving.array)
    save_view(moved_view(warping.warp_image(case.moving, field), field, limits=limits, labels=labels), path)


def _register(job: Mapping[str, Any], case: Case, rules: Rules, shift: np.ndarray | None, scratch: Path) -> Outcome:
    files = _prepare(case, rules, shift, scratch)
    values = {**files, "field": scratch / "field.nii", "threads": rules.threads, "folder": scratch}
    if job["kind"] == "baseline":
        task = {"method": job["method"], "settings": job["settings"], "threads": rules.threads}
        write_json({**task, **{k: str(values[k]) for k in _FILES if k in values}}, scratch / "task.json")
        command = [sys.executable, "-m", "itk_pdd.evaluation.run", "--baseline", str(scratch / "task.json")]
    else:
        command = fill_template(job["command"], values)
    return run_limited(
        command,
        log=Path(job["log"]),
        # A command template may name files relative to the folder in which the comparison was started.
        folder=scratch if job["kind"] == "baseline" else None,
        environment=dict.fromkeys(THREAD_VARIABLES, str(rules.threads)),
        time_limit=rules.time_limit,
        memory_limit=None if rules.memory_limit is None else int(rules.memory_limit * 2**30),
    )


def _prepare(case: Case, rules: Rules, shift: np.ndarray | None, scratch: Path) -> dict[str, Path]:
    """Write what the method is given: float NIfTI, clamped, labels, points as CSV; the moving ones shifted."""
    written = {}
    for name in ("fixed", "moving", "fixed_mask", "moving_mask", "fixed_labels", "moving_labels"):
        volume = getattr(case, name)
        if volume is None:
            continue
        array, grid = volume.array, volume.grid
        if name.endswith("mask"):
            array = (array > 0).astype(np.uint8)
        elif not name.endswith("labels"):
            array = array.astype(np.float32)
            if rules.clamp is not None:
                array = np.clip(array, *rules.clamp)
        if shift is not None and name.startswith("moving"):
            grid = Grid.create(grid.size, grid.spacing, np.asarray(grid.origin) - shift, np.asarray(grid.direction))
        written[name] = scratch / f"{name}.nii"
        write_image(Volume(array, grid).to_simpleitk(), written[name])
    for name in ("fixed_points", "moving_points"):
        points = getattr(case, name)
        if points is not None:
            points = points - shift if shift is not None and name.startswith("moving") else points
            written[name] = scratch / f"{name}.csv"
            header = ",".join("xyz"[: points.shape[1]])
            np.savetxt(written[name], points, fmt="%.9g", delimiter=",", header=header, comments="")
    return written


def _bring_home(path: Path, grid: Grid) -> DisplacementField:
    """Read the field that a method has written, on the grid of the fixed image."""
    if not path.is_file():
        raise RegistrationError("the method ended without an error, but wrote no field.")
    field = read_field(path)
    if field.grid.dimension != grid.dimension:
        raise RegistrationError(f"the method wrote a field on {field.grid}, the fixed image has {grid}.")
    return warping.onto_grid(field, grid)


def _consistency(job: Mapping[str, Any]) -> dict[str, Any]:
    """Measure the inverse consistency of the fields of a pair and of the swapped pair."""
    errors = warping.inverse_consistency_error(read_field(job["forward"]), read_field(job["backward"]))
    known = errors[np.isfinite(errors)]
    if not known.size:
        return failed("the field leads nowhere into the moving image")
    return {"status": "ok", "reason": "", "mean": float(known.mean()), "p95": float(np.percentile(known, 95))}


def _clean(value: Any) -> Any:
    """Replace NaN, which JSON does not have, by None."""
    if isinstance(value, dict):
        return {str(k): _clean(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _baseline(path: Path) -> None:
    task = json.loads(path.read_text(encoding="utf-8"))
    method = task.pop("method")
    files = {name: Path(task.pop(name)) for name in _FILES if name in task}
    try:
        run_method(method, Task(**files, **task))
    except Exception as error:
        import traceback

        traceback.print_exc()
        # The last line is what the table shows.
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")


def main(arguments: Sequence[str] | None = None, rivals: Callable[..., Rivals] | None = None) -> None:
    """Run one job, or, inside it, one baseline; ``rivals`` as for :func:`perform`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[0] == "--baseline":
        _baseline(Path(arguments[1]))
        return
    job = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    try:
        result = _consistency(job) if job["kind"] == "consistency" else perform(job, rivals)
    except MemoryError:
        result = failed("out of memory while measuring the result")
    except Exception as error:
        result = failed(f"{'' if isinstance(error, RegistrationError) else type(error).__name__ + ': '}{error}")
    write_json(_clean({**result, "key": job["key"]}), Path(job["result"]))


if __name__ == "__main__":
    main()
