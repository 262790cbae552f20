"""A trained PDD network with its card, and registration with it. Free of ITK."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from itk_pdd.errors import RegistrationError
from itk_pdd.field import DisplacementField
from itk_pdd.grid import Grid
from itk_pdd.mapping import Mapping
from itk_pdd.network.card import WEIGHTS, PddCard
from itk_pdd.network.export import write_model
from itk_pdd.network.pddnet import Lattice, PddNetwork
from itk_pdd.network.preparation import prepare_image
from itk_pdd.network.storage import load_weights, read_tensors
from itk_pdd.resampling import resample
from itk_pdd.volume import Volume

__all__ = ["PddModel"]


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
        """The grid on which the network sees a fixed image that lies on ``grid``."""
        # By the rule of the other models, which the engine knows; it is imported late, as it imports models.
        from itk_pdd.engine import working_grid
        from itk_pdd.stages import Model

        chosen = working_grid(grid, Model(self.card.name, stages=(), spacing=self.card.spacing))
        return chosen.reindexed(*self.card.order())

    def capture_range_mm(self, grid: Grid) -> float:
        """Farthest displacement along an axis that the first search tries in an image on a working grid."""
        layout = self.network.lattice(grid.shape)
        reach = zip(layout.displacements.reach, layout.step, grid.spacing[::-1], strict=True)
        return min(along * step * spacing for along, step, spacing in reach)

    def displacements(
        self,
        fixed: Volume,
        moving: Volume,
        *,
        initial: Mapping | None = None,
        iterations: int | None = None,
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
        if fixed.grid.dimension != 3:
            raise RegistrationError(
                f"model {self.card.name} works on 3-D images, found one of {fixed.grid.dimension} dimensions: choose "
                "another model"
            )
        grid = self.working_grid(fixed.grid)
        network = self.network.to(device)
        prepared = [prepare_image(volume, max(grid.spacing), self.card.intensity) for volume in (fixed, moving)]
        # Always sampled on the same grid as the fixed image, beyond the moving one its border goes on.
        seen = _tensor(resample(prepared[0], grid), device)
        with torch.inference_mode():
            progress(0.05, "features")
            first = network.features(seen)
        mapping: Callable[[np.ndarray], np.ndarray] | None = initial
        count = len(network.settings.warps)
        for warp in range(count):
            progress((0.15 + 0.8 * warp) / count, "features")
            other = _tensor(resample(prepared[1], grid, mapping=mapping), device)
            layout = network.lattice(grid.shape, warp=warp)
            second = network.features(other)
            progress((0.5 + 0.8 * warp) / count, f"search {warp + 1} of {count}")
            found = network.displacements(first, second, layout, warp=warp, iterations=iterations)
            mapping = _Composed(_field(found, layout, grid), mapping)
        assert mapping is not None
        return mapping, grid


class _Composed:
    """First a displacement field that goes on beyond its border, then a mapping."""

    def __init__(self, field: DisplacementField, then: Callable[[np.ndarray], np.ndarray] | None) -> None:
        self.field, self.then = field, then

    def __call__(self, points: np.ndarray) -> np.ndarray:
        points = points + self.field.at(points, outside="nearest")
        return points if self.then is None else self.then(points)


def _tensor(volume: Volume, device: str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(volume.array, dtype=np.float32))[None].to(device)


def _field(vectors: Tensor, layout: Lattice, grid: Grid) -> DisplacementField:
    """Displacements of control points in voxels of a grid as a field in millimetres."""
    positions = layout.positions()
    control = Grid.create(
        layout.control.shape[::-1],
        np.asarray(grid.spacing) * _steps(positions)[::-1],
        grid.to_physical([float(p[0]) for p in positions[::-1]]),
        np.asarray(grid.direction),
    )
    physical = vectors.cpu().numpy().astype(np.float32) @ grid.matrix.T.astype(np.float32)
    return DisplacementField(np.ascontiguousarray(physical), control)


def _steps(positions: Sequence[Tensor]) -> np.ndarray:
    return np.asarray([float(p[1] - p[0]) for p in positions])
