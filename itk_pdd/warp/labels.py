"""Label images warped by transforms, by nearest neighbours or by the largest share."""

from __future__ import annotations

from typing import Any

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import slabs
from itk_pdd.io.formats.segmentation import carry_segments, layers_of
from itk_pdd.io.images import answer, opened, simpleitk_image
from itk_pdd.io.volume import Volume
from itk_pdd.warp.fit import fitted

__all__ = ["LABEL_INTERPOLATIONS", "warp_labels"]

LABEL_INTERPOLATIONS = ("nearest", "partial-volume")


def warp_labels(labels: Any, transform: Any, *, reference: Any = None, interpolation: str = "nearest") -> Any:
    """Resample a label image of the moving space onto the grid of the fixed image.

    Parameters
    ----------
    labels : itk.Image, SimpleITK.Image, Volume, str or path-like
        Whole numbers of any pixel type, 64-bit ones too. 3D Slicer's segmentations (.seg.nrrd) may have several
        layers, and keep names, colours and label values of their segments.
    transform, reference
        As for :func:`warp_image`.
    interpolation : {"nearest", "partial-volume"}
        "nearest" takes the label of the nearest voxel. "partial-volume" interpolates every label linearly by itself
        and takes the one with the largest share: smoother borders, no label that was not there. It takes as long for
        a thousand labels as for two.

    Returns
    -------
    itk.Image or SimpleITK.Image
        In the kind of ``labels``, pixel type kept, 0 where the moving image has no voxel.

    Raises
    ------
    RegistrationError
        As :func:`warp_image`, and if the labels hold fractions.
    """
    if interpolation not in LABEL_INTERPOLATIONS:
        raise RegistrationError(f"interpolation is {interpolation!r}, expected 'nearest' or 'partial-volume'")
    given = labels if isinstance(labels, Volume) else opened(labels, "labels")
    layers = [Volume.labels_from_image(layer, name="labels") for layer in layers_of(given)]
    source = layers[0].grid
    mapping, grid = fitted(source, transform, reference, "labels")
    results = [np.zeros(grid.shape, layer.array.dtype) for layer in layers]
    vote = _nearest if interpolation == "nearest" else _largest_share
    for slab, points in slabs(grid):
        index = source.to_index(mapping(points))
        inside = source.contains_index(index)
        for layer, result in zip(layers, results, strict=True):
            result[slab][inside] = vote(layer.array, index[inside])
    warped = simpleitk_image(np.stack(results, axis=-1) if len(results) > 1 else results[0], grid)
    carry_segments(given, warped)
    return answer(warped, labels, reference)


def _nearest(labels: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return the label of the nearest voxel at indices (n, dim) inside; half a voxel rounds up, as in ITK."""
    last = np.asarray(labels.shape[::-1]) - 1
    nearest = np.clip(np.floor(index + 0.5).astype(np.intp), 0, last)
    return labels[tuple(nearest.T[::-1])]


def _largest_share(labels: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return the label with the largest share of linear interpolation at indices (n, dim); in a tie the smallest."""
    last = np.asarray(labels.shape[::-1]) - 1
    index = np.clip(index, 0, last)
    base = np.floor(index).astype(np.intp)
    corners = [np.unravel_index(i, (2,) * index.shape[1]) for i in range(2 ** index.shape[1])]
    found = [labels[tuple(np.minimum(base + corner, last).T[::-1])] for corner in corners]
    result = found[0].copy()
    # Most voxels lie inside of one label.
    mixed = np.flatnonzero(np.any([other != result for other in found[1:]], axis=0))
    found = [candidate[mixed] for candidate in found]
    part = index[mixed] - base[mixed]
    weights = [np.prod(np.where(corner, part, 1 - part), axis=1) for corner in corners]
    best, share = found[0].copy(), np.full(len(mixed), -1.0)
    for candidate in found:
        own = sum(weight * (other == candidate) for other, weight in zip(found, weights, strict=True))
        # Sums in another order differ in the last digits.
        better = (own > share + 1e-12) | ((own > share - 1e-12) & (candidate < best))
        best, share = np.where(better, candidate, best), np.where(better, own, share)
    result[mixed] = best
    return result
