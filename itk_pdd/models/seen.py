"""Features that the searches of a PDD network compare: of the fixed image, and of the moving one warped so far."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.mapping import PointMap
from itk_pdd.geometry.resampling import resample
from itk_pdd.io.volume import Volume
from itk_pdd.network.organs import OrganFeatures, smoothed
from itk_pdd.network.pddnet import Lattice, PddNetwork
from itk_pdd.solver.organs import Organs
from itk_pdd.solver.problem import Problem

__all__ = ["Seen", "SeenImages", "SeenOrgans", "grid_of", "seen_masks"]


class SeenImages:
    """Features that a network finds in the images, anew in each warped image, on the working grid."""

    def __init__(self, network: PddNetwork, fixed: Volume, moving: Volume, grid: Grid, device: str) -> None:
        self._network, self._images, self._grid, self._device = network, (fixed, moving), grid, device

    def fixed(self, layout: Lattice) -> Tensor:
        """Features (channels, z', y', x') of the fixed image."""
        return self._features(resample(self._images[0], self._grid))

    def moving(self, layout: Lattice, mapping: PointMap | None) -> Tensor:
        """Features of the moving image, which goes on beyond its border, where a mapping takes fixed points."""
        return self._features(resample(self._images[1], self._grid, mapping=mapping))

    def _features(self, volume: Volume) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(volume.array, dtype=np.float32))[None].to(self._device)
        with torch.inference_mode():
            return self._network.features(tensor)


class SeenOrgans:
    """Organ probabilities. Organs keep their names when they move: the answers for the images are warped."""

    def __init__(self, features: OrganFeatures, organs: Organs, grid: Grid, device: str) -> None:
        self._features, self._grid = features, grid
        self._maps = [
            (smoothed(torch.from_numpy(found).to(device)), where) for found, where in (organs.fixed, organs.moving)
        ]

    def fixed(self, layout: Lattice) -> Tensor:
        """See :class:`SeenImages`."""
        return self._at(0, grid_of(layout.features, self._grid).points())

    def moving(self, layout: Lattice, mapping: PointMap | None) -> Tensor:
        """See :class:`SeenImages`."""
        points = grid_of(layout.features, self._grid).points()
        return self._at(1, points if mapping is None else mapping(points))

    @torch.inference_mode()
    def _at(self, which: int, points: np.ndarray) -> Tensor:
        maps, where = self._maps[which]
        return self._features.at_places(maps, torch.from_numpy(where.to_index(points)))


Seen = SeenImages | SeenOrgans


def seen_masks(
    problem: Problem, layout: Lattice, grid: Grid, mapping: PointMap, device: str
) -> tuple[Tensor | None, Tensor | None]:
    """Masks of both images on the grid of the features, the moving one warped; None where there is none.

    What lies beyond the moving image is no more known than what its mask leaves out.
    """
    features = grid_of(layout.features, grid)

    def on_features(mask: Volume | None, where: PointMap | None) -> Tensor | None:
        if mask is None:
            return None
        share = Volume(mask.array.astype(np.float32), mask.grid)
        found = resample(share, features, mapping=where, outside="zero").array > 0.5
        return torch.from_numpy(np.ascontiguousarray(found, np.float32)).to(device)

    return on_features(problem.fixed_mask, None), on_features(problem.moving_mask, mapping)


def grid_of(positions: Sequence[Tensor], grid: Grid) -> Grid:
    """Make the grid of evenly spaced voxel indices along z, y, x of another grid, two or more along each."""
    steps = np.asarray([float(along[1] - along[0]) for along in positions[::-1]])
    first = grid.to_physical(np.asarray([float(along[0]) for along in positions[::-1]]))
    size = [len(along) for along in positions[::-1]]
    return Grid.create(size, np.asarray(grid.spacing) * steps, first, np.asarray(grid.direction))
