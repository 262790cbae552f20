"""Landmarks in the search and in the descent, seen from the working grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from itk_pdd.geometry.blockfield import BlockField
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.mapping import Mapping
from itk_pdd.guidance.landmarks import Landmarks
from itk_pdd.kernels.interpolation.cpu import sample_linear
from itk_pdd.kernels.operations import Operations
from itk_pdd.solver.settings import Stage
from itk_pdd.solver.trust import Doubt
from itk_pdd.solver.working import WorkingImage

__all__ = ["PulledCosts", "Pulls", "image_doubt"]

_COST = 0.15  # of a displacement as far as the reach of the pull from that of the landmark, beside 0 to 1 of the images
_REACH = 3.0  # standard deviations from which on a landmark pulls no stronger
_FORCE = 10.0  # weight of a landmark in the descent, beside 1 for the local correlation of a voxel
_LEAST_VOXELS = 0.5  # standard deviation in voxels of the level below which a landmark pulls no stronger
_PATCH, _PLACES = 2, 100  # half the width of the patches compared, in blocks, and chance places
_BEYOND = 1e-9


@dataclass(frozen=True)
class Pulls:
    """Points of the working grid that are drawn to displacements; components x, y, z, z is 0 in 2-D."""

    points: np.ndarray  # positions (n, 3) in working voxels
    targets: np.ndarray  # their displacements (n, 3) in working voxels
    sigma: np.ndarray  # standard deviations (n,) in working voxels

    @classmethod
    def of(cls, landmarks: Landmarks, working: Grid, initial: Mapping | None) -> Pulls:
        """See landmarks from the working grid, before the initial transform."""
        moving = landmarks.moving if initial is None else initial.invert(landmarks.moving)[0]
        own, other = (working.to_index(each) for each in (landmarks.fixed, moving))
        pad = ((0, 0), (0, 3 - working.dimension))
        own, other = np.pad(own, pad), np.pad(other, pad)
        return cls(own, other - own, landmarks.sigma / min(working.spacing))

    def chosen(self, which: np.ndarray) -> Pulls:
        """Keep some of the points."""
        return Pulls(self.points[which], self.targets[which], self.sigma[which])

    @property
    def reversed(self) -> Pulls:
        """The same landmarks from the moving to the fixed image."""
        return replace(self, points=self.points + self.targets, targets=-self.targets)

    def residuals(self, field: BlockField) -> np.ndarray:
        """Displacements of the landmarks minus those of a field on the host, (n, 3) in working voxels."""
        return self.targets - sample_linear(np.asarray(field.vectors), self._index(field.block))

    def _index(self, block: Sequence[int]) -> np.ndarray:
        """Positions in blocks of so many working voxels along z, y, x; components x, y, z."""
        size = np.asarray(block[::-1], float)
        return (self.points - (size - 1) / 2) / size

    def slope(self, shape: Sequence[int], size: int, block: Sequence[int]) -> Any:
        """Differentiate the squared distance from the landmarks by each displacement of a level of the descent.

        The level has ``shape`` blocks of ``block`` working voxels along z, y, x; displacements are in units of ``size``
        working voxels. Returns a function that takes a field (z, y, x, 3) on the host to the nodes (m,), counted
        through, and the derivatives (m, 3).
        """
        last = np.asarray(shape[::-1], float) - 1
        index = np.clip(self._index(block), 0, last)
        low = np.minimum(np.floor(index), np.maximum(last - 1, 0)).astype(int)
        part = index - low
        corners = np.array([(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)])
        places = np.minimum(low[:, None] + corners, last.astype(int))
        weights = np.where(corners, part[:, None], 1 - part[:, None]).prod(axis=-1)
        nodes = np.ravel_multi_index(tuple(places[..., ::-1].transpose(2, 0, 1)), tuple(shape))
        targets = self.targets / size
        sigma = np.maximum(self.sigma / size, _LEAST_VOXELS)[:, None]

        def slope(field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            flat = field.reshape(-1, 3)
            error = ((weights[..., None] * flat[nodes]).sum(axis=1) - targets) / sigma
            length = np.linalg.norm(error, axis=-1, keepdims=True)
            force = error * (_REACH / np.maximum(length, _REACH)) / sigma
            values = _FORCE * weights[..., None] * force[:, None]
            return nodes.ravel(), values.reshape(-1, 3).astype(np.float32)

        return slope

    def costs(self, stage: Stage, found: BlockField) -> _Near:
        """Find the control points of a stage near landmarks, and what is left after ``found``, the field before it."""
        size = np.asarray(found.block[::-1], float)
        index = self._index(found.block)
        last = np.asarray(found.nodes[::-1]) - 1
        steps = np.array([(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)])
        places = np.rint(index).astype(int)[:, None] + steps
        inside = ((places >= 0) & (places <= last)).all(axis=-1)
        nearness = np.exp(-np.square((places - index[:, None])[..., size > 1]).sum(axis=-1))
        inside &= nearness > 0.1
        which = np.broadcast_to(np.arange(len(index))[:, None], inside.shape)[inside]
        nodes = np.ravel_multi_index(tuple(places[inside][:, ::-1].T), found.nodes)
        left = self.targets[which] - np.asarray(found.vectors).reshape(-1, 3)[nodes]
        scale = float(stage.shrink)
        sigma = np.maximum(self.sigma[which] / scale, 0.7 * stage.step)
        order = np.argsort(nodes, kind="stable")
        return _Near(nodes[order], left[order] / scale, sigma[order], nearness[inside][order])


@dataclass(frozen=True)
class _Near:
    """Control points with landmarks near: what they are to move, in voxels of the stage, sorted by control point."""

    nodes: np.ndarray
    left: np.ndarray
    sigma: np.ndarray
    nearness: np.ndarray

    def add(self, costs: np.ndarray, points: np.ndarray, offsets: Sequence[np.ndarray]) -> None:
        """Add the costs of displacements off the landmarks to those of some control points (n, dz, dy, width)."""
        place = {int(point): row for row, point in enumerate(points)} if len(self.nodes) else {}
        z, y, x = (np.asarray(each, np.float32) for each in offsets)
        for node, left, sigma, nearness in zip(self.nodes, self.left, self.sigma, self.nearness, strict=True):
            row = place.get(int(node))
            if row is None:
                continue
            # Beyond the range of the stage, the farthest displacement towards the landmark is the best.
            dx, dy, dz = (np.clip(v, o.min(), o.max()) for v, o in zip(left, (x, y, z), strict=True))
            square = (
                np.square(z - dz)[:, None, None] + np.square(y - dy)[None, :, None] + np.square(x - dx)[None, None, :]
            ) / sigma**2
            costs[row] += np.float32(_COST * nearness) * np.minimum(square, _REACH**2)


class PulledCosts:
    """Costs of a search with those of landmarks added, for :func:`itk_pdd.kernels.tree.blocks.min_sum_means`."""

    def __init__(self, costs: Any, near: _Near, offsets: Sequence[np.ndarray]) -> None:
        self._costs, self._near, self._offsets = costs, near, offsets
        self.displacements = costs.displacements

    def __call__(self, points: np.ndarray | None = None, out: np.ndarray | None = None) -> np.ndarray:
        """Costs of some control points; see :class:`itk_pdd.kernels.hamming.cpu.MaskedCosts`."""
        result = self._costs(points, out)
        every = result.reshape(-1, *result.shape[-3:])
        self._near.add(every, np.arange(len(every)) if points is None else points, self._offsets)
        return result


def image_doubt(
    fixed: WorkingImage, moving: WorkingImage, stage: Stage, pulls: Pulls, found: BlockField, operations: Operations
) -> Doubt:
    """Compare the surroundings of each landmark in both images with those of chance places.

    Features are those of a stage; ``found`` is what the images alone give, on the host.
    """
    images = [image.shrunk(stage.shrink) for image in (fixed, moving)]
    codes = [operations.numpy(image.codes(stage.dilations, operations)[0]) for image in images]
    scales = images[0].codes(stage.dilations, operations)[1]
    block = images[0].per_axis(stage.shrink)
    shape = np.asarray(codes[0].shape[1:])
    reach = [_PATCH if size > 1 else 0 for size in block]
    axes = np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij")
    patch = np.stack([axis.ravel() for axis in axes], axis=-1)
    around = np.array([(0, 0, 0), (0, 0, 1), (0, 0, -1), (0, 1, 0), (0, -1, 0), (1, 0, 0), (-1, 0, 0)])

    def nearest(points: np.ndarray) -> np.ndarray:
        return np.rint(replace(pulls, points=points)._index(block)[:, ::-1]).astype(int)

    def cost(own: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Least cost of patches around some places (..., 3) against one about ``own``."""
        at = tuple(np.clip(own + patch, 0, shape - 1).T)
        voxels = np.clip(places[..., None, None, :] + around[:, None] + patch, 0, shape - 1)
        total = sum(
            scale * np.bitwise_count(word[tuple(np.moveaxis(voxels, -1, 0))] ^ first[at]).mean(axis=-1)
            for scale, word, first in zip(scales, codes[1], codes[0], strict=True)
        )
        return np.asarray(total).min(axis=-1)

    own, there = nearest(pulls.points), nearest(pulls.points + pulls.targets)
    by_images = nearest(pulls.points + pulls.targets - pulls.residuals(found))
    places = np.random.default_rng(0).integers(0, shape, size=(_PLACES, 3))
    chance, better = np.empty(len(own)), np.empty(len(own), bool)
    for i in range(len(own)):
        costs = cost(own[i], np.concatenate([there[i : i + 1], by_images[i : i + 1], places]))
        chance[i] = np.mean(costs[2:] <= costs[0] + _BEYOND)
        better[i] = costs[0] < costs[1]
    return Doubt(chance, better)
