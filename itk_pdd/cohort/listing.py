"""Lists of the pairs of a cohort: from a CSV file, from file names with wildcards, or from rows in Python."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from itk_pdd.errors import RegistrationError
from itk_pdd.evaluation.datasets import read_table, stem

__all__ = ["COLUMNS", "FILES", "OUTPUTS", "Item", "distinct_names", "items_of_files", "items_of_rows", "read_items"]

FILES = (
    "fixed", "moving", "fixed_mask", "moving_mask", "initial_transform", "moving_labels", "fixed_labels",
    "fixed_points", "moving_points",
)  # fmt: skip
"""Roles of the input files of a pair."""
COLUMNS = ("name", *FILES, "model")
"""Columns of a list of pairs."""
OUTPUTS = {
    "field": "field.nii.gz",
    "warped": "warped.nii.gz",
    "labels": "labels.nii.gz",
    "transform": "transform.h5",
    "inverse": "inverse.nii.gz",
    "uncertainty": "uncertainty.nii.gz",
    "report": "report.html",
}
"""Outputs of a pair with their file names."""

_NAME = re.compile(r"[\w][\w.+-]*", re.ASCII)


@dataclass(frozen=True)
class Item:
    """One pair of a cohort."""

    name: str  # names its results; the letters, digits and ``. + - _`` of a file name
    files: Mapping[str, Any]  # paths by their roles (:data:`FILES`); a list of them for several initial transforms
    model: str | None = None  # model of this pair; by default that of the cohort
    problem: str = ""  # why it cannot be registered; empty if it can
    # paths of its outputs, relative to the folder of the results; by default :data:`OUTPUTS` in a folder of its name
    targets: Mapping[str, str] = field(default_factory=dict)

    def target(self, output: str) -> str:
        """Return the path of an output, relative to the folder of the results."""
        return self.targets.get(output) or f"{self.name}/{OUTPUTS[output]}"

    def paths(self) -> dict[str, list[Path]]:
        """Return the input files by their roles, without ANTs' ``[path,1]`` around them."""
        return {
            role: [Path(re.sub(r"^\[(.*),\s*[01]\]$", r"\1", os.fspath(each))) for each in _listed(value)]
            for role, value in self.files.items()
        }

    def missing(self) -> str:
        """Name the input files that are not there; empty if all are."""
        gone = [f"{role} {path}" for role, paths in self.paths().items() for path in paths if not path.exists()]
        return f"there is no file {', '.join(gone)}" if gone else ""


def read_items(path: str | os.PathLike[str]) -> list[Item]:
    """Read a list of pairs from a CSV file; a row that cannot be used becomes an item with a problem.

    ``fixed`` and ``moving`` are required among the :data:`COLUMNS`. Paths are relative to the folder of the CSV file.
    Several initial transforms are separated by ``;``, in ANTs' order.
    """
    base = Path(os.path.abspath(path)).parent
    rows = []
    for line, cells in read_table(path, COLUMNS, required=("fixed", "moving")):
        row: dict[str, Any] = {name: value for name, value in cells.items() if value}
        for role in set(FILES) & set(row):
            parts = [
                _resolved(part.strip(), base) for part in row[role].split(";" if role == "initial_transform" else "\0")
            ]
            row[role] = parts[0] if len(parts) == 1 else parts
        if "model" in row and (base / row["model"]).is_dir():
            row["model"] = os.path.normpath(base / row["model"])
        rows.append((f"line {line}", row))
    return _items(rows)


def items_of_rows(rows: Iterable[Mapping[str, Any] | Sequence[Any]]) -> list[Item]:
    """Make items of mappings from :data:`COLUMNS` to paths, or of pairs ``(fixed, moving)``."""
    found = []
    for number, row in enumerate(rows, start=1):
        given = dict(row) if isinstance(row, Mapping) else dict(zip(("fixed", "moving"), row, strict=True))
        unknown = sorted(set(given) - set(COLUMNS))
        if unknown:
            raise RegistrationError(
                f"pairs[{number - 1}] has unknown column(s) {', '.join(unknown)}, expected some of {', '.join(COLUMNS)}"
            )
        here = Path.cwd()
        for role in set(FILES) & set(given):
            parts = [_resolved(os.fspath(each), here) for each in _listed(given[role])]
            given[role] = parts if isinstance(given[role], list | tuple) else parts[0]
        found.append((f"row {number}", {name: value for name, value in given.items() if value is not None}))
    return _items(found)


def items_of_files(fixed: str | os.PathLike[str], moving: str | Sequence[str | os.PathLike[str]]) -> list[Item]:
    """Make an item for each moving image, of a list or a pattern with ``*``, ``?`` or ``**``, to one fixed image."""
    if isinstance(moving, str) and glob.has_magic(moving) and not os.path.exists(moving):
        found = sorted(glob.glob(moving, recursive=True))
        if not found:
            raise RegistrationError(f"moving is {moving!r}, which matches no file")
    else:
        found = [os.fspath(each) for each in ([moving] if isinstance(moving, str | os.PathLike) else moving)]
    return items_of_rows(
        {"fixed": fixed, "moving": each} for each in found if os.path.abspath(each) != os.path.abspath(fixed)
    )


def _items(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Item]:
    """Name the pairs, and note what is wrong with a row."""
    one_fixed = len({str(row.get("fixed")) for _, row in rows}) == 1
    ends = ("moving",) if one_fixed else ("fixed", "moving")
    short = {end: distinct_names([str(row.get(end, "")) for _, row in rows]) for end in ends}
    seen: dict[str, str] = {}
    items = []
    for number, (where, row) in enumerate(rows):
        name = str(row.get("name") or "_".join(short[end][number] for end in ends))
        files = {role: row[role] for role in FILES if role in row}
        lacking = [role for role in ("fixed", "moving") if not row.get(role)]
        problem = f"{where} has no {' and no '.join(lacking)}" if lacking else ""
        if not _NAME.fullmatch(name):
            name, wrong = _safe(name), name
            if not problem and row.get("name"):
                problem = f"{where} has the name {wrong!r}, expected letters, digits and . + - _ alone"
        if name.casefold() in seen:
            # Disks of some systems know no capitals.
            problem = problem or f"{where} has the name {name!r} of {seen[name.casefold()]}: give another"
            name = f"{name}__{where.replace(' ', '')}"
        seen[name.casefold()] = where
        items.append(Item(name, files, row.get("model"), problem))
    return items


def distinct_names(paths: Sequence[str]) -> list[str]:
    """Name files shortly: without folders where these names differ, else with the folders in which they differ."""
    names = [_safe(stem(Path(path))) for path in paths]
    different = {path: name for path, name in zip(paths, names, strict=True)}
    if len({name.casefold() for name in different.values()}) == len(different) or len(different) < 2:
        return names
    base = os.path.commonpath([os.path.dirname(path) for path in different])
    return [_safe("_".join((*Path(os.path.relpath(path, base)).parent.parts, stem(Path(path))))) for path in paths]


def _safe(name: str) -> str:
    return re.sub(r"[^\w.+-]", "_", name, flags=re.ASCII).lstrip(".+-") or "_"


def _resolved(path: str, base: Path) -> str:
    """Make a path absolute, inside of ANTs' ``[path,1]`` as well."""
    inverted = re.fullmatch(r"\[(.*)(,\s*[01])\]", path)
    if inverted:
        return f"[{os.path.normpath(base / inverted[1])}{inverted[2]}]"
    return os.path.normpath(base / path)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
