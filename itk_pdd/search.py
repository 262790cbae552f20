"""Dense displacement search between two images with hand-made features, coarse to fine and symmetric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from itk_pdd import kernels
from itk_pdd.kernels.hamming import hamming_costs
from itk_pdd.kernels.lattice import make_consistent, restrict, upsample
from itk_pdd.kernels.mind import CHANNELS, binary_codes, code_bits, mind_features
from itk_pdd.kernels.tree import min_marginals, spanning_tree
from itk_pdd.network.costs import DisplacementSet
from itk_pdd.stages import Stage

__all__ = ["WorkingImage", "search"]


@dataclass(frozen=True)
class WorkingImage:
    """An image on the working grid, as a stack of slices.

    Parameters
    ----------
    array : numpy.ndarray
        Intensities, float32 (z, y, x); a 2-D image has z = 1.
    dimension : int
        2 or 3.
    mask : numpy.ndarray, optional
        Voxels that count, bool (z, y, x).
    """

    array: np.ndarray
    dimension: int
    mask: np.ndarray | None = None

    @property
    def channels(self) -> int:
        """Number of MIND-SSC channels."""
        return 12 if self.dimension == 3 else 4

    def per_axis(self, value: int) -> tuple[int, int, int]:
        """A number for each axis z, y, x; 1 for the missing axis of a 2-D image."""
        return (value if self.dimension == 3 else 1, value, value)

    def features(self, dilation: int) -> np.ndarray:
        """MIND-SSC features, uint8 (z, y, x, 16)."""
        return mind_features(self.array if self.dimension == 3 else self.array[0], dilation=dilation)

    def codes(self, dilations: Sequence[int]) -> np.ndarray:
        """Binary codes of the features of several dilations, uint64 (z, y, x)."""
        count = self.channels * len(dilations)
        if len(dilations) == 1:
            return binary_codes(self.features(dilations[0]), count)
        joined = np.empty((*self.array.shape, max(count, CHANNELS)), np.uint8)
        for i, dilation in enumerate(dilations):
            joined[..., i * self.channels : (i + 1) * self.channels] = self.features(dilation)[..., : self.channels]
        return binary_codes(joined, count)

    def shrunk(self, factor: int) -> WorkingImage:
        """The image averaged over blocks of ``factor`` voxels along each axis."""
        if factor == 1:
            return self
        cell = self.per_axis(factor)
        mask = None if self.mask is None else restrict(self.mask, cell) >= 0.5
        return WorkingImage(restrict(self.array, cell), self.dimension, mask)


def search(
    fixed: WorkingImage,
    moving: WorkingImage,
    stages: Sequence[Stage],
    *,
    progress: Callable[[float, str], None] = lambda fraction, text: None,
) -> np.ndarray:
    """Displacements from the fixed to the moving image, by dense searches from coarse to fine.

    Every stage adds to what was found so far; costs are those of the displaced positions themselves, the images are
    never resampled in between. Both directions are searched and made inverse to each other where a stage asks for it.

    Parameters
    ----------
    fixed, moving : WorkingImage
        Images on one grid.
    stages : sequence of Stage
        From coarse to fine.
    progress : callable
        Called with the fraction that is done and what is going on.

    Returns
    -------
    numpy.ndarray
        Displacements in working voxels, float32 (z, y, x, 3), components x, y, z.
    """
    forward = backward = None
    images, codes, shrink = (fixed, moving), {}, 1
    for number, stage in enumerate(stages):
        name = f"stage {number + 1} of {len(stages)}"
        progress(number / len(stages), name)
        if stage.shrink != shrink or number == 0:
            images, codes = (fixed.shrunk(stage.shrink), moving.shrunk(stage.shrink)), {}
            factor = fixed.per_axis(shrink // stage.shrink) if number else None
            forward, backward = (_enlarged(u, factor, images[0].array.shape) for u in (forward, backward))
            shrink = stage.shrink
        if stage.dilations not in codes:
            codes = {stage.dilations: [image.codes(stage.dilations) for image in images]}
        own, other = codes[stage.dilations]
        forward = _one_way(images[0], own, other, stage, forward)
        if stage.consistency:
            progress((number + 0.5) / len(stages), f"{name}, backward")
            backward = _one_way(images[1], other, own, stage, backward)
            forward, backward = make_consistent(forward, backward, iterations=stage.consistency)
    return _enlarged(forward, fixed.per_axis(shrink), fixed.array.shape)


def _one_way(
    image: WorkingImage, own: np.ndarray, other: np.ndarray, stage: Stage, base: np.ndarray | None
) -> np.ndarray:
    """Dense field of one direction after one stage, in voxels of the stage."""
    import torch

    cell, step = image.per_axis(stage.cell), image.per_axis(stage.step)
    radius = (stage.radius if image.dimension == 3 else 0, stage.radius, stage.radius)
    bits = code_bits(image.channels * len(stage.dilations))
    costs = hamming_costs(own, other, cell=cell, radius=radius, step=step, base=base, mask=image.mask, bits=bits)
    found = None if base is None else restrict(base, cell)
    if stage.regularisation == "tree":
        tree = spanning_tree(restrict(image.array, cell))
        steps = None if found is None else found / np.float32(stage.step)
        costs = min_marginals(costs, tree, alpha=stage.smoothness, taps=min(4, stage.radius), base=steps)
        tensor = torch.from_numpy(costs)
    else:
        tensor = kernels.regularise(torch.from_numpy(costs), 1.0, 3)
    offsets = DisplacementSet(radius, step).offsets()
    control = kernels.displacement_moments(tensor, stage.temperature, offsets).mean.numpy()
    return upsample(control if found is None else found + control, cell, image.array.shape)


def _enlarged(
    field: np.ndarray | None, factor: tuple[int, int, int] | None, shape: tuple[int, ...]
) -> np.ndarray | None:
    """A field in voxels on a grid that is finer by whole factors."""
    if field is None or max(factor) == 1:
        return field
    return upsample(field, factor, shape, order=1) * np.float32(factor[-1])
