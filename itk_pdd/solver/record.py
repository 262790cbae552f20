"""Record a registration: what was registered by what, with which options, and what came of it."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from itk_pdd._version import __version__
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.digests import file_digest
from itk_pdd.io.outputs import write_bytes
from itk_pdd.io.volume import Volume
from itk_pdd.solver.problem import Problem, Result

__all__ = ["file_name", "peak_memory", "record", "without_folders", "write_record"]

_LIBRARIES = ("torch", "itk", "SimpleITK", "scipy", "numpy")
_NETWORK_FILES = ("card.json", "weights.safetensors")


def record(
    problem: Problem,
    result: Result,
    inputs: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    command: Sequence[str] | None = None,
    outputs: Mapping[str, Any] | None = None,
    warnings: Sequence[str] | None = None,
    overlap: Mapping[str, Any] | None = None,
    paths: bool = False,
) -> dict[str, Any]:
    """Describe a registration by what JSON can hold.

    ``inputs`` are names with what was given: a path, an image, a transform, or a list of these; None is left out.
    ``warnings`` are by default those of ``result``; ``overlap`` is :meth:`itk_pdd.evaluation.overlap.Overlap.to_dict`.
    With ``paths`` the folders of file names are kept, which may name a patient or a user.

    Returns ``date`` (UTC), ``versions``, ``command``, ``options``, ``model`` with checksums, ``inputs`` with SHA-256
    and geometry, ``outputs``, ``seconds``, ``peak_memory_bytes``, ``verdict`` with its figures, ``dice``, ``warnings``.
    """

    def shown(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [shown(each) for each in value]
        if isinstance(value, str | os.PathLike):
            return os.fspath(value) if paths else file_name(value)
        return value if isinstance(value, bool | int | float | None) else type(value).__name__

    volumes = {
        "fixed": problem.fixed_channels, "moving": problem.moving_channels,
        "fixed_mask": [problem.fixed_mask], "moving_mask": [problem.moving_mask],
        **_labels(problem),
    }  # fmt: skip
    given = {name: value for name, value in inputs.items() if value is not None}
    told = result.warnings if warnings is None else warnings
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": _versions(),
        "command": None if command is None else [shown(word) for word in command],
        "options": {name: shown(value) for name, value in options.items()},
        "model": _model(result.model),
        "inputs": {
            name: {"name": shown(value), **_checksum(value, volumes.get(name, ())), **_geometry(volumes.get(name, ()))}
            for name, value in given.items()
        },
        "outputs": {name: shown(value) for name, value in (outputs or {}).items()},
        "working_grid": _grid(result.working_grid),
        "seconds": round(result.seconds, 3),
        "peak_memory_bytes": peak_memory(),
        "verdict": None if result.verdict is None else result.verdict.to_dict(),
        "dice": result.overlap.to_dict() if overlap is None and result.overlap is not None else overlap,
        "landmarks": [
            {
                "name": each.name,
                "before_mm": round(each.before, 4),
                "after_mm": round(each.after, 4),
                "obeyed": not each.ignored,
                "reason": each.ignored,
            }
            for each in result.landmarks
        ],
        "uncertainty": None if result.uncertainty is None else result.uncertainty.headline,
        "warnings": [message if paths else without_folders(message, given.values()) for message in told],
    }


def _labels(problem: Problem) -> dict[str, Sequence[Volume]]:
    """The label maps that guide, for their checksums."""
    labels = None if problem.guidance is None else problem.guidance.labels
    return {} if labels is None else {"fixed_labels": labels.fixed.volumes, "moving_labels": labels.moving.volumes}


def write_record(content: Mapping[str, Any], path: Path) -> None:
    """Write a record to a file; OutputError if it is cut short."""
    write_bytes(path, (json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n").encode())


def file_name(text: str | os.PathLike[str]) -> str:
    """Leave the folders out of a path, an option's value ``--x=path`` or ANTs' ``[path,1]``."""
    if isinstance(text, os.PathLike) or os.path.exists(text):
        return Path(text).name
    return re.sub(r"[^\[\],=]*[/\\]+(?=[^/\\])", "", text.rstrip("/\\"))


def without_folders(message: str, inputs: Iterable[Any]) -> str:
    """Leave the folders of the inputs, and of any other path without blanks, out of a message."""
    for value in inputs:
        for path in value if isinstance(value, list | tuple) else [value]:
            if isinstance(path, str | os.PathLike):
                message = message.replace(os.fspath(path), Path(path).name)
    return re.sub(r"[^\s\[\],=;'\"]*[/\\]+(?=[^\s/\\])", "", message)


def peak_memory() -> int | None:
    """Return the most memory that this process has held, in bytes; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return getattr(psutil.Process().memory_info(), "peak_wset", None)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _versions() -> dict[str, str]:
    found = {"itk_pdd": __version__, "python": platform.python_version(), "system": platform.platform(terse=True)}
    for name in _LIBRARIES:
        if name in sys.modules:
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                found[name] = str(getattr(sys.modules[name], "__version__", "unknown"))
    return found


def _model(model: Any) -> dict[str, Any]:
    """Name a model with the checksums of its settings and of its weights."""
    found: dict[str, Any] = {"name": model.name}
    folders = {role: getattr(model, role, None) for role in ("network", "descriptor")}
    if dataclasses.is_dataclass(model):
        fields = {f.name: getattr(model, f.name) for f in dataclasses.fields(model) if f.name not in folders}
        found["settings_sha256"] = hashlib.sha256(repr(fields).encode()).hexdigest()
    for role, folder in folders.items():
        if isinstance(folder, str):
            found[role] = {
                name: file_digest(path) for name in _NETWORK_FILES if (path := Path(folder) / name).is_file()
            }  # fmt: skip
        elif folder is not None and hasattr(folder, "state_dict"):
            tensors = folder.state_dict()
            total = hashlib.sha256()
            for name in sorted(tensors):
                total.update(name.encode() + np.ascontiguousarray(tensors[name].cpu().numpy()).tobytes())
            found[role] = {"weights": total.hexdigest()}
    return found


def _checksum(value: Any, volumes: Sequence[Volume | None]) -> dict[str, Any]:
    """Hash the file, each of several files, or else the voxels."""
    values = value if isinstance(value, list | tuple) else [value]
    files = [Path(each) for each in values if isinstance(each, str | os.PathLike)]
    if files and len(files) == len(values) and all(path.is_file() for path in files):
        digests = [file_digest(path) for path in files]
        return {"sha256": digests[0] if len(digests) == 1 else digests, "sha256_of": "file"}
    total = hashlib.sha256()
    for volume in volumes:
        if volume is not None:
            total.update(np.ascontiguousarray(volume.array).tobytes())
    return {"sha256": total.hexdigest(), "sha256_of": "voxels"} if any(v is not None for v in volumes) else {}


def _geometry(volumes: Sequence[Volume | None]) -> dict[str, Any]:
    first = next((volume for volume in volumes if volume is not None), None)
    if first is None:
        return {}
    return {**_grid(first.grid), "channels": len(volumes), "pixel_type": str(first.array.dtype)}


def _grid(grid: Grid) -> dict[str, Any]:
    direction = np.asarray(grid.direction, float).tolist()
    values = {"size": grid.size, "spacing": grid.spacing, "origin": grid.origin}
    return {**{name: np.asarray(value).tolist() for name, value in values.items()}, "direction": direction}
