"""Crops sampled at deformed places, other intensities, and class shares, in one pass over the voxels each."""

from __future__ import annotations

import numpy as np

from itk_pdd.kernels.parallel import compiled, run

__all__ = ["class_shares", "crop", "recoloured"]


@compiled
def _crop(first, last, image, labels, places, step, begin, ignored, out, classes):
    """Items are slices of the crop."""
    depth, height, width = image.shape
    row = np.empty((places.shape[2], 3), np.float32)
    for z in range(first, last):
        fz = (z + begin[0]) / step[0]
        iz = min(int(fz), places.shape[0] - 2)
        wz = np.float32(fz - iz)
        for y in range(out.shape[1]):
            fy = (y + begin[1]) / step[1]
            iy = min(int(fy), places.shape[1] - 2)
            wy = np.float32(fy - iy)
            for k in range(places.shape[2]):
                for c in range(3):
                    a = places[iz, iy, k, c] + wy * (places[iz, iy + 1, k, c] - places[iz, iy, k, c])
                    b = places[iz + 1, iy, k, c] + wy * (places[iz + 1, iy + 1, k, c] - places[iz + 1, iy, k, c])
                    row[k, c] = a + wz * (b - a)
            for x in range(out.shape[2]):
                fx = (x + begin[2]) / step[2]
                ix = min(int(fx), places.shape[2] - 2)
                wx = np.float32(fx - ix)
                px = row[ix, 0] + wx * (row[ix + 1, 0] - row[ix, 0])
                py = row[ix, 1] + wx * (row[ix + 1, 1] - row[ix, 1])
                pz = row[ix, 2] + wx * (row[ix + 1, 2] - row[ix, 2])
                nx, ny, nz = int(np.rint(px)), int(np.rint(py)), int(np.rint(pz))
                inside = 0 <= nx < width and 0 <= ny < height and 0 <= nz < depth
                classes[z, y, x] = labels[nz, ny, nx] if inside else ignored
                px = min(max(px, np.float32(0)), np.float32(width - 1))
                py = min(max(py, np.float32(0)), np.float32(height - 1))
                pz = min(max(pz, np.float32(0)), np.float32(depth - 1))
                x0, y0, z0 = int(px), int(py), int(pz)
                x1, y1, z1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1), min(z0 + 1, depth - 1)
                ax, ay, az = px - x0, py - y0, pz - z0
                a = image[z0, y0, x0] + ax * (image[z0, y0, x1] - image[z0, y0, x0])
                b = image[z0, y1, x0] + ax * (image[z0, y1, x1] - image[z0, y1, x0])
                c = image[z1, y0, x0] + ax * (image[z1, y0, x1] - image[z1, y0, x0])
                d = image[z1, y1, x0] + ax * (image[z1, y1, x1] - image[z1, y1, x0])
                a, c = a + ay * (b - a), c + ay * (d - c)
                out[z, y, x] = a + az * (c - a)


def crop(
    image: np.ndarray,
    labels: np.ndarray,
    places: np.ndarray,
    shape: tuple[int, int, int],
    *,
    step: tuple[float, float, float],
    begin: tuple[float, float, float],
    ignored: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Sample image and labels at places that are given on a coarse grid and interpolated linearly between.

    Parameters
    ----------
    image : numpy.ndarray, shape (z, y, x), float32
        Interpolated linearly; beyond the border it goes on.
    labels : numpy.ndarray, shape (z, y, x), uint8
        The nearest is taken.
    places : numpy.ndarray, shape (z', y', x', 3), float32
        Continuous indices in the image, components x, y, z; two or more along each axis.
    shape : tuple of int
        Of the crop, z, y, x.
    step : tuple of float
        Voxels of the crop from one place to the next along z, y, x.
    begin : tuple of float
        Voxels from the first place to the first voxel of the crop.
    ignored : int
        Label beyond the border.

    Returns
    -------
    image, labels : numpy.ndarray
        Of the shape of the crop.
    """
    out, classes = np.empty(shape, np.float32), np.empty(shape, np.uint8)
    run(
        _crop, shape[0], image, labels, places, np.asarray(step, float), np.asarray(begin, float), np.uint8(ignored),
        out, classes,
    )  # fmt: skip
    return out, classes


@compiled
def _shares(first, last, labels, fold, share, out):
    """Items are slices of the result."""
    classes = out.shape[0]
    for z in range(first, last):
        for k in range(classes):
            for y in range(out.shape[2]):
                for x in range(out.shape[3]):
                    out[k, z, y, x] = 0
        for dz in range(fold):
            for y in range(out.shape[2] * fold):
                for x in range(out.shape[3] * fold):
                    k = labels[z * fold + dz, y, x]
                    if k < classes:
                        out[k, z, y // fold, x // fold] += share


def class_shares(labels: np.ndarray, classes: int, fold: int) -> np.ndarray:
    """Share of each class in each block of ``fold``^3 voxels, (classes, z, y, x); labels from ``classes`` on are none.

    Parameters
    ----------
    labels : numpy.ndarray, shape (z, y, x), uint8
        Each length a multiple of ``fold``.
    """
    out = np.empty((classes, *(n // fold for n in labels.shape)), np.float32)
    run(_shares, out.shape[1], labels, fold, np.float32(1 / fold**3), out)
    return out


@compiled
def _recoloured(first, last, values, table, low, scale, out):
    """Items are rows."""
    for row in range(first, last):
        for x in range(values.shape[1]):
            at = (values[row, x] - low) * scale
            at = min(max(at, np.float32(0)), np.float32(table.size - 1))
            i = min(int(at), table.size - 2)
            out[row, x] = table[i] + (at - i) * (table[i + 1] - table[i])


def recoloured(values: np.ndarray, table: np.ndarray, low: float, high: float) -> np.ndarray:
    """Look intensities (z, y, x), float32, up in a table of what those from ``low`` to ``high`` become."""
    out = np.empty(values.shape, values.dtype)  # rows one after the other, whatever the order of the values
    scale = np.float32((table.size - 1) / (high - low))
    rows = values.reshape(-1, values.shape[-1])
    run(_recoloured, len(rows), rows, table, np.float32(low), scale, out.reshape(rows.shape))
    return out
