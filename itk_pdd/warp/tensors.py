"""Diffusion tensors warped by transforms: resampled, and turned with the tissue."""

from __future__ import annotations

from typing import Any

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import slabs
from itk_pdd.io.formats.tensors import TensorImage
from itk_pdd.warp.fit import fitted

__all__ = ["warp_tensors"]


def warp_tensors(
    tensors: TensorImage, transform: Any, *, reference: Any = None, interpolation: str = "linear"
) -> TensorImage:
    """Resample symmetric tensors onto the grid of the fixed image and turn them with the tissue.

    The principal directions are preserved: a fibre along e1 before lies along F e1 after, where F, the inverse of the
    Jacobian of the transform, is how the tissue moves from the moving to the fixed image; the plane of e1 and e2 is
    kept as well, and so are the eigenvalues.

    Parameters
    ----------
    tensors : TensorImage
        Tensors of the moving space, in physical (LPS) axes.
    transform, reference
        As for :func:`itk_pdd.warp_image`.
    interpolation : {"linear", "nearest"}
        "linear" interpolates each component, which keeps positive tensors positive.

    Returns
    -------
    TensorImage
        On the grid of the reference; zero where the moving image has none.

    Raises
    ------
    RegistrationError
        As for :func:`itk_pdd.warp_image`, or if the interpolation is another one: tensors could lose their sign.

    References
    ----------
    Alexander, Pierpaoli, Basser, Gee: Spatial transformations of diffusion tensor magnetic resonance images. IEEE
    Transactions on Medical Imaging 20 (11), 2001: "preservation of principal direction".
    """
    from itk_pdd.kernels.interpolation.cpu import sample_linear, sample_nearest

    if interpolation not in ("linear", "nearest"):
        raise RegistrationError(f"interpolation is {interpolation!r}, expected 'linear' or 'nearest' for tensors")
    mapping, grid = fitted(tensors.grid, transform, reference, "image")
    if mapping.matrix is None:
        # Beyond a field the nearest displacement goes on: a jump at its border would turn tensors there.
        jacobian = mapping.extended().field(grid).jacobian()
    else:
        jacobian = np.broadcast_to(mapping.matrix[:3, :3], (*grid.shape, 3, 3))
    sample = sample_linear if interpolation == "linear" else sample_nearest
    source = np.ascontiguousarray(tensors.values.reshape(*tensors.grid.shape, 9), np.float32)
    result = np.empty((*grid.shape, 3, 3))
    for slab, points in slabs(grid):
        index = tensors.grid.to_index(mapping(points))
        values = np.asarray(sample(source, index, outside="zero"), float).reshape(*index.shape, 3)
        result[slab] = turned(values, jacobian[slab])
    return TensorImage(result, grid)


def turned(tensors: np.ndarray, jacobian: np.ndarray) -> np.ndarray:
    """Turn tensors (..., 3, 3) by the inverse of Jacobians (..., 3, 3) of fixed to moving points; see above."""
    lengths, axes = np.linalg.eigh(tensors)  # ascending
    # The rows of the adjugate: the inverse but for a factor, which directions do not feel; finite where it folds.
    rows = np.asarray(jacobian, float)
    adjugate = np.stack([np.cross(rows[..., (i + 1) % 3, :], rows[..., (i + 2) % 3, :]) for i in range(3)], axis=-1)
    first = _unit(_apply(adjugate, axes[..., 2]))
    second = _apply(adjugate, axes[..., 1])
    second = _unit(second - (second * first).sum(axis=-1, keepdims=True) * first)
    frame = np.stack([np.cross(first, second), second, first], axis=-1)
    return (frame * lengths[..., None, :]) @ frame.swapaxes(-1, -2)


def _apply(matrices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return (matrices @ vectors[..., None])[..., 0]


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)
