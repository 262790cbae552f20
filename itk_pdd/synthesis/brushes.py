"""Random variation and simple strokes, shared by the painters of anatomies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from itk_pdd.synthesis.canvas import Canvas, Region

__all__ = ["Brushes"]


class Brushes:
    """Random numbers and noise for painting an anatomy.

    Every stroke draws the same random numbers whether or not it touches the canvas, so that the same seed gives the
    same anatomy on any canvas. ``wobble`` are smooth noise fields of unit variance at its points, mixed at random to
    bend surfaces.
    """

    def __init__(self, canvas: Canvas, rng: np.random.Generator, wobble: Sequence[np.ndarray]) -> None:
        self.canvas = canvas
        self.rng = rng
        self.wobble = tuple(wobble)

    def near(self, point: Sequence[float], spread: float = 5.0) -> np.ndarray:
        """Move a point at random."""
        return np.asarray(point) + self.rng.normal(0, spread, 3).clip(-2 * spread, 2 * spread)

    def vary(self, values: Sequence[float], spread: float = 0.1) -> np.ndarray:
        """Lengths changed at random by a common and by individual factors."""
        common, single = self.rng.normal(0, spread), self.rng.normal(0, 0.6 * spread, len(values))
        return np.asarray(values) * np.exp((common + single).clip(-2 * spread, 2 * spread))

    def tilt(self, degrees: Sequence[float], spread: float = 7.0) -> np.ndarray:
        """Make a rotation about x, then y, then z, by random angles around the given ones."""
        result = np.eye(3)
        for axis, angle in enumerate(np.deg2rad(self.rng.normal(degrees, spread))):
            turn = np.eye(3)
            a, b = (axis + 1) % 3, (axis + 2) % 3
            turn[[a, b], [a, b]] = np.cos(angle)
            turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
            result = turn @ result
        return result

    def mixture(self, amplitude: float) -> np.ndarray:
        """Random weights of the noise fields that give noise of the wanted amplitude."""
        weights = self.rng.normal(0, 1, len(self.wobble))
        return (amplitude * weights / np.linalg.norm(weights)).astype(np.float32)

    def bent(self, amplitude: float) -> np.ndarray:
        """Smooth noise on the whole canvas, to be added to a level."""
        return self._mix(self.canvas.everywhere, self.mixture(amplitude))

    def blob(
        self,
        label: int,
        centre: Sequence[float],
        radii: Sequence[float],
        rotation: np.ndarray | None = None,
        *,
        over: Sequence[int] | None,
        exponent: float = 2.0,
        bend: float = 0.0,
        minus: np.ndarray | None = None,
    ) -> None:
        """Paint a superellipsoid, its surface bent by noise of amplitude ``bend``, less what ``minus`` cuts away.

        ``minus`` is a level on the whole canvas that is positive where nothing may be painted.
        """
        mixture = self.mixture(bend)
        found = self.canvas.ellipsoid(centre, radii, rotation, exponent=exponent, margin=3 * bend)
        if found is not None:
            self._stroke((label,), (0.0,), *found, mixture, minus, over)

    def tube(
        self,
        labels: Sequence[int] | int,
        path: np.ndarray,
        radii: np.ndarray | float,
        *,
        over: Sequence[int] | None,
        walls: Sequence[float] = (0.0,),
        bend: float = 0.0,
        minus: np.ndarray | None = None,
    ) -> tuple[np.ndarray, Region] | None:
        """Paint nested tubes, one label for each depth in ``walls`` below the surface; return the outer level."""
        labels = (labels,) if isinstance(labels, int) else tuple(labels)
        mixture = self.mixture(bend)
        found = self.canvas.tube(path, radii, margin=3 * bend + self.canvas.width)
        if found is None:
            return None
        return self._stroke(labels, walls, *found, mixture, minus, over)

    def _stroke(
        self,
        labels: Sequence[int],
        depths: Sequence[float],
        level: np.ndarray,
        region: Region,
        mixture: np.ndarray,
        minus: np.ndarray | None,
        over: Sequence[int] | None,
    ) -> tuple[np.ndarray, Region]:
        if mixture.any():
            level = level + self._mix(region, mixture)
        if minus is not None:
            level = np.maximum(level, minus[region])
        for label, depth in zip(labels, depths, strict=True):
            self.canvas.paint(label, level + np.float32(depth), region, over=over)
            over = (label,)
        return level, region

    def _mix(self, region: Region, weights: np.ndarray) -> np.ndarray:
        return sum(weight * noise[region] for weight, noise in zip(weights, self.wobble, strict=True))
