"""Random shapes: geometry without any anatomy in particular, to learn registration of anything."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from itk_pdd.synthesis.brushes import Brushes
from itk_pdd.synthesis.canvas import Canvas, smooth_path
from itk_pdd.synthesis.noise import NoiseTile

__all__ = ["MAXIMAL_LABELS", "paint_shapes"]

MAXIMAL_LABELS = 26
"""Labels of random shapes are 1 to 26; 0 is the background."""


def paint_shapes(
    canvas: Canvas,
    rng: np.random.Generator,
    wobble: Sequence[np.ndarray],
    tile: NoiseTile,
    half: Sequence[float],
) -> None:
    """Paint a random mosaic, blobs, shells and tubes, mostly inside a body outline.

    The points of the canvas are in hundredths of the mean extent of the grid, zero at its centre, ``half`` its half
    extents (x, y, z) in these units. What is drawn does not depend on the points. ``wobble`` is as for
    :func:`itk_pdd.synthesis.abdomen.paint_abdomen`, ``tile`` noise smoothed by one unit of its coordinates.
    """
    painter = _Painter(canvas, rng, wobble)
    painter.half = np.asarray(half, dtype=float)
    painter.labels = rng.permutation(np.arange(1, MAXIMAL_LABELS + 1))[: rng.integers(10, MAXIMAL_LABELS + 1)]
    painter.mosaic(tile)
    for _ in range(rng.integers(8, 28)):
        painter.shell()
    for _ in range(rng.integers(4, 16)):
        painter.vessel()


class _Painter(Brushes):
    half: np.ndarray
    labels: np.ndarray

    def label(self) -> int:
        return int(self.rng.choice(self.labels))

    def mosaic(self, tile: NoiseTile) -> None:
        """Paint a body with a skin, filled by the largest of several noise fields at each point (or no outline)."""
        rng, canvas = self.rng, self.canvas
        radii = np.maximum(self.half, 0.4 * self.half.max()) * rng.uniform(0.65, 0.98, 3)
        # Some bodies are cut by the field of view, as an abdomen is.
        radii[rng.random(3) < 0.2] *= 3
        rotation = self.tilt((0, 0, 0), 10)
        thickness, outlined = rng.uniform(0.8, 4.0), rng.random() < 0.8
        mixture = self.mixture(rng.uniform(1, 4))
        skin, filling = self.label(), self.label()
        outline = np.full(canvas.labels.shape, -1e3, dtype=np.float32)
        if outlined:
            found = canvas.ellipsoid((0, 0, 0), radii, rotation, exponent=rng.uniform(2.0, 3.0), margin=1e4)
            if found is not None:
                outline[...] = 1e3
                outline[found[1]] = found[0]
                outline += self._mix(canvas.everywhere, mixture)
        canvas.paint(skin, outline)
        inner = outline + np.float32(thickness)
        canvas.paint(filling, inner)
        self._cells(tile, inner, count=rng.integers(3, 9), sigma=rng.uniform(6, 16))
        if rng.random() < 0.5:
            self._cells(tile, inner, count=2, sigma=rng.uniform(3, 6), threshold=rng.uniform(0.8, 1.6))

    def _cells(self, tile: NoiseTile, inner: np.ndarray, *, count: int, sigma: float, threshold: float = 0.0) -> None:
        """Cells of noise: each field covers where it is the largest so far."""
        largest = np.full(inner.shape, threshold, dtype=np.float32)
        for _ in range(count):
            shift = self.rng.uniform(0, 200, 3)
            label = self.label()
            noise = tile.sample([c / np.float32(sigma) for c in self.canvas.coordinates], shift)
            # The mean slope of smooth noise turns values into distances.
            self.canvas.paint(label, np.maximum((largest - noise) * np.float32(sigma), inner))
            largest = np.maximum(largest, noise)

    def shell(self) -> None:
        """Paint a bent superellipsoid, often with another tissue inside."""
        rng = self.rng
        size = np.exp(rng.uniform(np.log(2.5), np.log(20)))
        centre = rng.uniform(-0.9, 0.9, 3) * self.half
        radii = size * np.exp(rng.uniform(-0.5, 0.5, 3))
        rotation, exponent = self.tilt((0, 0, 0), 60), rng.choice([2.0, 2.0, 3.0, 4.0])
        wall = rng.uniform(0.15, 0.5) * radii.min() if rng.random() < 0.5 else 0.0
        bend = rng.uniform(0, 0.15) * size
        mixture = self.mixture(bend)
        labels = [self.label(), self.label()] if wall else [self.label()]
        found = self.canvas.ellipsoid(centre, radii, rotation, exponent=exponent, margin=3 * bend)
        if found is not None:
            self._stroke(labels, (0.0, wall)[: len(labels)], *found, mixture, None, tuple(self.labels))

    def vessel(self) -> None:
        """Paint a bent tube of varying width, sometimes hollow."""
        rng = self.rng
        points = [rng.uniform(-1, 1, 3) * self.half]
        heading = rng.normal(0, 1, 3)
        for _ in range(rng.integers(3, 7)):
            heading = 0.6 * heading + rng.normal(0, 0.6, 3)
            points.append(points[-1] + heading / np.linalg.norm(heading) * rng.uniform(10, 25))
        path = smooth_path(points)
        radii = np.exp(np.linspace(*np.log(rng.uniform(0.8, 5, 2)), len(path)))
        wall = rng.uniform(0.2, 0.5) * radii.min() if rng.random() < 0.3 else 0.0
        labels = [self.label(), self.label()] if wall else [self.label()]
        self.tube(labels, path, radii, walls=(0.0, wall)[: len(labels)], over=tuple(self.labels))
