"""Lists of labelled scans: a CSV file, a folder, or the JSON file of a Learn2Reg or Decathlon task."""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.io.files import IMAGE_EXTENSIONS

__all__ = ["SPLITS", "LabelledScan", "folds", "of_split", "ordered_pairs", "read_scans"]

T = TypeVar("T")

SPLITS = ("train", "validation", "test")
"""Uses of a scan: to learn from, to choose the weights by, or only to report figures."""
_COLUMNS = ("image", "labels", "split", "name")
_FOLDERS = (("images", "labels"), ("imagesTr", "labelsTr"))


@dataclass(frozen=True)
class LabelledScan:
    """Files of a scan and of its label map, which lie on the same grid."""

    image: Path
    labels: Path
    split: str = "train"  # one of :data:`SPLITS`
    name: str = ""  # for logs and errors; the image's file name without its ending by default

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", _stem(self.image))


def read_scans(path: str | os.PathLike[str]) -> list[LabelledScan]:
    """Read a list of labelled scans.

    It is a CSV file with the columns image and labels, and optionally split (one of :data:`SPLITS`) and name, paths
    relative to it; a folder with the subfolders images and labels (or imagesTr and labelsTr) of files of the same names
    (nnU-Net's ``_0000`` at the end of an image's name may be missing in that of its labels), or with files image_X and
    label_X side by side; or the JSON file of a Learn2Reg or Decathlon task, whose ``registration_val`` pairs are the
    validation scans. Hidden files are left out. RegistrationError, with row and column, if it names a file that is not
    there.
    """
    path = Path(path)
    if not path.exists():
        raise RegistrationError(f"data: there is no file or folder {path}")
    if path.is_dir():
        scans = _from_folder(path)
    elif path.suffix.lower() == ".json":
        scans = _from_json(path)
    else:
        scans = _from_csv(path)
    if not scans:
        raise RegistrationError(f"data: {path} lists no scan, expected one or more images with labels")
    names = [scan.name for scan in scans]
    if len(set(names)) < len(names):
        # Files called alike in different folders: their place tells them apart.
        scans = [replace(scan, name=f"{number}-{scan.name}") for number, scan in enumerate(scans, start=1)]
    return scans


def of_split(scans: Iterable[LabelledScan], split: str) -> list[LabelledScan]:
    """The scans of one split, in their order."""
    return [scan for scan in scans if scan.split == split]


def folds(scans: Iterable[LabelledScan], count: int) -> list[list[LabelledScan]]:
    """Splits for cross-validation: in fold k every ``count``-th scan, from the k-th on, is for validation.

    Each fold has all the scans but those of the split "test". RegistrationError if there are fewer scans than folds.
    """
    used = [scan for scan in scans if scan.split != "test"]
    if not 2 <= count <= len(used):
        raise RegistrationError(f"folds is {count}, expected a number from 2 to that of the scans, {len(used)}")
    return [
        [replace(scan, split="validation" if i % count == k else "train") for i, scan in enumerate(used)]
        for k in range(count)
    ]


def ordered_pairs(items: Sequence[T], count: int | None, seed: int) -> list[tuple[T, T]]:
    """Pairs of different items, each as the first and as the second one, in their order.

    If there are more than ``count`` pairs, so many of them are drawn with the seed.
    """
    pairs = list(itertools.permutations(items, 2))
    if count is None or count >= len(pairs):
        return pairs
    chosen = np.random.default_rng(seed).choice(len(pairs), count, replace=False)
    return [pairs[index] for index in sorted(chosen)]


def _from_csv(path: Path) -> list[LabelledScan]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True)
            header = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = header
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise RegistrationError(f"data: {path} is not a readable CSV file ({error})") from None
    missing, unknown = [c for c in _COLUMNS[:2] if c not in header], [c for c in header if c not in _COLUMNS]
    if missing or unknown:
        what = f"lacks the column {missing[0]}" if missing else f"has the unknown column {unknown[0]!r}"
        raise RegistrationError(f"data: {path} {what}, expected image, labels and, if you like, split and name")
    scans = []
    for number, row in enumerate(rows, start=2):
        where = f"data: {path}, row {number}"
        if None in row or None in row.values():
            raise RegistrationError(f"{where}: expected {len(header)} cells")
        cells = {name: value.strip() for name, value in row.items()}
        split = cells.get("split") or "train"
        if split not in SPLITS:
            raise RegistrationError(f"{where}, column split: found {split!r}, expected one of {', '.join(SPLITS)}")
        files = {c: _existing(path.parent, cells[c], f"{where}, column {c}") for c in ("image", "labels")}
        scans.append(LabelledScan(**files, split=split, name=cells.get("name", "")))
    return scans


def _from_folder(folder: Path) -> list[LabelledScan]:
    for images, labels in _FOLDERS:
        if (folder / images).is_dir() and (folder / labels).is_dir():
            files = [(image, _labels_of(image, folder / labels)) for image in _images(folder / images)]
            break
    else:
        found = [image for image in _images(folder) if image.name.startswith("image")]
        files = [(image, folder / image.name.replace("image", "label", 1)) for image in found]
        if not files:
            raise RegistrationError(
                f"data: the folder {folder} has neither subfolders images and labels nor files image_X and label_X"
            )
    for image, labels in files:
        if not labels.is_file():
            raise RegistrationError(f"data: there are no labels {labels} for {image}")
    return [LabelledScan(image, labels) for image, labels in files]


def _labels_of(image: Path, folder: Path) -> Path:
    """The labels of the same name, or those of nnU-Net, whose images have the number of their channel at the end."""
    same = folder / image.name
    stem = _stem(image)
    numbered = folder / image.name.replace(stem, stem.removesuffix("_0000"), 1)
    return numbered if not same.exists() and numbered.exists() else same


def _from_json(path: Path) -> list[LabelledScan]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        listed = [(entry["image"], entry["label"]) for entry in content["training"]]
        pairs = content.get("registration_val", [])
        validation = {os.path.basename(pair[side]) for pair in pairs for side in ("fixed", "moving")}
    except (OSError, ValueError) as error:
        raise RegistrationError(f"data: {path} is not a readable JSON file ({error})") from None
    except (KeyError, TypeError):
        raise RegistrationError(
            f"data: {path} is no list of a Learn2Reg task, expected 'training' with entries of 'image' and 'label'"
        ) from None
    scans = []
    for number, (image, labels) in enumerate(listed, start=1):
        where = f"data: {path}, training entry {number}"
        files: dict[str, Any] = {
            "image": _existing(path.parent, str(image), f"{where}, image"),
            "labels": _existing(path.parent, str(labels), f"{where}, label"),
        }
        split = "validation" if files["image"].name in validation else "train"
        scans.append(LabelledScan(**files, split=split))
    return scans


def _existing(folder: Path, name: str, where: str) -> Path:
    if not name:
        raise RegistrationError(f"{where}: is empty, expected the name of a file")
    path = Path(os.path.normpath(Path(os.path.abspath(folder)) / name))
    if not path.is_file():
        raise RegistrationError(f"{where}: there is no file {path}")
    return path


def _images(folder: Path) -> list[Path]:
    """Image files; hidden ones, which archives of macOS hold beside each file (``._name``), are no scans."""
    files = (file for file in folder.iterdir() if not file.name.startswith("."))
    return sorted(file for file in files if file.name.lower().endswith(IMAGE_EXTENSIONS))


def _stem(path: Path) -> str:
    name = path.name
    for ending in sorted(IMAGE_EXTENSIONS, key=len, reverse=True):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return path.stem
