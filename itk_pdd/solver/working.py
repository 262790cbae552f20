"""The working grid, and both images on it: where the search and the refinement compare them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.mapping import Mapping
from itk_pdd.geometry.resampling import resample
from itk_pdd.io.volume import Volume
from itk_pdd.kernels.control_grid.cpu import per_axis, restrict
from itk_pdd.kernels.mind.cpu import code_bits, mind_features
from itk_pdd.kernels.operations import HOST, Array, Operations
from itk_pdd.network.preparation import canonical_volume
from itk_pdd.solver.reuse import Kept, T
from itk_pdd.solver.settings import MAX_WORKING_VOXELS, Settings

__all__ = ["Maps", "WorkingImage", "search_grid", "working_grid"]

log = logging.getLogger("itk_pdd")


class Maps(Protocol):
    """Channels of an image that are compared beside its intensities, seen from the working grid."""

    @property
    def scale(self) -> float:
        """Cost of a differing bit."""

    @property
    def shrink(self) -> int:
        """Working voxels per block along each axis on which the descent compares them; finer tells no more."""

    @property
    def descends(self) -> bool:
        """Return True if the descent compares them, too."""

    @property
    def finishes(self) -> bool:
        """Return True if the descent ends on the finest blocks for their sake."""

    def codes(self, shrink: int, operations: Operations) -> Array:
        """Encode them at the centres of blocks of ``shrink`` working voxels, 64 bits (z, y, x)."""

    def features(self, shrink: int) -> np.ndarray:
        """Sample them at the centres of blocks of ``shrink`` working voxels, uint8 (z, y, x, 16 n)."""


@dataclass(frozen=True)
class WorkingImage:
    """An image on the working grid, as a stack of slices."""

    channels: tuple[np.ndarray, ...]  # intensities of each channel, float32 (z, y, x); a 2-D image has z = 1
    dimension: int  # 2 or 3
    weights: tuple[float, ...] = (1.0,)  # how much each channel counts beside the others
    mask: np.ndarray | None = None  # voxels that count, bool (z, y, x)
    classes: Maps | None = None  # class probabilities that a trained network gives the image
    guides: tuple[Maps, ...] = ()  # labels or features that the user gives the image
    alone: bool = False  # compare no MIND-SSC features beside the maps in the search
    # From intensities (z, y, x) to learned descriptors, uint64 (z, y, x).
    descriptor: Callable[[np.ndarray], np.ndarray] | None = None
    factor: int = 1  # working voxels per voxel along each axis
    # Takes codes, smaller copies and trees, for the next registration of the same image on the same grid.
    kept: Kept | None = field(default=None, compare=False, repr=False)

    @classmethod
    def from_volumes(
        cls,
        channels: Sequence[Volume],
        grid: Grid,
        mapping: Mapping | None = None,
        mask: Volume | None = None,
        weights: tuple[float, ...] = (1.0,),
    ) -> WorkingImage:
        """Resample the channels of an image and its mask, through a mapping, onto the working grid."""
        # However the voxels are stored, they are interpolated in the same order: else rounding decides ties anew.
        arrays = [resample(canonical_volume(volume), grid, mapping=mapping).array for volume in channels]
        used = None
        if mask is not None:
            mask = canonical_volume(mask)
            used = resample(mask, grid, mapping=mapping, interpolation="nearest", outside="zero").array
        if grid.dimension == 2:
            arrays, used = [array[None] for array in arrays], None if used is None else used[None]
        # A mask of everything is none.
        used = None if used is None or used.all() else used.astype(bool)
        return cls(tuple(np.ascontiguousarray(a) for a in arrays), grid.dimension, weights, used)

    def once(self, key: Hashable, make: Callable[[], T], operations: Operations = HOST) -> T:
        """Make a result of this image, or take the one that was kept of it; other devices keep none."""
        if self.kept is None or operations.device != "cpu":
            return make()
        return self.kept.get((self.factor, key), make)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along z, y, x."""
        depth, height, width = self.channels[0].shape
        return depth, height, width

    @property
    def maps(self) -> tuple[Maps, ...]:
        """All maps that are compared beside the intensities."""
        return self.guides if self.classes is None else (self.classes, *self.guides)

    @property
    def similarities(self) -> int:
        """Number of MIND-SSC features per channel and dilation."""
        return 12 if self.dimension == 3 else 4

    def per_axis(self, value: int) -> tuple[int, int, int]:
        """Give a number for each axis z, y, x; 1 for the missing axis of a 2-D image."""
        return per_axis(value, self.dimension)

    def features(self, dilation: int, channel: int = 0) -> np.ndarray:
        """Compute the MIND-SSC features of a channel, uint8 (z, y, x, 16)."""
        array = self.channels[channel]
        return mind_features(array if self.dimension == 3 else array[0], dilation=dilation)

    def codes(
        self, dilations: Sequence[int], operations: Operations, *, learned: float = 0.0
    ) -> tuple[Array, tuple[float, ...]]:
        """Encode the features in binary, 64 bits (words, z, y, x), and say what a bit of each word is worth.

        There is a word for each channel, of the MIND-SSC features of several dilations, another for each of its learned
        descriptors, where these count (see :class:`itk_pdd.solver.settings.Stage`), and one for each of its maps.
        """
        if self.alone:
            codes = operations.no_codes((len(self.maps), *self.shape))
            for word, maps in enumerate(self.maps):
                codes[word] = maps.codes(self.factor, operations)
            return codes, tuple(maps.scale for maps in self.maps)
        bits = code_bits(self.similarities * len(dilations))
        described = self.descriptor if learned > 0 else None
        channels = len(self.channels)
        words = channels * (1 if described is None else 2) + len(self.maps)
        codes = operations.no_codes((words, *self.shape))
        for channel, code in zip(self.channels, codes, strict=False):
            array = operations.array(channel if self.dimension == 3 else channel[0])
            for i, dilation in enumerate(dilations):
                operations.add_codes(array, code, bits=bits, shift=i * self.similarities * bits, dilation=dilation)
        total = sum(self.weights) * self.similarities * len(dilations) * bits
        scales = [weight / total for weight in self.weights]
        if described is not None:
            for i, channel in enumerate(self.channels):
                codes[channels + i] = operations.array(described(channel))
            worth = [weight / (sum(self.weights) * 64) for weight in self.weights]
            scales = [*((1 - learned) * scale for scale in scales), *(learned * word for word in worth)]
        for word, maps in enumerate(self.maps, start=words - len(self.maps)):
            codes[word] = maps.codes(self.factor, operations)
            scales.append(maps.scale)
        return codes, tuple(scales)

    def guide(self, cell: tuple[int, int, int]) -> np.ndarray:
        """Average the intensities of each cell, over the channels scaled alike."""
        return restrict(self.channels[0], cell) if len(self.channels) == 1 else self.contrasts(cell).sum(axis=0)

    def contrasts(self, cell: tuple[int, int, int]) -> np.ndarray:
        """Average the intensities of each cell by channel, scaled alike and weighted: (channels, z, y, x)."""
        both = zip(self.weights, self.channels, strict=True)
        return np.stack([weight / (np.std(channel) or 1.0) * restrict(channel, cell) for weight, channel in both])

    def counted(self, cell: tuple[int, int, int]) -> np.ndarray | None:
        """Find the cells at least half of which lie in the mask, bool (z, y, x); None without a mask."""
        return None if self.mask is None else restrict(self.mask, cell) >= 0.5

    def shrunk(self, factor: int) -> WorkingImage:
        """Average the image over blocks of ``factor`` voxels along each axis."""
        if factor == 1:
            return self
        cell = self.per_axis(factor)

        def averaged() -> tuple[tuple[np.ndarray, ...], np.ndarray | None]:
            return tuple(restrict(c, cell) for c in self.channels), self.counted(cell)

        channels, mask = self.once(("shrunk", factor), averaged)
        return replace(self, channels=channels, mask=mask, factor=self.factor * factor)


def working_grid(grid: Grid, *, spacing: float | None = None, max_voxels: int = MAX_WORKING_VOXELS) -> Grid:
    """Choose the grid on which images are compared: anatomical axes, the same spacing along all of them.

    The spacing, in millimetres, is by default the edge of a cube of the volume of a voxel; that of an image of more
    than ``max_voxels`` is coarser.
    """
    canonical = grid.canonical()
    spacing = spacing or float(np.prod(grid.spacing) ** (1 / grid.dimension))
    smallest = float((np.prod(canonical.extent) / max_voxels) ** (1 / grid.dimension))
    if spacing < smallest:
        log.info("working spacing %.3g mm instead of %.3g mm: the image is large", smallest, spacing)
        spacing = smallest
    return canonical.with_spacing(spacing)


def search_grid(fixed: Grid, moving: Grid, initial: Mapping | None, settings: Settings) -> Grid:
    """Extend the working grid by the part of the moving image that displacements reach, if there is any."""
    inner = working_grid(fixed, spacing=settings.spacing, max_voxels=settings.max_voxels)
    reach = sum(stage.reach for stage in settings.stages)  # the farthest that all stages together can go
    return inner.padded(*_margins(inner, moving, initial, reach))


def _margins(grid: Grid, moving: Grid, initial: Mapping | None, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Count the voxels to add on each side so that the grid holds the part of the moving image within reach."""
    wide = grid.padded([reach] * grid.dimension, [reach] * grid.dimension)
    # Sample points of the extended grid that lie in the moving image.
    axes = [np.linspace(0, n - 1, min(n, 24)) for n in wide.size]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    points = wide.to_physical(index)
    seen = moving.to_index(points if initial is None else initial(points))
    inside = ((seen > -1) & (seen < np.asarray(moving.size))).all(axis=-1)
    if not inside.any():
        return np.zeros(grid.dimension, int), np.zeros(grid.dimension, int)
    used = index[inside]
    last = np.asarray(grid.size) - 1
    needed = reach - used.min(axis=0), used.max(axis=0) - reach - last
    # The border of the image lies somewhere before the next sample point. A few voxels are not worth it.
    mesh = (np.asarray(wide.size) - 1) / np.maximum([len(a) - 1 for a in axes], 1)
    small = np.maximum(1, 0.05 * np.asarray(grid.size))
    lower, upper = (np.where(n > small, np.clip(np.ceil(n + mesh), 0, reach), 0).astype(int) for n in needed)
    return lower, upper
