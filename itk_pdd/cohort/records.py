"""The record of each pair of a cohort: what it was made of, and whether that is still the same."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from itk_pdd._version import __version__
from itk_pdd.cohort.listing import Item
from itk_pdd.io.digests import file_digest
from itk_pdd.io.outputs import whole_file, write_bytes

__all__ = ["DONE", "FAILED", "RECORDS", "VIEWS", "WORK", "changed", "key_of", "read_record", "stamp_of", "write_record"]

DONE, FAILED = "done", "failed"
RECORDS, VIEWS, WORK = "records", "views", ".work"
"""Folders of the results: one JSON file and one picture for each pair, and what is in work."""

_TWO_FILES = (".mhd", ".nhdr", ".hdr")
_MODEL_FILES = ("card.json", "weights.safetensors")


def key_of(item: Item, options: Mapping[str, Any], outputs: list[str]) -> str:
    """Hash what a result depends on beside the content of its input files: options, model, version and the outputs.

    The number of threads and the memory are no part of it, as they do not change the result.
    """
    model = item.model or options.get("model")
    content = {
        "version": __version__,
        "roles": {role: len(paths) for role, paths in sorted(item.paths().items())},
        "inverted": [str(each).startswith("[") for each in _as_list(item.files.get("initial_transform"))],
        "options": {
            name: value for name, value in sorted(options.items()) if name not in ("threads", "memory", "model")
        },
        "model": model if model is None or not Path(str(model)).is_dir() else _model_digests(Path(str(model))),
        "outputs": {name: item.target(name) for name in sorted(outputs)},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def stamp_of(path: Path) -> list[int]:
    """Return what changes when a file is written again: its size and time, of the files of a folder together."""
    if path.is_dir():
        found = [each.stat() for each in sorted(path.rglob("*")) if each.is_file()]
    elif path.suffix.lower() in _TWO_FILES:
        found = [each.stat() for each in sorted(path.parent.glob(f"{glob_safe(path.stem)}.*"))]
    else:
        found = [path.stat()]
    return [len(found), sum(each.st_size for each in found), max((each.st_mtime_ns for each in found), default=0)]


def glob_safe(name: str) -> str:
    """Escape the wildcards of a file name."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def changed(record: Mapping[str, Any], item: Item, key: str, folder: Path) -> str:
    """Say why a result has to be made again; empty if it need not.

    Input files of the size and time in the record are taken for unchanged; else their content decides.
    """
    if record.get("status") != DONE:
        return "it was not done"
    if record.get("key") != key:
        return "options, model, version or outputs are others"
    for name, (path, size) in record.get("files", {}).items():
        try:
            found = (folder / path).stat().st_size
        except OSError:
            return f"its {name} is not there"
        if found != size:
            return f"its {name} has {found} bytes instead of {size}"
    stamps = record.get("stamps", {})
    for role, paths in item.paths().items():
        known = stamps.get(role, [])
        if len(known) != len(paths):
            return f"{role} is another"
        for path, (stamp, digest) in zip(paths, known, strict=True):
            try:
                if stamp_of(path) != stamp and (digest is None or digest_of(path) != digest):
                    return f"{role} has changed"
            except OSError:
                return f"{role} cannot be read"
    return ""


def digest_of(path: Path) -> str | None:
    """Hash a file; None for a folder and for a header, whose voxels lie in another file."""
    if path.is_dir() or path.suffix.lower() in _TWO_FILES:
        return None
    return file_digest(path)


def read_record(folder: Path, name: str) -> dict[str, Any] | None:
    """Read the record of a pair; None if there is none, or none that can be read."""
    try:
        found = json.loads((folder / RECORDS / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_record(folder: Path, name: str, content: Mapping[str, Any]) -> None:
    """Write the record of a pair, whole or not at all; OSError if it cannot be written."""
    text = json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n"
    with whole_file(folder / RECORDS / f"{name}.json") as temporary:
        write_bytes(temporary, text.encode())


def _model_digests(folder: Path) -> list[str | None]:
    return [digest_of(folder / name) for name in _MODEL_FILES if (folder / name).is_file()]


def _as_list(value: Any) -> list[str]:
    listed = [] if value is None else value if isinstance(value, list | tuple) else [value]
    return [os.fspath(each) for each in listed]
