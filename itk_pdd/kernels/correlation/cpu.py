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

from itk_pdd.kernels.parallel import allocating, compiled, inlined, run

__all__ = ["FLOOR", "LocalCorrelation", "standardised"]

FLOOR = 1e-3
"""Share of the variance of an image below which that of a window is noise."""


@compiled
def _warp_sums(
    first, last, moving, field, order, own, other, fixed, radius_y, radius_x, warped, slope, counted, planes
):  # fmt: skip
    """Set warped = moving(x + field(x)), linear, border replicated, slope to its derivative with respect to the field.

    ``order`` holds the components of the field along x, y, z of the arrays. Where there are masks (``own`` of the fixed
    and ``other`` of the moving image; empty ones are none), ``counted`` is set to whether a voxel is in the first and
    all that it is interpolated from are in the second. ``planes`` (3, z, y, x) are set to the sums over windows within
    each plane of the products.
    """
    depth, height, width = moving.shape
    masked_own, masked_other = own.shape[0] > 0, other.shape[0] > 0
    one, zero = np.float32(1), np.float32(0)
    of_x, of_y, of_z = order
    terms, row, rows = _buffers(height, width, radius_y, radius_x)
    for z in range(first, last):
        for y in range(height):
            for x in range(width):
                px, py, pz = x + field[z, y, x, of_x], y + field[z, y, x, of_y], z + field[z, y, x, of_z]
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
                warped[z, y, x] = low + fz * (high - low)
                slope_x = (one - fz) * ((one - fy) * dx0 + fy * dx1) + fz * ((one - fy) * dx2 + fy * dx3)
                slope[z, y, x, of_x] = in_x * slope_x
                slope[z, y, x, of_y] = in_y * ((one - fz) * (b - a) + fz * (e - d))
                slope[z, y, x, of_z] = in_z * (high - low)
                if masked_own or masked_other:
                    counts = own[z, y, x] if masked_own else True
                    if masked_other:
                        counts = (
                            counts
                            and other[z0, y0, x0] and other[z0, y0, x1] and other[z0, y1, x0] and other[z0, y1, x1]
                            and other[z1, y0, x0] and other[z1, y0, x1] and other[z1, y1, x0] and other[z1, y1, x1]
                        )  # fmt: skip
                    counted[z, y, x] = one if counts else zero
        for y in range(height):
            for x in range(width):
                value = counted[z, y, x] * warped[z, y, x]
                terms[0, y, x] = value
                terms[1, y, x] = value * warped[z, y, x]
                terms[2, y, x] = value * fixed[z, y, x]
        for n in range(3):
            _plane_sums(terms[n], row, rows, radius_y, radius_x, planes[n, z])


@compiled
def _fixed_sums(first, last, fixed, counted, radius_y, radius_x, planes):
    """Set planes (3, z, y, x) to sums over windows within each plane: of values, their squares, their number."""
    height, width = fixed.shape[1:]
    terms, row, rows = _buffers(height, width, radius_y, radius_x)
    for z in range(first, last):
        for y in range(height):
            for x in range(width):
                value = counted[z, y, x] * fixed[z, y, x]
                terms[0, y, x] = value
                terms[1, y, x] = value * fixed[z, y, x]
                terms[2, y, x] = counted[z, y, x]
        for n in range(3):
            _plane_sums(terms[n], row, rows, radius_y, radius_x, planes[n, z])


@allocating
def _buffers(height, width, radius_y, radius_x):
    """Three planes, and the rows of :func:`_plane_sums` with zeros around them."""
    row = np.zeros(width + 2 * radius_x, np.float32)
    rows = np.zeros((height + 2 * radius_y, width), np.float32)
    return np.empty((3, height, width), np.float32), row, rows


@inlined
def _plane_sums(source, row, rows, radius_y, radius_x, out):
    """Sums over windows within a plane, of what of them lies inside; arrays (y, x)."""
    height, width = source.shape
    for y in range(height):
        for x in range(width):
            row[radius_x + x] = source[y, x]
        to = rows[y + radius_y]
        for x in range(width):
            to[x] = row[x]
        for shift in range(1, 2 * radius_x + 1):
            for x in range(width):
                to[x] += row[x + shift]
    for y in range(height):
        to, of = out[y], rows[y]
        for x in range(width):
            to[x] = of[x]
        for shift in range(1, 2 * radius_y + 1):
            of = rows[y + shift]
            for x in range(width):
                to[x] += of[x]


@inlined
def _depth_sums(planes, z, y, radius, out):
    """Sums over the slices of the windows around a row, of sums within planes (z, y, x)."""
    low, high = max(z - radius, 0), min(z + radius, planes.shape[0] - 1)
    of = planes[low, y]
    for x in range(out.size):
        out[x] = of[x]
    for other in range(low + 1, high + 1):
        of = planes[other, y]
        for x in range(out.size):
            out[x] += of[x]


@compiled
def _statistics(first, last, planes, radius_z, counted, floor, share, mean, variance):
    """Mean and variance of each window from the planes of :func:`_fixed_sums`; the share of a voxel in them."""
    height, width = counted.shape[1:]
    sums = np.empty((3, width), np.float32)
    for z in range(first, last):
        for y in range(height):
            for n in range(3):
                _depth_sums(planes[n], z, y, radius_z, sums[n])
            for x in range(width):
                part = counted[z, y, x] / max(sums[2, x], np.float32(1))
                centre = sums[0, x] * part
                share[z, y, x], mean[z, y, x] = part, centre
                variance[z, y, x] = max(sums[1, x] * part - centre * centre, np.float32(0)) + floor


@compiled
def _window_slopes(
    first, last, planes, radius_z, mean_fixed, variance_fixed, share, floor, radius_y, radius_x, loss, out
):  # fmt: skip
    """Turn sums into the derivatives of each window's loss by them, summed over windows within each plane.

    The derivatives are those by the covariance, the variance and the mean; ``loss`` (z,) is set to the loss.
    """
    height, width = share.shape[1:]
    terms, row, rows = _buffers(height, width, radius_y, radius_x)
    sums = np.empty((3, width), np.float32)
    for z in range(first, last):
        total = 0.0
        for y in range(height):
            for n in range(3):
                _depth_sums(planes[n], z, y, radius_z, sums[n])
            for x in range(width):
                part = share[z, y, x]
                mean = sums[0, x] * part
                variance = max(sums[1, x] * part - mean * mean, np.float32(0)) + floor
                covariance = sums[2, x] * part - mean * mean_fixed[z, y, x]
                slope = covariance / (variance * variance_fixed[z, y, x])
                counts = np.float32(1) if part > 0 else np.float32(0)
                total += counts * (np.float32(1) - slope * covariance)
                a = np.float32(2) * slope * part
                b = a * covariance / variance
                terms[0, y, x] = a
                terms[1, y, x] = b
                terms[2, y, x] = a * mean_fixed[z, y, x] - b * mean
        loss[z] = total
        for n in range(3):
            _plane_sums(terms[n], row, rows, radius_y, radius_x, out[n, z])


@compiled
def _chain(first, last, planes, radius_z, fixed, warped, counted, slope):
    """The loss' derivative by each warped voxel times that of the voxel by the field, in the place of the latter."""
    height, width = fixed.shape[1:]
    sums = np.empty((3, width), np.float32)
    for z in range(first, last):
        for y in range(height):
            for n in range(3):
                _depth_sums(planes[n], z, y, radius_z, sums[n])
            for x in range(width):
                factor = sums[1, x] * warped[z, y, x] - sums[0, x] * fixed[z, y, x] + sums[2, x]
                factor *= counted[z, y, x]
                for k in range(3):
                    slope[z, y, x, k] *= factor


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
        # A slice is taken for as many slices as it has rows: threads share slices.
        turned = (0, 2, 1) if fixed.shape[0] == 1 else (0, 1, 2)
        self._order = turned
        self._shape = tuple(fixed.shape[2 - axis] for axis in turned[::-1])
        # The variance of intensities far from zero would drown in rounding.
        images = map(standardised, (fixed, moving), masks)
        self._fixed, self._moving = (each.reshape(self._shape) for each in images)
        self._masks = [np.empty((0, 0, 0), bool) if mask is None else mask.reshape(self._shape) for mask in masks]
        self._masked = any(mask is not None for mask in masks)
        self._floor = np.float32(floor)
        self._radius = [min(radius, (size - 1) // 2) for size in self._shape]
        # Fresh memory costs more than what is computed in it.
        scratch = {} if scratch is None else scratch
        shapes = {"warped": self._shape, "counted": self._shape, "slope": (*fixed.shape, 3)}
        shapes |= dict.fromkeys(("planes", "slopes"), (3, *self._shape))
        for name, shape in shapes.items():
            if name not in scratch:
                scratch[name] = np.empty(shape, np.float32)
        self._warped, self._counted, self._slope, self._planes, self._slopes = (scratch[name] for name in shapes)
        self._share, self._mean, self._variance = (np.empty(self._shape, np.float32) for _ in range(3))
        self._counted[:] = 1
        self._set_fixed()

    def _set_fixed(self) -> None:
        """Mean and variance of the fixed image in each window, over the voxels that count."""
        depth, (radius_z, *within) = self._shape[0], self._radius
        run(_fixed_sums, depth, self._fixed, self._counted, *within, self._slopes)
        run(
            _statistics, depth, self._slopes, radius_z, self._counted, self._floor,
            self._share, self._mean, self._variance,
        )  # fmt: skip

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
        depth, (radius_z, *within) = self._shape[0], self._radius
        slope, loss = self._slope.reshape(*self._shape, 3), np.empty(depth)
        where = field.reshape(*self._shape, 3), self._order
        images = self._warped, slope, self._counted
        run(_warp_sums, depth, self._moving, *where, *self._masks, self._fixed, *within, *images, self._planes)
        if self._masked:
            self._set_fixed()
        rest = self._mean, self._variance, self._share, self._floor
        run(_window_slopes, depth, self._planes, radius_z, *rest, *within, loss, self._slopes)
        # A voxel counts in the windows around those that it has in its own window: the sums are their own adjoint.
        run(_chain, depth, self._slopes, radius_z, self._fixed, self._warped, self._counted, slope)
        return self._slope, float(loss.sum())


def standardised(image: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Intensities less their mean, over their standard deviation, both those within a mask if there is one; float32."""
    values = image if mask is None or not mask.any() else image[mask]
    return np.ascontiguousarray(
        (image - values.mean(dtype=np.float64)) / (values.std(dtype=np.float64) or 1.0), np.float32
    )
