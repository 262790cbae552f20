"""Lists of image pairs: CSV files as ``pdd-compare`` reads them and the benchmark data sets."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.io.outputs import whole_file

__all__ = [
    "Pair",
    "abdomen_pairs",
    "data_folder",
    "hippocampus_pairs",
    "lung_pair",
    "read_pairs",
    "read_points",
    "write_pairs",
]


@dataclass(frozen=True)
class Pair:
    """Files of two images to be registered and of what is known about them.

    Parameters
    ----------
    fixed, moving : pathlib.Path
        The images.
    fixed_labels, moving_labels : pathlib.Path, optional
        Label maps for Dice and surface distances.
    fixed_points, moving_points : pathlib.Path, optional
        Corresponding landmarks (see :func:`read_points`); both may name the same file.
    fixed_mask, moving_mask : pathlib.Path, optional
        Regions of interest.
    """

    fixed: Path
    moving: Path
    fixed_labels: Path | None = None
    moving_labels: Path | None = None
    fixed_points: Path | None = None
    moving_points: Path | None = None
    fixed_mask: Path | None = None
    moving_mask: Path | None = None

    @property
    def name(self) -> str:
        """Short name for tables: the file names of the fixed and the moving image without their endings."""
        return f"{_stem(self.fixed)}_{_stem(self.moving)}"

    def files(self) -> dict[str, Path]:
        """The files that are given, by their role."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}

    def swapped(self) -> Pair:
        """The pair with fixed and moving image exchanged."""
        swap = {"fixed": "moving", "moving": "fixed"}
        role = {f.name: f.name.split("_") for f in fields(self)}
        return Pair(**{n: getattr(self, "_".join([swap[r[0]], *r[1:]])) for n, r in role.items()})


def _stem(path: Path) -> str:
    name = path.name
    for ending in (".nii.gz", ".nrrd", ".nhdr", ".nii", ".mha", ".mhd"):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return path.stem


def read_pairs(path: str | os.PathLike) -> list[Pair]:
    """Read a list of pairs from a CSV file.

    The columns are the attributes of :class:`Pair`, in any order; ``fixed`` and ``moving`` are required. Paths are
    relative to the folder of the CSV file. Whether the files exist is not checked here.

    Raises
    ------
    RegistrationError
        If the file is missing or empty, lacks a required column, has one that is unknown, or has an empty cell where a
        file is required.
    """
    path = Path(path)
    known = [f.name for f in fields(Pair)]
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True)
            header = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = header
            rows = list(reader)
    except FileNotFoundError:
        raise RegistrationError(f"list of pairs {path} does not exist; expected a CSV file.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise RegistrationError(f"list of pairs {path} is not a readable CSV file: {error}.") from None
    missing = {"fixed", "moving"} - set(header)
    if missing:
        raise RegistrationError(
            f"list of pairs {path} lacks the column(s) {', '.join(sorted(missing))}, "
            f"found {', '.join(header) or 'none'}."
        )
    unknown = sorted(set(header) - set(known))
    if unknown:
        raise RegistrationError(
            f"list of pairs {path} has unknown column(s) {', '.join(unknown)}, expected some of {', '.join(known)}."
        )
    pairs = []
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise RegistrationError(f"list of pairs {path}, line {number}: expected {len(header)} cells.")
        cells = {name: value.strip() for name, value in row.items()}
        if not cells["fixed"] or not cells["moving"]:
            raise RegistrationError(f"list of pairs {path}, line {number}: fixed and moving must both be given.")
        base = Path(os.path.abspath(path)).parent
        pairs.append(Pair(**{name: Path(os.path.normpath(base / v)) for name, v in cells.items() if v}))
    if not pairs:
        raise RegistrationError(f"list of pairs {path} is empty; expected one row per pair below the header.")
    return pairs


def write_pairs(path: str | os.PathLike, pairs: Iterable[Pair]) -> None:
    """Write a list of pairs that :func:`read_pairs` reads, with paths relative to the CSV file."""
    path = Path(path)
    pairs = list(pairs)
    columns = [f.name for f in fields(Pair) if any(getattr(p, f.name) is not None for p in pairs)]
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        for pair in pairs:
            given = pair.files()
            writer.writerow([os.path.relpath(given[c], path.parent) if c in given else "" for c in columns])


def read_points(path: str | os.PathLike, *, side: str = "fixed") -> np.ndarray:
    """Read landmarks from a CSV file with a header.

    Parameters
    ----------
    path : path
        File with the columns ``x, y, z`` or, where one file holds both sides, ``fixed_x, fixed_y, fixed_z, moving_x,
        moving_y, moving_z`` (without z in two dimensions); other columns are ignored.
    side : {"fixed", "moving"}
        Which points to take from a file that holds both.

    Returns
    -------
    numpy.ndarray
        Physical LPS points (n, dim) in millimetres, components x, y(, z).
    """
    with Path(path).open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream, skipinitialspace=True))
    header = [] if not rows else [name for name in rows[0] if name is not None]
    for prefix in (f"{side}_", ""):
        columns = [prefix + axis for axis in "xyz" if prefix + axis in header]
        if columns[:2] == [prefix + "x", prefix + "y"]:
            try:
                points = np.array([[float(row[c]) for c in columns] for row in rows])
            except (TypeError, ValueError) as error:
                raise RegistrationError(f"landmarks {path}: {error}; expected numbers in {columns}.") from None
            if not np.isfinite(points).all():
                raise RegistrationError(f"landmarks {path}: expected finite numbers in {', '.join(columns)}.")
            return points
    raise RegistrationError(
        f"landmarks {path} must have the columns x, y(, z) or {side}_x, {side}_y(, {side}_z) and at least one row, "
        f"found {', '.join(header) or 'nothing'}."
    )


def data_folder() -> Path:
    """Folder of the benchmark data: the environment variable ``ITK_PDD_DATA``, or ``../shared/data`` of the repository.

    Raises
    ------
    RegistrationError
        If there is no such folder.
    """
    named = os.environ.get("ITK_PDD_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2].parent / "shared" / "data"
    if not (folder / "splits.json").is_file():
        raise RegistrationError(
            f"no benchmark data in {folder} (no splits.json there); name their folder in the environment variable "
            "ITK_PDD_DATA."
        )
    return folder


def _members(folder: Path, dataset: str, split: str) -> list[str]:
    splits = json.loads((folder / "splits.json").read_text())[dataset]
    if split not in splits:
        raise RegistrationError(f"split must be one of {', '.join(splits)}, found {split!r}.")
    return splits[split]


def _chosen(members: list[str], count: int | None, seed: int) -> list[tuple[str, str]]:
    """All ordered pairs, or ``count`` of them in an order that depends on nothing but names and seed."""
    pairs = list(itertools.permutations(members, 2))
    if count is None:
        return pairs
    if not 0 < count <= len(pairs):
        raise RegistrationError(f"count must be between 1 and {len(pairs)}, found {count}.")
    return sorted(pairs, key=lambda p: hashlib.sha256(f"{seed}/{p[0]}/{p[1]}".encode()).digest())[:count]


def abdomen_pairs(split: str = "validation", count: int | None = None, seed: int = 0) -> list[Pair]:
    """Ordered pairs of different patients of the abdominal CT data: all (12 in validation) or ``count`` of them."""
    folder = data_folder()
    base = folder / "abdomen_ct"
    return [
        Pair(
            *[base / f"image_{n}.nii.gz" for n in pair],
            *[base / f"label_{n}.nii.gz" for n in pair],
        )
        for pair in _chosen(_members(folder, "abdomen_ct", split), count, seed)
    ]


def hippocampus_pairs(split: str = "validation", count: int | None = 20, seed: int = 0) -> list[Pair]:
    """``count`` ordered pairs of different subjects of the hippocampus MR data, the same ones for the same seed."""
    folder = data_folder()
    base = folder / "hippocampus_mr"
    return [
        Pair(
            *[base / "images" / f"{n}.nii.gz" for n in pair],
            *[base / "labels" / f"{n}.nii.gz" for n in pair],
        )
        for pair in _chosen(_members(folder, "hippocampus_mr", split), count, seed)
    ]


def lung_pair() -> Pair:
    """The baseline (fixed) and follow-up (moving) CT of one lung, with landmarks and lung masks."""
    base = data_folder() / "lung_ct"
    return Pair(
        fixed=base / "3DCT_lung_baseline.mha",
        moving=base / "3DCT_lung_followup.mha",
        fixed_points=base / "landmarks.csv",
        moving_points=base / "landmarks.csv",
        fixed_mask=base / "3DCT_lung_baseline_mask.mha",
        moving_mask=base / "3DCT_lung_followup_mask.mha",
    )
