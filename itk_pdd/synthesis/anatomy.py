"""Random label maps: a schematic abdomen, or random shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.volume import Volume
from itk_pdd.synthesis.abdomen import NOMINAL_EXTENT, AbdomenLabel, paint_abdomen
from itk_pdd.synthesis.canvas import Canvas, TissueMap
from itk_pdd.synthesis.noise import NoiseTile, texture_sigmas
from itk_pdd.synthesis.shapes import MAXIMAL_LABELS, paint_shapes

__all__ = ["ANATOMIES", "Anatomy", "abdomen_labels", "label_names", "random_shapes"]

ANATOMIES = ("abdomen", "shapes")

# Smoothness of the noise that bends surfaces, in the painters' units.
_BEND_SIGMA = {"abdomen": 22.0, "shapes": 7.0}


@dataclass(frozen=True)
class Anatomy:
    """A random anatomy in physical space: the same tissues at the same places however it is sampled.

    Parameters
    ----------
    grid : Grid
        The grid it fills (2-D or 3-D, any spacing and direction). An abdomen lies in it as a patient does: +x to the
        left, +y to the back, +z to the head, along the grid's axes.
    seed : int
        Determines the anatomy entirely.
    kind : {"abdomen", "shapes"}
        What to paint.

    Raises
    ------
    RegistrationError
        If the kind is unknown.
    """

    grid: Grid
    seed: int
    kind: str = "abdomen"

    def __post_init__(self) -> None:
        if self.kind not in ANATOMIES:
            raise RegistrationError(f"kind is {self.kind!r}; expected one of {', '.join(map(repr, ANATOMIES))}")

    @property
    def names(self) -> Mapping[int, str]:
        """Names of the labels."""
        return label_names(self.kind)

    def sample(self, grid: Grid | None = None, displacement: DisplacementField | None = None) -> TissueMap:
        """Paint the anatomy on a grid.

        Parameters
        ----------
        grid : Grid, optional
            Where to paint; the anatomy's own grid by default.
        displacement : DisplacementField, optional
            On that grid: the voxel at x shows the tissue at x + u(x).

        Returns
        -------
        TissueMap
            Arrays on ``grid``, with texture that sticks to the tissue.

        Raises
        ------
        RegistrationError
            If the grids' dimensions or sizes do not fit each other.
        """
        grid = self.grid if grid is None else grid
        if grid.dimension != self.grid.dimension:
            raise RegistrationError(
                f"grid has {grid.dimension} dimensions, the anatomy {self.grid.dimension}; expected the same"
            )
        if displacement is not None and not displacement.grid.same_space(grid):
            raise RegistrationError(
                f"displacement lies on a grid of {displacement.grid}; expected the grid to paint on, {grid}"
            )
        draws = np.random.default_rng(self.seed)
        local = self._local_coordinates(grid, displacement)
        unit, shift = self._units()
        if grid.dimension == 2:
            # A slice of a patient at the height of liver and kidneys, or of shapes through their middle.
            height = draws.uniform(10, 45) * unit[2] if self.kind == "abdomen" else 0.0
            local.append(np.full(grid.shape, height, dtype=np.float32))
        scaled = [c * np.float32(1 / u) + np.float32(s) for c, u, s in zip(local, unit, shift, strict=True)]
        mean_unit = float(np.mean(unit[: grid.dimension]))
        canvas = Canvas(scaled, float(np.mean(grid.spacing)) / mean_unit)
        bend, *textures = self._tiles
        sigma = np.float32(_BEND_SIGMA[self.kind])
        wobble = [bend.sample([c / sigma for c in scaled], (shift, 0, 0)) for shift in (0.0, 10.0, 20.0)]
        if self.kind == "abdomen":
            paint_abdomen(canvas, draws, wobble)
        else:
            # In 2-D the shapes come from a thin slab, or few would meet the plane.
            half = np.append(self.grid.canonical().extent / 2, 12 * unit[2])[:3] / unit
            paint_shapes(canvas, draws, wobble, bend, half)
        texture = np.stack([tile.sample(local) for tile in textures])
        return canvas.tissue_map(texture)

    def labels(self, grid: Grid | None = None, displacement: DisplacementField | None = None) -> Volume:
        """Sample the label map alone, uint8 (see :meth:`sample`)."""
        grid = self.grid if grid is None else grid
        return Volume(self.sample(grid, displacement).labels, grid)

    def _local_coordinates(self, grid: Grid, displacement: DisplacementField | None) -> list[np.ndarray]:
        """Millimetres from the centre along the anatomical axes of the anatomy's own grid, one array per axis."""
        axes = np.asarray(self.grid.canonical().direction)
        matrix = axes.T @ grid.matrix
        start = axes.T @ (np.asarray(grid.origin) - self.grid.centre)
        result = []
        for row, first in zip(matrix, start, strict=True):
            values = np.full(grid.shape, first, dtype=np.float64)
            for axis, (step, count) in enumerate(zip(row, grid.size, strict=True)):
                shape = [1] * grid.dimension
                shape[grid.dimension - 1 - axis] = count
                values += (step * np.arange(count)).reshape(shape)
            result.append(values.astype(np.float32))
        if displacement is not None:
            for component, row in zip(result, axes.T.astype(np.float32), strict=True):
                for axis, weight in enumerate(row):
                    if weight:
                        component += weight * displacement.vectors[..., axis]
        return result

    def _units(self) -> tuple[np.ndarray, np.ndarray]:
        """Millimetres per unit of the painter along the anatomical axes, and where the grid's centre lies in units."""
        extent = self.grid.canonical().extent
        if self.kind == "shapes":
            return np.full(3, extent.mean() / 100), np.zeros(3)
        unit = np.ones(3)
        unit[: len(extent)] = extent / np.asarray(NOMINAL_EXTENT)[: len(extent)]
        # A patient is squeezed to fit only so far: a grid of another shape cuts the patient or leaves air.
        across = float(np.sqrt(unit[0] * unit[1]))
        across = min(across, 1.15 * unit[:2].min())
        unit[:2] = np.clip(unit[:2], 0.85 * across, 1.15 * across)
        unit[2] = np.clip(unit[2], 0.55 * across, 1.4 * across) if len(extent) == 3 else across
        shown = extent[2] / unit[2] / NOMINAL_EXTENT[2] if len(extent) == 3 else 1.0
        # A thin slab shows the height of liver and kidneys.
        return unit, np.array([0.0, 4.0, 30.0 * max(0.0, 1 - shown) if len(extent) == 3 else 0.0])

    @cached_property
    def _tiles(self) -> list[NoiseTile]:
        """Noise of unit scale that bends surfaces and delimits cells, then fine, middle and coarse texture (mm)."""
        rng = np.random.default_rng([self.seed, 1])
        dimension, extent = self.grid.dimension, 1.3 * float(self.grid.extent.max())
        tiles = [NoiseTile.draw(rng, dimension, 1.0, 30.0, 64)]
        tiles += [NoiseTile.draw(rng, dimension, sigma, extent, 128) for sigma in texture_sigmas(self.grid)]
        return tiles


def abdomen_labels(grid: Grid, *, seed: int) -> Volume:
    """Make a random schematic abdomen as a uint8 label map; the labels are :class:`AbdomenLabel`.

    Parameters
    ----------
    grid : Grid
        2-D or 3-D, any size, spacing and direction.
    seed : int
        Determines the result entirely.
    """
    return Anatomy(grid, seed, "abdomen").labels()


def random_shapes(grid: Grid, *, seed: int) -> Volume:
    """Random cells, blobs, shells and tubes as a uint8 label map; 0 is the background.

    Parameters
    ----------
    grid : Grid
        2-D or 3-D, any size, spacing and direction.
    seed : int
        Determines the result entirely.
    """
    return Anatomy(grid, seed, "shapes").labels()


def label_names(kind: str) -> dict[int, str]:
    """Names of the labels of a kind of anatomy, in lower case with spaces."""
    if kind == "abdomen":
        return {int(label): label.name.lower().replace("_", " ") for label in AbdomenLabel}
    return {0: "background"} | {label: f"shape {label}" for label in range(1, MAXIMAL_LABELS + 1)}
