"""Squared local correlation of two images under a displacement field, and its gradient, for instance optimisation.

In a window around each point the intensities of one image are fitted by a line through those of the other; what is
left over counts, 1 minus the squared correlation coefficient. So the images may differ in brightness, contrast and
sign from place to place, but no noise or texture of one of them counts for much.

The gradient is that of the loss itself: a voxel counts in all windows that hold it, which takes a second set of window
sums (where the derivation for ANTs keeps only the window around the voxel).

References
----------
Cachier P. et al., "Iconic feature based nonrigid registration: the PASHA algorithm", CVIU 89, 2003; Avants B. et al.,
"Symmetric diffeomorphic image registration with cross-correlation", Medical Image Analysis 12, 2008.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from itk_pdd.kernels.parallel import compiled, run

__all__ = ["FLOOR", "LocalCorrelation", "standardised"]

FLOOR = 1e-3
"""Share of the variance of an image below which that of a window is noise."""


@compiled
def _warp(first, last, moving, field, own, other, out, slope, counted):
    """out = moving(x + field(x)), linear, border replicated; slope is its derivative with respect to the field.

    Where there are masks (``own`` of the fixed and ``other`` of the moving image; empty ones are none), ``counted`` is
    set to whether a voxel is in the first and all that it is interpolated from are in the second.
    """
    depth, height, width = moving.shape
    masked_own, masked_other = own.shape[0] > 0, other.shape[0] > 0
    one, zero = np.float32(1), np.float32(0)
    for z in range(first, last):
        for y in range(height):
            for x in range(width):
                px, py, pz = x + field[z, y, x, 0], y + field[z, y, x, 1], z + field[z, y, x, 2]
                # Beyond the border the image does not change any more, along an axis of one voxel it never does.
                in_x = one if width > 1 and 0 <= px <= width - 1 else zero
                in_y = one if height > 1 and 0 <= py <= height - 1 else zero
                in_z = one if depth > 1 and 0 <= pz <= depth - 1 else zero
                px = min(max(px, zero), np.float32(width - 1))
                py = min(max(py, zero), np.float32(height - 1))
                pz = min(max(pz, zero), np.float32(depth - 1))
                x0, y0, z0 = int(px), int(py), int(pz)
                x1, y1, z1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1), min(z0 + 1, depth - 1)
                fx, fy, fz = np.float32(px - x0), np.float32(py - y0), np.float32(pz - z0)
                a, dx0 = moving[z0, y0, x0], moving[z0, y0, x1] - moving[z0, y0, x0]
                b, dx1 = moving[z0, y1, x0], moving[z0, y1, x1] - moving[z0, y1, x0]
                d, dx2 = moving[z1, y0, x0], moving[z1, y0, x1] - moving[z1, y0, x0]
                e, dx3 = moving[z1, y1, x0], moving[z1, y1, x1] - moving[z1, y1, x0]
                a += fx * dx0
                b += fx * dx1
                d += fx * dx2
                e += fx * dx3
                low, high = a + fy * (b - a), d + fy * (e - d)
                out[z, y, x] = low + fz * (high - low)
                slope_x = (one - fz) * ((one - fy) * dx0 + fy * dx1) + fz * ((one - fy) * dx2 + fy * dx3)
                slope[z, y, x, 0] = in_x * slope_x
                slope[z, y, x, 1] = in_y * ((one - fz) * (b - a) + fz * (e - d))
                slope[z, y, x, 2] = in_z * (high - low)
                if masked_own or masked_other:
                    counts = own[z, y, x] if masked_own else True
                    if masked_other:
                        counts = (
                            counts
                            and other[z0, y0, x0] and other[z0, y0, x1] and other[z0, y1, x0] and other[z0, y1, x1]
                            and other[z1, y0, x0] and other[z1, y0, x1] and other[z1, y1, x0] and other[z1, y1, x1]
                        )  # fmt: skip
                    counted[z, y, x] = one if counts else zero


@compiled
def _plane_sums(first, last, source, radius_y, radius_x, out):
    """Sums over windows within each plane, of what of them lies inside; arrays (planes, y, x)."""
    height, width = source.shape[1:]
    row = np.zeros(width + 2 * radius_x, np.float32)
    rows = np.zeros((height + 2 * radius_y, width), np.float32)
    for plane in range(first, last):
        for y in range(height):
            row[radius_x : radius_x + width] = source[plane, y]
            to = rows[y + radius_y]
            to[:] = 0
            for shift in range(2 * radius_x + 1):
                for x in range(width):
                    to[x] += row[x + shift]
        for y in range(height):
            to = out[plane, y]
            to[:] = 0
            for shift in range(2 * radius_y + 1):
                of = rows[y + shift]
                for x in range(width):
                    to[x] += of[x]


@compiled
def _depth_sums(first, last, planes, radius, out):
    """Sums of windows of slices, arrays (n, z, y x)."""
    depth, size = planes.shape[1:]
    for task in range(first, last):
        n, z = task // depth, task % depth
        to = out[n, z]
        low, high = max(z - radius, 0), min(z + radius, depth - 1)
        to[:] = planes[n, low]
        for other in range(low + 1, high + 1):
            of = planes[n, other]
            for i in range(size):
                to[i] += of[i]


@compiled
def _products(first, last, fixed, warped, counted, out):
    """Compute the products that the windows sum; arrays are flat beyond the slices."""
    for z in range(first, last):
        for i in range(fixed.shape[1]):
            value = counted[z, i] * warped[z, i]
            out[0, z, i] = value
            out[1, z, i] = value * warped[z, i]
            out[2, z, i] = value * fixed[z, i]


@compiled
def _coefficients(first, last, sums, mean_fixed, variance_fixed, share, floor, loss):
    """Sums replaced by the derivatives of each window's loss by them: by covariance, variance, mean."""
    for z in range(first, last):
        total = 0.0
        for i in range(mean_fixed.shape[1]):
            mean = sums[0, z, i] * share[z, i]
            variance = max(sums[1, z, i] * share[z, i] - mean * mean, np.float32(0)) + floor
            covariance = sums[2, z, i] * share[z, i] - mean * mean_fixed[z, i]
            slope = covariance / (variance * variance_fixed[z, i])
            counts = np.float32(1) if share[z, i] > 0 else np.float32(0)
            total += counts * (np.float32(1) - slope * covariance)
            a = np.float32(2) * slope * share[z, i]
            b = a * covariance / variance
            sums[0, z, i] = a
            sums[1, z, i] = b
            sums[2, z, i] = a * mean_fixed[z, i] - b * mean
        loss[z] = total


@compiled
def _chain(first, last, sums, fixed, warped, counted, slope):
    """The loss' derivative by each warped voxel times that of the voxel by the field, in the place of the latter."""
    for z in range(first, last):
        for i in range(fixed.shape[1]):
            factor = sums[1, z, i] * warped[z, i] - sums[0, z, i] * fixed[z, i] + sums[2, z, i]
            factor *= counted[z, i]
            for k in range(3):
                slope[z, i, k] *= factor


class LocalCorrelation:
    """Compute one minus the local correlation of two images, as a function of a displacement field.

    Parameters
    ----------
    fixed, moving : numpy.ndarray
        Intensities, float32 (z, y, x), of one shape.
    radius : int
        Half the width of the windows in voxels, without the centre; larger is less noisy and less local.
    masks : sequence of numpy.ndarray, optional
        Voxels of each image that may be compared, bool (z, y, x); None for all. What is excluded, or would land where
        that is so, is in no window and has none.
    floor : float
        Share of the variance of each image below which that of a window counts as noise; a larger one looks at strong
        contrasts only.
    scratch : dict, optional
        Memory that correlations of images of one shape share; each overwrites what another returned.
    """

    def __init__(
        self,
        fixed: np.ndarray,
        moving: np.ndarray,
        *,
        radius: int,
        masks: Sequence[np.ndarray | None] = (None, None),
        floor: float = FLOOR,
        scratch: dict[str, np.ndarray] | None = None,
    ) -> None:
        self._shape = fixed.shape
        # The variance of intensities far from zero would drown in rounding.
        self._fixed, self._moving = map(standardised, (fixed, moving), masks)
        self._masks = [np.empty((0, 0, 0), bool) if mask is None else mask for mask in masks]
        self._masked = any(mask is not None for mask in masks)
        self._floor = np.float32(floor)
        self._radius = [min(radius, (size - 1) // 2) for size in fixed.shape]
        # Fresh memory costs more than what is computed in it.
        scratch = {} if scratch is None else scratch
        shapes = {"warped": fixed.shape, "counted": fixed.shape, "slope": (*fixed.shape, 3)}
        shapes |= dict.fromkeys(("terms", "planes"), (3, fixed.shape[0], fixed.shape[1] * fixed.shape[2]))
        for name, shape in shapes.items():
            if name not in scratch:
                scratch[name] = np.empty(shape, np.float32)
        self._warped, self._counted, self._slope, self._terms, self._planes = (scratch[name] for name in shapes)
        self._counted[:] = 1
        self._set_fixed()

    def _set_fixed(self) -> None:
        """Mean and variance of the fixed image in each window, over the voxels that count."""
        self._terms[0] = _planar(self._counted)
        self._share = _planar(self._counted) / np.maximum(self._sums(1)[0], 1)
        self._set_products(self._fixed)
        sums = self._sums()
        self._mean = sums[0] * self._share
        self._variance = np.maximum(sums[1] * self._share - self._mean**2, 0) + self._floor

    def _set_products(self, image: np.ndarray) -> None:
        arrays = (_planar(each) for each in (self._fixed, image, self._counted))
        run(_products, self._shape[0], *arrays, self._terms)

    def _sums(self, count: int = 3) -> np.ndarray:
        """The first terms (n, z, y x) replaced by their sums over the windows."""
        tasks = count * self._shape[0]
        terms, planes = self._terms[:count], self._planes[:count]
        flat = (tasks, *self._shape[1:])
        run(_plane_sums, tasks, terms.reshape(flat), *self._radius[1:], planes.reshape(flat))
        run(_depth_sums, tasks, planes, self._radius[0], terms)
        return terms

    def gradient(self, field: np.ndarray) -> tuple[np.ndarray, float]:
        """Derivative of the loss and the loss at a field.

        Parameters
        ----------
        field : numpy.ndarray
            Displacements in voxels, float32 (z, y, x, 3), components x, y, z.

        Returns
        -------
        numpy.ndarray
            Derivative of the sum over all windows by each displacement, shape of ``field``; overwritten by the next
            call.
        float
            That sum.
        """
        depth = self._shape[0]
        slope, loss = self._slope, np.empty(depth)
        run(_warp, depth, self._moving, field, *self._masks, self._warped, slope, self._counted)
        if self._masked:
            self._set_fixed()
        self._set_products(self._warped)
        rest = self._mean, self._variance, self._share, self._floor
        run(_coefficients, depth, self._sums(), *rest, loss)
        # A voxel counts in the windows around those that it has in its own window: the sums are their own adjoint.
        images = (_planar(each) for each in (self._fixed, self._warped, self._counted))
        run(_chain, depth, self._sums(), *images, slope.reshape(depth, -1, 3))
        return slope, float(loss.sum())


def standardised(image: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Intensities less their mean, over their standard deviation, both those within a mask if there is one; float32."""
    values = image if mask is None or not mask.any() else image[mask]
    return np.ascontiguousarray(
        (image - values.mean(dtype=np.float64)) / (values.std(dtype=np.float64) or 1.0), np.float32
    )


def _planar(array: np.ndarray) -> np.ndarray:
    """A view (..., z, y x)."""
    return array.reshape(*array.shape[:-2], -1)
