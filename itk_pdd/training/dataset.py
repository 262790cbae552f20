"""Labelled scans in memory: read, checked, brought to the working grid, and kept there between trainings."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from itk_pdd.errors import RegistrationError, warn
from itk_pdd.io.volume import Volume
from itk_pdd.network.preparation import Intensity, prepare_image, prepare_labels
from itk_pdd.training.cache import kept
from itk_pdd.training.cases import LabelledScan

__all__ = ["Sample", "Survey", "load_samples", "read_labelled", "survey"]

log = logging.getLogger("itk_pdd")

_MOST_CLASSES = 250
_KEPT = ("image", "labels", "affine")  # of a sample, in the cache


@dataclass(frozen=True)
class Sample:
    """A labelled scan on the working grid."""

    name: str  # for logs and errors
    image: Tensor  # normalised intensities, float16 (z, y, x)
    labels: Tensor  # classes, uint8 (z, y, x)
    affine: Tensor  # float64 (4, 4), from continuous index (x, y, z) to physical millimetres


@dataclass(frozen=True)
class Survey:
    """Hold the figures of a list of scans."""

    volumes: Mapping[int, float]  # mean volume of each label value (0 included) in mm^3, over the scans that show it
    spacing: float  # median over the scans of the geometric mean of the voxel spacing, in millimetres
    extent: tuple[float, float, float]  # median extent along the anatomical axes x, y, z in millimetres


def read_labelled(scan: LabelledScan) -> tuple[Volume, Volume]:
    """Image and labels of a scan; RegistrationError if a file cannot be used, is not 3-D, or their grids differ."""
    image = Volume.from_image(scan.image, name=f"image of {scan.name}")
    labels = Volume.labels_from_image(scan.labels, name=f"labels of {scan.name}")
    if image.grid.dimension != 3:
        raise RegistrationError(f"image of {scan.name} is {image.grid.dimension}-D, expected a 3-D scan")
    if labels.grid.dimension != 3 or not labels.grid.same_space(image.grid):
        raise RegistrationError(
            f"labels of {scan.name} lie on another grid than the image: {labels.grid}, expected {image.grid} at the "
            "same place; resample them by nearest neighbour"
        )
    return image, labels


def survey(scans: Sequence[LabelledScan]) -> Survey:
    """Look through the scans one is about to learn from.

    RegistrationError if a scan cannot be used, or the labels have no class, a negative one or too many.
    """
    volumes: dict[int, list[float]] = {}
    spacings, extents = [], []
    for scan in scans:
        image, labels = read_labelled(scan)
        values, counts = np.unique(labels.array, return_counts=True)
        voxel = float(np.prod(labels.grid.spacing))
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            volumes.setdefault(int(value), []).append(count * voxel)
        canonical = image.grid.canonical()
        spacings.append(voxel ** (1 / 3))
        extents.append(canonical.extent)
    if min(volumes) < 0 or len(volumes) > _MOST_CLASSES:
        raise RegistrationError(
            f"the labels hold {len(volumes)} values from {min(volumes)} on, expected at most {_MOST_CLASSES}, none "
            "negative: are these label maps?"
        )
    if not set(volumes) - {0}:
        raise RegistrationError("the labels of all scans are empty, expected values other than 0 for the classes")
    extent = np.median(np.asarray(extents), axis=0)
    return Survey(
        {value: float(np.mean(volumes.get(value, [0.0]))) for value in sorted({0, *volumes})},
        float(np.median(spacings)),
        (float(extent[0]), float(extent[1]), float(extent[2])),
    )


def load_samples(
    scans: Sequence[LabelledScan],
    *,
    spacing: float,
    intensity: Intensity,
    values: Sequence[int],
    cache: str | os.PathLike[str] | None = None,
) -> list[Sample]:
    """Read scans onto their working grids, of a spacing in millimetres.

    ``values`` are the label values of the classes, background first. A scan that lacks one is used all the same, with a
    warning; label values that are not listed become background. ``cache`` is a folder where the results are kept for
    the next time; one that does not fit its scan any more is made again.
    """
    samples = []
    for scan in scans:
        sample = _cached(scan, spacing, intensity, values, None if cache is None else Path(cache))
        present = set(torch.unique(sample.labels).tolist())
        absent = [str(value) for number, value in enumerate(values) if number and number not in present]
        if absent:
            warn(
                f"labels of {scan.name} lack the class{'es' if len(absent) > 1 else ''} {', '.join(absent)}, which "
                "the scan cannot teach nor be measured by"
            )
        samples.append(sample)
        log.debug("%s: %s voxels", scan.name, " x ".join(str(n) for n in reversed(sample.image.shape)))
    return samples


def _cached(
    scan: LabelledScan, spacing: float, intensity: Intensity, values: Sequence[int], cache: Path | None
) -> Sample:
    path = cache and cache / f"{scan.name}-{_key(scan, spacing, intensity, values)}.safetensors"

    def make() -> dict[str, Tensor]:
        sample = _prepared(scan, spacing, intensity, values)
        return {part: getattr(sample, part) for part in _KEPT}

    return Sample(scan.name, **kept(path, make, _KEPT))


def _prepared(scan: LabelledScan, spacing: float, intensity: Intensity, values: Sequence[int]) -> Sample:
    image, labels = read_labelled(scan)
    prepared = prepare_image(image, spacing, intensity)
    return Sample(
        scan.name,
        torch.from_numpy(prepared.array).half(),
        torch.from_numpy(prepare_labels(labels, spacing, values).array),
        torch.from_numpy(prepared.grid.affine),
    )


def _key(scan: LabelledScan, spacing: float, intensity: Intensity, values: Sequence[int]) -> str:
    """Changes with the files and with what is made of them."""
    stamps = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in (scan.image, scan.labels)]
    what = json.dumps([_KEPT, stamps, spacing, asdict(intensity), list(values)])
    return hashlib.sha256(what.encode()).hexdigest()[:16]
