"""Read label maps and probability maps of an image, structure by structure."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.formats.segmentation import layers_of, segment_names
from itk_pdd.io.images import opened
from itk_pdd.io.volume import Volume

__all__ = ["LabelSource", "read_labels", "read_table"]

_TOLERANCE = 1e-3  # by which a probability may lie outside of 0 to 1: files are rounded


@dataclass(frozen=True)
class LabelSource:
    """The labels of one image."""

    volumes: tuple[Volume, ...]  # label maps, or one probability map for each label
    # For each label the number of its volume, and its value there; None for a probability map.
    places: dict[int, tuple[int, int | None]]
    names: dict[int, str] = field(default_factory=dict)  # names of labels, where they are known

    @property
    def grid(self) -> Grid:
        """Grid of the first map."""
        return self.volumes[0].grid

    def share(self, label: int) -> Volume:
        """Make the share of each voxel that a label has, float32 from 0 to 1."""
        number, value = self.places[label]
        volume = self.volumes[number]
        array = volume.array if value is None else volume.array == value
        return Volume(np.ascontiguousarray(array, dtype=np.float32), volume.grid)

    def size_mm(self, label: int) -> float:
        """Volume of a label in cubic (2-D: square) millimetres."""
        number, value = self.places[label]
        volume = self.volumes[number]
        voxels = volume.array.sum(dtype=np.float64) if value is None else np.count_nonzero(volume.array == value)
        return float(voxels) * float(np.prod(volume.grid.spacing))


def read_labels(given: Any, *, dimension: int, name: str) -> LabelSource:
    """Read the labels of an image, of some dimension; ``name`` is what errors call them.

    They are a label map of whole numbers (0 is no label), or probability maps: an image of fractions for label 1, a
    list of them for the labels 1, 2 and so on, or an image with a component for each label, of which the first is the
    background. 3D Slicer's segmentations may have layers. RegistrationError if it is no such image, is of another
    dimension, or has no label.
    """
    if isinstance(given, LabelSource):
        return given
    if isinstance(given, list | tuple):
        if not given:
            raise RegistrationError(f"{name} is an empty list, expected a probability map for each label")
        maps = [_scalar(part, f"{name}[{i}]") for i, part in enumerate(given)]
        source = _probabilities(maps, 1, name)
    elif isinstance(given, Volume):
        source = _one(given, name)
    else:
        source = _opened(opened(given, name), name)
    for volume in source.volumes:
        if volume.grid.dimension != dimension:
            raise RegistrationError(f"{name} is {volume.grid.dimension}-D, but the images are {dimension}-D")
    if not source.places:
        raise RegistrationError(f"{name} is empty: it has no voxel with a label, expected some other than 0")
    return source


def _opened(image: Any, name: str) -> LabelSource:
    layers = layers_of(image)
    if len(layers) > 1 or (names := segment_names(image)):
        volumes = [_scalar(layer, name) for layer in layers]
        names = segment_names(image)
        places: dict[int, tuple[int, int | None]] = {}
        for number, volume in enumerate(volumes):
            for value in _values(volume, name):
                # Layers may use a number twice: the next free one stands for the later segment.
                label = value if value not in places else max(places) + 1
                places[label] = (number, value)
        return LabelSource(tuple(volumes), places, {k: v for k, v in names.items() if k in places})
    if image.GetNumberOfComponentsPerPixel() > 1 or len(image.GetSpacing()) > 3:
        return _probabilities(Volume.components_from_image(image, name=name), 0, name)
    return _one(_scalar(image, name), name)


def _scalar(image: Any, name: str) -> Volume:
    (volume,) = Volume.components_from_image(image, name=name)
    return volume


def _one(volume: Volume, name: str) -> LabelSource:
    """Read one map: of labels, or of the probability of label 1 where it holds fractions."""
    array = volume.array
    if np.issubdtype(array.dtype, np.floating) and np.isfinite(array).all() and (array != np.rint(array)).any():
        return _probabilities([volume], 1, name)
    return LabelSource((volume,), {value: (0, value) for value in _values(volume, name)})


def _values(volume: Volume, name: str) -> list[int]:
    whole = Volume.labels_from_image(volume, name=name).array
    return [int(value) for value in np.unique(whole) if value != 0]


def _probabilities(volumes: list[Volume] | tuple[Volume, ...], first: int, name: str) -> LabelSource:
    """Number probability maps from ``first``; label 0 is the background and is left out."""
    for number, volume in enumerate(volumes):
        array = volume.array
        if not np.isfinite(array).all() or array.min() < -_TOLERANCE or array.max() > 1 + _TOLERANCE:
            raise RegistrationError(
                f"{name} holds values from {array.min():g} to {array.max():g} in map {number}, expected probabilities "
                "from 0 to 1 (a label map has whole numbers and one component)"
            )
    places: dict[int, tuple[int, int | None]] = {
        first + i: (i, None) for i, volume in enumerate(volumes) if first + i > 0 and volume.array.any()
    }  # fmt: skip
    return LabelSource(tuple(volumes), places)


def read_table(given: Any, *, name: str = "label_map") -> tuple[dict[int, int], dict[int, str]]:
    """Read which label of the moving image corresponds to which of the fixed one, and names of fixed labels.

    It is a mapping, or a CSV file with the columns ``fixed`` and ``moving`` and, if wanted, ``name``.
    """
    if isinstance(given, Mapping):
        rows = [{"fixed": key, "moving": value} for key, value in given.items()]
    else:
        rows = _rows(given, name)
    pairs: dict[int, int] = {}
    names: dict[int, str] = {}
    for row in rows:
        fixed, moving = (_whole(row.get(side), name) for side in ("fixed", "moving"))
        if fixed in pairs or moving in pairs.values():
            raise RegistrationError(f"{name} names a label twice ({fixed}, {moving}), expected every label once")
        pairs[fixed] = moving
        if row.get("name"):
            names[fixed] = str(row["name"]).strip()
    if not pairs:
        raise RegistrationError(f"{name} is empty, expected a row for each label")
    return pairs, names


def _rows(path: str | os.PathLike[str], name: str) -> list[dict[str, Any]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True)
            reader.fieldnames = [cell.strip().lower() for cell in reader.fieldnames or []]
            if not {"fixed", "moving"} <= set(reader.fieldnames):
                raise RegistrationError(
                    f"{name}: {path} has the columns {', '.join(reader.fieldnames) or 'none'}, expected fixed, moving "
                    "and, if wanted, name"
                )
            return list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RegistrationError(f"{name}: {path} cannot be read as a CSV table ({error})") from None


def _whole(value: Any, name: str) -> int:
    try:
        number = int(value)
        if number != float(value) or number == 0:
            raise ValueError
    except (TypeError, ValueError):
        raise RegistrationError(f"{name} has the label {value!r}, expected a whole number other than 0") from None
    return number
