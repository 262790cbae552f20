"""Two views of one random anatomy, to learn from what differs between subjects and between scanners; no scan of anyone.

Label maps of random shapes are drawn once and then shown anew in every step: zoomed, turned and deformed in a known
way, each view in a contrast and with a scanner of its own. What no displacement explains is there as well, as it is
between two subjects: each view bends a little by itself and has things that the other one lacks.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.volume import Volume
from itk_pdd.synthesis.anatomy import random_shapes
from itk_pdd.synthesis.rendering import Contrast, random_acquisition, random_contrast, render_labels
from itk_pdd.training.cache import kept

__all__ = ["ViewSource", "Views", "label_maps"]

_MAP_SIZES = (88, 120)  # voxels along each axis of a label map
_SHRINK = 2  # descriptors are compared on blocks of working voxels, as in the stages of the default model
_OWN = 64  # label values of what only one view has begin here


@dataclass(frozen=True)
class Views:
    """Two views of one anatomy on blocks of two working voxels."""

    fixed: np.ndarray  # intensities, float32 (z, y, x)
    moving: np.ndarray
    displacements: Tensor  # float32 (z, y, x, 3), from fixed to moving in voxels, components x, y, z
    edges: np.ndarray  # where the fixed view shows a border between two tissues, or is next to one, bool (z, y, x)


def label_maps(
    count: int,
    *,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
    progress: Callable[[float], None] = lambda fraction: None,
) -> list[np.ndarray]:
    """Random shapes in boxes of about 100 voxels, uint8 (z, y, x) each; the seed determines them entirely.

    It takes a second for each, unless they are in a folder, the ``cache``, where they are kept for the next time.
    """
    maps = []
    for number in range(count):
        progress(number / count)

        def make(number: int = number) -> dict[str, Tensor]:
            rng = np.random.default_rng([seed, number])
            size = rng.integers(*_MAP_SIZES, size=3)
            shapes = random_shapes(Grid.create(size.tolist(), 1.0), seed=int(rng.integers(2**62)))
            return {"labels": torch.from_numpy(shapes.array)}

        path = None if cache is None else Path(cache) / f"shapes-{seed}-{number}.safetensors"
        maps.append(kept(path, make, ("labels",))["labels"].numpy())
    return maps


class ViewSource:
    """Draws views, ``size`` working voxels along each axis, of label maps (see :func:`label_maps`).

    RegistrationError if there is no label map, or the size is odd or below 32.
    """

    def __init__(self, maps: list[np.ndarray], *, size: int = 64) -> None:
        if not maps or size < 32 or size % _SHRINK:
            raise RegistrationError(f"{len(maps)} label maps and a size of {size}, expected one and an even 32 or more")
        self._maps, self.size, self.count = maps, size, len(maps)
        along = torch.arange(size) - (size - 1) / 2
        z, y, x = torch.meshgrid(along, along, along, indexing="ij")
        self._points = torch.stack([x, y, z], dim=-1)
        self._grid = Grid.create((size,) * 3, 1.0)

    def draw(self, rng: np.random.Generator) -> Views:
        """Two views, determined by ``rng``."""
        shown = self._anatomy(rng)
        affine = torch.from_numpy(rng.uniform(-0.12, 0.12, (3, 3)).astype(np.float32))
        field = self._points @ affine.T + rng.uniform(0, 0.045) * self.size * self._smooth(rng, int(rng.integers(3, 7)))
        differ = rng.uniform(0, 1) if rng.random() < 0.75 else 0.0
        labels = []
        for points in (self._points + field, self._points):
            if differ:
                points = points + 2.5 * differ * self._smooth(rng, int(rng.integers(8, 24)))
            view = shown(points)
            if differ:
                other, values = self._anatomy(rng)(self._points), np.flatnonzero(rng.random(_OWN) < 0.35 * differ)
                put = np.isin(other, values[values > 0])
                view = np.where(put, other + _OWN, view).astype(np.uint8)
            labels.append(view)
        # What the first view shows at x lies in the second one at x + field.
        fixed, moving = self._images(labels, rng)
        return Views(fixed, moving, _blocks(field.movedim(-1, 0)).movedim(0, -1) / _SHRINK, _edges(labels[0]))

    def _anatomy(self, rng: np.random.Generator) -> Callable[[Tensor], np.ndarray]:
        """A label map, mirrored, turned and zoomed at random, as a function of points around the centre of the view."""
        array = self._maps[int(rng.integers(len(self._maps)))].transpose(rng.permutation(3))
        array = np.ascontiguousarray(array[tuple(slice(None, None, int(step)) for step in rng.choice([-1, 1], 3))])
        # Zero is a tissue; what lies beyond the map is that at its border.
        labels = torch.from_numpy(array).float()[None, None]
        zoom = float(np.exp(rng.uniform(-0.4, 0.5)))
        size = np.asarray(array.shape[::-1], dtype=float)
        half = np.minimum(self.size * zoom / 2, size / 2 - 1)
        centre = torch.from_numpy(rng.uniform(half, np.maximum(half, size - 1 - half))).float()
        scale = torch.from_numpy(2 / (size - 1)).float()

        def shown(points: Tensor) -> np.ndarray:
            found = functional.grid_sample(
                labels, ((points * zoom + centre) * scale - 1)[None], mode="nearest", padding_mode="border",
                align_corners=True,
            )  # fmt: skip
            return found[0, 0].numpy().astype(np.uint8)

        return shown

    def _smooth(self, rng: np.random.Generator, nodes: int) -> Tensor:
        """Smooth random vectors (z, y, x, 3) of about unit length per component, of so many nodes along each axis."""
        coarse = torch.from_numpy(rng.standard_normal((1, 3, nodes, nodes, nodes)).astype(np.float32))
        fine = functional.interpolate(coarse, size=(self.size,) * 3, mode="trilinear", align_corners=True)
        return fine[0].movedim(0, -1)

    def _images(self, labels: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
        """Render the images of two scanners; in six of ten pairs both are of one modality."""
        contrast = _contrast(rng)
        other = _contrast(rng)
        if rng.random() < 0.6:
            jitter = rng.normal(0, rng.uniform(0, 80), len(contrast.mean)).astype(np.float32)
            other = replace(contrast, mean=contrast.mean + jitter)
        images = []
        for view, look in zip(labels, (contrast, other), strict=True):
            scanner = random_acquisition(rng, 3)
            scanner = replace(scanner, noise=float(rng.uniform(0, 0.24)) if rng.random() < 0.8 else 0.0)
            image = render_labels(Volume(view, self._grid), seed=rng, contrast=look, acquisition=scanner).array
            image = _blocks(torch.from_numpy(image)[None])[0].numpy()
            images.append(((image - image.mean()) / (image.std() + 1e-3)).astype(np.float32))
        return images


def _contrast(rng: np.random.Generator) -> Contrast:
    """Any intensity for any tissue; in every second one, many tissues look nearly alike."""
    contrast = random_contrast(rng)
    mean = rng.uniform(0, 1000, len(contrast.mean))
    if rng.random() < 0.5:
        mean = rng.choice(rng.uniform(0, 1000, int(rng.integers(3, 8))), len(mean)) + rng.normal(0, 30, len(mean))
    return replace(contrast, mean=mean.astype(np.float32))


def _blocks(values: Tensor) -> Tensor:
    """Means (channels, z', y', x') over blocks of two voxels along each axis."""
    return functional.avg_pool3d(values[None], _SHRINK)[0]


def _edges(labels: np.ndarray) -> np.ndarray:
    """Blocks that hold two tissues, and their neighbours."""
    values = torch.from_numpy(labels).float()[None, None]
    mixed = functional.max_pool3d(values, _SHRINK) != -functional.max_pool3d(-values, _SHRINK)
    return functional.max_pool3d(mixed.float(), 3, 1, 1)[0, 0].numpy() > 0
