"""Penalise the change of volume by a displacement field in instance optimisation, and compute the gradient.

Tissue is nearly incompressible, and where images tell little, contours fit as well with less of a change. The penalty
is the squared logarithm of (J + 3) / 4, J being the Jacobian determinant (the 3 gives folds a finite cost); the
standard deviation of that logarithm is the roughness that Learn2Reg reports. J is taken at the nodes of the lattice
from the edges towards their next neighbours, where there are some along every axis, and once more from those towards
their previous ones, so that no alternation of nodes is overlooked. An axis with a single node changes no volume.

References
----------
Rohlfing T. et al., "Volume-preserving nonrigid registration of MR breast images using free-form deformation with an
incompressibility constraint", IEEE TMI 22, 2003; Hering A. et al., "Learn2Reg", IEEE TMI 42, 2023.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from itk_pdd.kernels.parallel import compiled, run

__all__ = ["FLOOR", "SCALE", "add_volume_gradient"]

SCALE = 16.0  # so that the penalty is (J - 1)^2 for small changes
FLOOR = 1.0  # of J + 3: below it the penalty grows no faster with J; folds are for the unfolding


@compiled
def _add_corners(first, last, begin, sign, field, scale, weight, out):
    """Add the derivative of every second plane's corners with edges towards ``sign`` along every axis."""
    depth, height, width = field.shape[:3]
    flat = depth == 1
    one, zero = np.float32(1), np.float32(0)
    sx, sy, sz = sign / scale[0], sign / scale[1], sign / scale[2]
    step = int(sign)
    low = 0 if step > 0 else 1
    for i in range(first, last):
        z = begin + 2 * i
        other = z if flat else z + step
        for y in range(low, height - 1 + low):
            for x in range(low, width - 1 + low):
                ux, uy, uz = field[z, y, x, 0], field[z, y, x, 1], field[z, y, x, 2]
                xx = one + (field[z, y, x + step, 0] - ux) * sx
                yx = (field[z, y, x + step, 1] - uy) * sx
                xy = (field[z, y + step, x, 0] - ux) * sy
                yy = one + (field[z, y + step, x, 1] - uy) * sy
                zx, zy, xz, yz, zz = zero, zero, zero, zero, one
                if not flat:
                    zx = (field[z, y, x + step, 2] - uz) * sx
                    zy = (field[z, y + step, x, 2] - uz) * sy
                    xz = (field[other, y, x, 0] - ux) * sz
                    yz = (field[other, y, x, 1] - uy) * sz
                    zz = one + (field[other, y, x, 2] - uz) * sz
                # Derivatives of the determinant by the nine, its cofactors.
                cxx, cxy, cxz = yy * zz - yz * zy, yz * zx - yx * zz, yx * zy - yy * zx
                determinant = xx * cxx + xy * cxy + xz * cxz
                above = max(determinant + np.float32(3), np.float32(FLOOR))
                # Half the square's derivative: each node counts twice.
                slope = weight * np.float32(SCALE) * np.log(above * np.float32(0.25)) / above
                ax, ay, az = slope * sx, slope * sy, slope * sz
                a0, a1, a2 = ax * cxx, ax * (xz * zy - xy * zz), ax * (xy * yz - xz * yy)
                b0, b1, b2 = ay * cxy, ay * (xx * zz - xz * zx), ay * (xz * yx - xx * yz)
                out[z, y, x + step, 0] += a0
                out[z, y, x + step, 1] += a1
                out[z, y + step, x, 0] += b0
                out[z, y + step, x, 1] += b1
                if flat:
                    out[z, y, x, 0] -= a0 + b0
                    out[z, y, x, 1] -= a1 + b1
                else:
                    c0, c1, c2 = az * cxz, az * (xy * zx - xx * zy), az * (xx * yy - xy * yx)
                    out[z, y, x + step, 2] += a2
                    out[z, y + step, x, 2] += b2
                    out[other, y, x, 0] += c0
                    out[other, y, x, 1] += c1
                    out[other, y, x, 2] += c2
                    out[z, y, x, 0] -= a0 + b0 + c0
                    out[z, y, x, 1] -= a1 + b1 + c1
                    out[z, y, x, 2] -= a2 + b2 + c2


def add_volume_gradient(
    field: np.ndarray, out: np.ndarray, *, weight: float, scale: Sequence[float] = (1.0, 1.0, 1.0)
) -> np.ndarray:
    """Add the derivative of the penalty, a sum over nodes, by every displacement.

    Parameters
    ----------
    field : numpy.ndarray
        Displacements of the nodes of a lattice, float32 (z, y, x, 3), components x, y, z; where an axis has
        a single node, only the two others and their components count.
    out : numpy.ndarray
        What the derivative is added to, shape and type of ``field``.
    weight : float
        Factor of the penalty.
    scale : sequence of float
        Distance of neighbouring nodes along x, y, z in the unit of the displacements.

    Returns
    -------
    numpy.ndarray
        ``out``.
    """
    thin = next((axis for axis in (1, 2) if field.shape[axis] == 1), 0)
    if thin and field.shape[0] > 1:
        # The kernel wants the axis with a single node first, and its component last.
        order, components = ((1, 0, 2), [0, 2, 1]) if thin == 1 else ((2, 1, 0), [2, 1, 0])
        turned = [np.ascontiguousarray(each.transpose(*order, 3)[..., components]) for each in (field, out)]
        add_volume_gradient(*turned, weight=weight, scale=[scale[c] for c in components])
        out[...] = turned[1][..., components].transpose(*order, 3)
        return out
    depth = field.shape[0]
    distances = np.asarray(scale, np.float32)
    for sign in (1, -1):
        # Each plane of corners writes to two planes: those of every second one do not meet.
        low = 0 if sign > 0 or depth == 1 else 1
        for begin in (low, low + 1):
            count = (max(depth - 1, 1) + low - begin + 1) // 2
            if count > 0:
                run(_add_corners, count, begin, np.float32(sign), field, distances, np.float32(weight), out)
    return out
