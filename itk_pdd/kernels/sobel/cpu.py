"""Derivatives of an image along its axes by the Sobel operator."""

from __future__ import annotations

import numpy as np

from itk_pdd.kernels.parallel import compiled, run

__all__ = ["sobel"]

_SMOOTH, _DIFFERENCE = (0.25, 0.5, 0.25), (-0.5, 0.0, 0.5)


@compiled
def _filter(first, last, image, weights, out):
    """Weights (axis, tap) along each axis in turn; beyond the border the image goes on as it ends."""
    depth, height, width = image.shape
    line = np.empty(width + 2, np.float32)
    for z in range(first, last):
        for y in range(height):
            line[:] = 0
            for i in range(3):
                plane = min(max(z + i - 1, 0), depth - 1)
                for j in range(3):
                    weight = weights[0, i] * weights[1, j]
                    row = image[plane, min(max(y + j - 1, 0), height - 1)]
                    for x in range(width):
                        line[x + 1] += weight * row[x]
            line[0], line[width + 1] = line[1], line[width]
            for x in range(width):
                out[z, y, x] = weights[2, 0] * line[x] + weights[2, 1] * line[x + 1] + weights[2, 2] * line[x + 2]


def sobel(image: np.ndarray, axis: int) -> np.ndarray:
    """Derivative of an image along an axis, smoothed along the others.

    Parameters
    ----------
    image : numpy.ndarray
        Intensities, shape (z, y, x).
    axis : int
        0 for z, 1 for y, 2 for x.

    Returns
    -------
    numpy.ndarray
        Change per voxel, float32, shape of ``image``: a central difference along ``axis`` (half of it at the border),
        averaged with weights 1, 2, 1 over the neighbours along the other axes.
    """
    weights = np.asarray([_DIFFERENCE if k == axis else _SMOOTH for k in range(3)], np.float32)
    out = np.empty(image.shape, np.float32)
    run(_filter, len(image), np.ascontiguousarray(image, np.float32), weights, out)
    return out
