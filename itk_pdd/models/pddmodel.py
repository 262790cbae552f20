"""A trained PDD network with its card, and registration with it. Free of ITK."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.mapping import Mapping
from itk_pdd.geometry.resampling import resample
from itk_pdd.io.volume import Volume
from itk_pdd.network.card import WEIGHTS, PddCard
from itk_pdd.network.export import write_model
from itk_pdd.network.pddnet import Lattice, PddNetwork
from itk_pdd.network.preparation import prepare_image
from itk_pdd.network.storage import load_weights, read_tensors
from itk_pdd.solver.memory import Needs
from itk_pdd.solver.unfolding import without_folds

__all__ = ["PddModel"]

_MIND = 210  # bytes per voxel that MIND-SSC features take while they are made


class PddModel:
    """A PDD network and its card.

    Parameters
    ----------
    network : PddNetwork
        With trained weights.
    card : PddCard
        What it is.
    """

    def __init__(self, network: PddNetwork, card: PddCard) -> None:
        self.network = network.eval().requires_grad_(False)
        self.card = card

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str]) -> PddModel:
        """Read a model folder: ``card.json`` and ``weights.safetensors``.

        Raises
        ------
        RegistrationError
            If a file is missing or damaged, comes from a newer version, or the two do not belong together.
        """
        card = PddCard.from_folder(folder)
        network = PddNetwork(card.network)
        load_weights(network, read_tensors(Path(folder) / WEIGHTS, name="model"), name=f"model {card.name}")
        return cls(network, card)

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Write card and weights into a folder, for ``register(model=folder)``.

        Raises
        ------
        OutputError
            If they cannot be written; a model that was there is kept.
        """
        write_model(folder, self.network, self.card)

    def working_grid(self, grid: Grid) -> Grid:
        """The grid on which the network sees a fixed image on ``grid``; RegistrationError if that is not 3-D."""
        if grid.dimension != 3:
            raise RegistrationError(
                f"model {self.card.name} works on 3-D images, found one of {grid.dimension} dimensions: choose "
                "another model"
            )
        # By the rule of the other models, which the engine knows; it is imported late, as it imports models.
        from itk_pdd.solver.engine import working_grid
        from itk_pdd.solver.settings import Model

        chosen = working_grid(grid, Model(self.card.name, stages=(), spacing=self.card.spacing))
        return chosen.reindexed(*self.card.order())

    def capture_range_mm(self, grid: Grid) -> float:
        """Farthest displacement along an axis that the first search tries in an image on a working grid."""
        layout = self.network.lattice(grid.shape)
        reach = zip(layout.displacements.reach, layout.step, grid.spacing[::-1], strict=True)
        return min(along * step * spacing for along, step, spacing in reach)

    def needs(self, fixed: Grid, moving: Grid, *, on_host: bool = True) -> Needs:
        """Estimate the memory that a registration takes.

        Parameters
        ----------
        fixed, moving : Grid
            Grids of the images.
        on_host : bool
            Whether the network works on the CPU; features and costs are not held here where a GPU does.
        """
        grid, settings = self.working_grid(fixed), self.network.settings
        layouts = [self.network.lattice(grid.shape, warp=number) for number in range(len(settings.warps))]
        # Both images normalised, and as the network sees them.
        images = 4 * (3 * grid.voxels + float(np.prod(moving.extent)) / float(np.prod(grid.spacing)))
        # The field, and the points at which it is sampled, some at a time; before that it is looked through for folds.
        ends = max(4 * 3 * fixed.voxels, 4 * 10 * grid.voxels) + 100 * min(fixed.voxels, 2_000_000)
        if not on_host:
            return Needs(int(images), 0, 0, int(ends))
        points = math.prod(layouts[0].shape)
        if settings.features == "obelisk":
            # The sampled map, of 8 times as many channels, and what the convolutions make of it, of 4 times as many.
            making = 4 * (8 + 3 * 4) * settings.channels * points
        else:
            making = _MIND * grid.voxels
        costs = max(4 * math.prod(lay.control.shape) * math.prod(lay.displacements.shape) for lay in layouts)
        # Regularised costs beside those that they are made of.
        peak = max(making, 2.1 * costs)
        held = 2 * 4 * self.network.channels * points
        return Needs(int(images + held), int(peak), int(peak), int(ends))

    def displacements(
        self,
        fixed: Volume,
        moving: Volume,
        *,
        initial: Mapping | None = None,
        iterations: int | None = None,
        smallest_jacobian: float | None = None,
        device: str = "cpu",
        progress: Callable[[float, str], None] = lambda fraction, text: None,
    ) -> tuple[Callable[[np.ndarray], np.ndarray], Grid]:
        """Register two images.

        Parameters
        ----------
        fixed, moving : Volume
            3-D images in the units the network was trained with.
        initial : Mapping, optional
            Where to start, from fixed to moving physical points.
        iterations : int, optional
            Steps of the instance optimisation instead of the card's.
        smallest_jacobian : float, optional
            Where the Jacobian determinant of what a search found is smaller, it is relaxed (see
            :class:`itk_pdd.solver.settings.Model`), so that all searches together do not fold on the working grid; by
            default folds are left where they are.
        device : str
            Where the network works, as torch names it.
        progress : callable
            Called with a fraction from 0 to 1 and the name of the step at hand.

        Returns
        -------
        mapping : callable
            From fixed to moving physical points (..., 3) in millimetres, the initial transform included.
        grid : Grid
            The working grid.

        Raises
        ------
        RegistrationError
            If the images are not 3-D, or too small for the network.
        """
        grid = self.working_grid(fixed.grid)
        network = self.network.to(device)
        prepared = [prepare_image(volume, max(grid.spacing), self.card.intensity) for volume in (fixed, moving)]
        # Always sampled on the same grid as the fixed image, beyond the moving one its border goes on.
        seen = _tensor(resample(prepared[0], grid), device)
        with torch.inference_mode():
            progress(0.05, "features")
            first = network.features(seen)
        fields: list[DisplacementField] = []
        count = len(network.settings.warps)
        for warp in range(count):
            progress((0.15 + 0.8 * warp) / count, "features")
            so_far = _Composed(fields, initial) if fields else initial
            other = _tensor(resample(prepared[1], grid, mapping=so_far), device)
            layout = network.lattice(grid.shape, warp=warp)
            second = network.features(other)
            progress((0.5 + 0.8 * warp) / count, f"search {warp + 1} of {count}")
            found = network.displacements(first, second, layout, warp=warp, iterations=iterations)
            vectors = found.cpu().numpy().astype(np.float32)
            if smallest_jacobian is not None:
                # Few control points are soon relaxed; what folds between them is left to the working grid.
                vectors = without_folds(vectors, scale=_steps(layout.positions())[::-1], minimum=smallest_jacobian)
            fields.append(_field(vectors, layout, grid))
        if smallest_jacobian is not None:
            # Determinants multiply: those of several fields together may be smaller than of each.
            fields = _without_folds(fields, grid, smallest_jacobian ** len(fields))
        return _Composed(fields, initial), grid


class _Composed:
    """Displacement fields that go on beyond their borders, the last first, then a mapping."""

    def __init__(self, fields: Sequence[DisplacementField], then: Callable[[np.ndarray], np.ndarray] | None) -> None:
        self.fields, self.then = tuple(fields), then

    def __call__(self, points: np.ndarray) -> np.ndarray:
        for field in reversed(self.fields):
            points = points + field.at(points, outside="nearest")
        return points if self.then is None else self.then(points)


def _without_folds(fields: list[DisplacementField], grid: Grid, minimum: float) -> list[DisplacementField]:
    """The same fields where they do not fold, seen together on the working grid; else one that does not."""
    whole = DisplacementField.from_function(_Composed(fields, None), grid)
    vectors = np.ascontiguousarray(whole.vectors @ np.linalg.inv(grid.matrix).T.astype(np.float32))
    relaxed = without_folds(vectors, scale=(1.0,) * 3, minimum=minimum)
    if relaxed is vectors:
        return fields
    return [DisplacementField(np.ascontiguousarray(relaxed @ grid.matrix.T.astype(np.float32)), grid)]


def _tensor(volume: Volume, device: str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(volume.array, dtype=np.float32))[None].to(device)


def _field(vectors: np.ndarray, layout: Lattice, grid: Grid) -> DisplacementField:
    """Displacements of control points in voxels of a grid as a field in millimetres."""
    positions = layout.positions()
    control = Grid.create(
        layout.control.shape[::-1],
        np.asarray(grid.spacing) * _steps(positions)[::-1],
        grid.to_physical([float(p[0]) for p in positions[::-1]]),
        np.asarray(grid.direction),
    )
    physical = vectors @ grid.matrix.T.astype(np.float32)
    return DisplacementField(np.ascontiguousarray(physical), control)


def _steps(positions: Sequence[Tensor]) -> np.ndarray:
    return np.asarray([float(p[1] - p[0]) for p in positions])
