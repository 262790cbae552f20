"""Lists of image pairs: CSV files for ``pdd-compare``, and the benchmark data sets."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.io import points
from itk_pdd.io.outputs import whole_file

__all__ = [
    "Pair",
    "abdomen_pairs",
    "data_folder",
    "hippocampus_pairs",
    "lung_pair",
    "read_pairs",
    "read_points",
    "read_table",
    "stem",
    "write_pairs",
]


@dataclass(frozen=True)
class Pair:
    """Files of two images to be registered, and of their labels, landmarks and masks."""

    fixed: Path
    moving: Path
    # label maps for Dice and surface distances
    fixed_labels: Path | None = None
    moving_labels: Path | None = None
    # corresponding landmarks (see :func:`read_points`); both may name the same file
    fixed_points: Path | None = None
    moving_points: Path | None = None
    # regions of interest
    fixed_mask: Path | None = None
    moving_mask: Path | None = None

    @property
    def name(self) -> str:
        """A short name for tables: the file names of the fixed and the moving image without their endings."""
        return f"{stem(self.fixed)}_{stem(self.moving)}"

    def files(self) -> dict[str, Path]:
        """Return the files that are given, by their role."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}

    def swapped(self) -> Pair:
        """Return the pair with fixed and moving image exchanged."""
        swap = {"fixed": "moving", "moving": "fixed"}
        role = {f.name: f.name.split("_") for f in fields(self)}
        return Pair(**{n: getattr(self, "_".join([swap[r[0]], *r[1:]])) for n, r in role.items()})


def stem(path: Path) -> str:
    """Return the name of an image file without its ending."""
    name = path.name
    for ending in (".nii.gz", ".nrrd", ".nhdr", ".nii", ".mha", ".mhd"):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return path.stem


def read_pairs(path: str | os.PathLike) -> list[Pair]:
    """Read a list of pairs from a CSV file.

    The columns are the attributes of :class:`Pair`, in any order; ``fixed`` and ``moving`` are required. Paths are
    relative to the folder of the CSV file. The files need not exist.
    """
    base = Path(os.path.abspath(path)).parent
    pairs = []
    for number, cells in read_table(path, [f.name for f in fields(Pair)], required=("fixed", "moving")):
        if not cells["fixed"] or not cells["moving"]:
            raise RegistrationError(f"list of pairs {path}, line {number}: fixed and moving must both be given.")
        pairs.append(Pair(**{name: Path(os.path.normpath(base / v)) for name, v in cells.items() if v}))
    return pairs


def read_table(
    path: str | os.PathLike, known: Sequence[str], *, required: Sequence[str], what: str = "list of pairs"
) -> list[tuple[int, dict[str, str]]]:
    """Read the rows of a CSV file in UTF-8 with a header: the numbers of their lines, and the cells by their columns.

    Blanks around the cells are left out. A file without the ``required`` columns, or with others than ``known``, is
    refused.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True)
            header = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = header
            rows = list(reader)
    except FileNotFoundError:
        raise RegistrationError(f"{what} {path} does not exist; expected a CSV file.") from None
    except OSError as error:
        raise RegistrationError(f"{what} {path} cannot be read ({error.strerror or error}).") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise RegistrationError(f"{what} {path} is not a readable CSV file: {error}.") from None
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise RegistrationError(f"{what} {path} has the column(s) {', '.join(twice)} twice: keep one of each.")
    missing = set(required) - set(header)
    if missing:
        raise RegistrationError(
            f"{what} {path} lacks the column(s) {', '.join(sorted(missing))}, found {', '.join(header) or 'none'}."
        )
    unknown = sorted(set(header) - set(known))
    if unknown:
        raise RegistrationError(
            f"{what} {path} has unknown column(s) {', '.join(unknown)}, expected some of {', '.join(known)}."
        )
    found = []
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise RegistrationError(f"{what} {path}, line {number}: expected {len(header)} cells.")
        found.append((number, {name: value.strip() for name, value in row.items()}))
    if not found:
        raise RegistrationError(f"{what} {path} is empty; expected one row per pair below the header.")
    return found


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


def read_points(path: str | os.PathLike, *, side: str = "fixed", dimension: int | None = None) -> np.ndarray:
    """Read the landmarks of one image: physical LPS points (n, dim) in millimetres, components x, y(, z).

    Parameters
    ----------
    path : path
        A file of points as :func:`itk_pdd.io.points.read_points` reads it (CSV in LPS millimetres, 3D Slicer's
        ``.fcsv`` and ``.mrk.json``, meshes), or a CSV file of both images with the columns ``fixed_x, fixed_y,
        fixed_z, moving_x, moving_y, moving_z`` (without z in two dimensions); other columns are ignored.
    side : {"fixed", "moving"}
        The image whose points are taken from a file of both.
    dimension : int, optional
        Number of coordinates; by default 2 for a CSV file without a third coordinate, else 3.
    """
    path, name = Path(path), f"{side}_points"
    if path.suffix.lower() == ".csv":
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
            header = [cell.strip().lower() for cell in next(csv.reader(stream), [])]
        columns = [f"{side}_{axis}" for axis in "xyz" if f"{side}_{axis}" in header]
        if columns[:2] == [f"{side}_x", f"{side}_y"]:
            return _points_of_both(path, columns, name)
        words = header and not re.fullmatch(r"[-+.\deE]+", header[0]) and not {"x", "y"} <= set(header)
        if words:
            raise RegistrationError(
                f"{name}: {path} has the columns {', '.join(header)}, expected the columns x, y(, z) or "
                f"{side}_x, {side}_y(, {side}_z)"
            )
        dimension = dimension or (2 if "z" not in header and ("x" in header or len(header) == 2) else 3)
    return points.read_points(path, dimension=dimension or 3, name=name).points


def _points_of_both(path: Path, columns: Sequence[str], name: str) -> np.ndarray:
    """Read the points of one image from a table of both."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True)
            reader.fieldnames = [field.strip().lower() for field in reader.fieldnames or []]
            found = np.array([[float(row[c]) for c in columns] for row in reader]).reshape(-1, len(columns))
    except (TypeError, ValueError, csv.Error) as error:
        raise RegistrationError(f"{name}: {path} is no table with numbers in {columns}: {error}") from None
    if not found.size or not np.isfinite(found).all():
        raise RegistrationError(f"{name}: {path} must have finite numbers in {', '.join(columns)}, in at least one row")
    return found


def data_folder() -> Path:
    """Return the folder of the benchmark data: ``ITK_PDD_DATA``, or ``../shared/data`` of the repository."""
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


def _pairs(base: Path, image: str, label: str, members: list[str], count: int | None, seed: int) -> list[Pair]:
    """Make all ordered pairs, or ``count`` of them in an order that depends on names and seed alone."""
    pairs = list(itertools.permutations(members, 2))
    if count is not None:
        if not 0 < count <= len(pairs):
            raise RegistrationError(f"count must be between 1 and {len(pairs)}, found {count}.")
        pairs = sorted(pairs, key=lambda p: hashlib.sha256(f"{seed}/{p[0]}/{p[1]}".encode()).digest())[:count]
    return [Pair(*(base / kind.format(name) for kind in (image, label) for name in pair)) for pair in pairs]


def abdomen_pairs(
    split: str = "validation", count: int | None = None, seed: int = 0, *, protocol: str = "abdomen_ct"
) -> list[Pair]:
    """Return ordered pairs of different patients of the abdominal CT data: all (12 in validation) or ``count`` of them.

    ``protocol="abdomen_ct_learn2reg"`` takes the published split instead: 18 patients in train, 42 pairs of 7 in test.
    """
    base = data_folder() / "abdomen_ct"
    return _pairs(base, "image_{}.nii.gz", "label_{}.nii.gz", _members(base.parent, protocol, split), count, seed)


def hippocampus_pairs(split: str = "validation", count: int | None = 20, seed: int = 0) -> list[Pair]:
    """Return ``count`` ordered pairs of different subjects of the hippocampus MR data, the same for the same seed."""
    base = data_folder() / "hippocampus_mr"
    members = _members(base.parent, "hippocampus_mr", split)
    return _pairs(base, "images/{}.nii.gz", "labels/{}.nii.gz", members, count, seed)


def lung_pair() -> Pair:
    """Return the baseline (fixed) and follow-up (moving) CT of one lung, with landmarks and lung masks."""
    base = data_folder() / "lung_ct"
    return Pair(
        fixed=base / "3DCT_lung_baseline.mha",
        moving=base / "3DCT_lung_followup.mha",
        fixed_points=base / "landmarks.csv",
        moving_points=base / "landmarks.csv",
        fixed_mask=base / "3DCT_lung_baseline_mask.mha",
        moving_mask=base / "3DCT_lung_followup_mask.mha",
    )
