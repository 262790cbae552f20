"""Measures of a registration: overlap, surface distances, landmarks, smoothness, consistency and similarity.

All distances are millimetres. Everything is computed with numpy and scipy alone, independently of the registration code
that is being judged.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.field import DisplacementField

__all__ = [
    "dice",
    "folding_percentage",
    "jacobian_determinant",
    "labels_of",
    "mutual_information",
    "normalised_cross_correlation",
    "overlaps",
    "sd_log_jacobian",
    "sd_log_jacobian_plus_3",
    "summarise_surface_distances",
    "surface_distances",
]


def _check_shapes(first: np.ndarray, second: np.ndarray, names: str) -> None:
    if first.shape != second.shape:
        raise RegistrationError(f"{names} must have the same shape, found {first.shape} and {second.shape}.")


def labels_of(labels: np.ndarray) -> list[int]:
    """List the labels of a label map without the background (0), in ascending order."""
    return [int(label) for label in np.unique(labels) if label != 0]


def overlaps(
    first: np.ndarray, second: np.ndarray, labels: Iterable[int] | None = None
) -> dict[int, tuple[float, float]]:
    """Compute (Dice, Jaccard) of every label of two label maps of the same shape.

    By default of all labels that occur in either map, except 0; NaN where a label occurs in neither map, 0 where it
    occurs in one only.
    """
    first, second = np.asarray(first), np.asarray(second)
    _check_shapes(first, second, "label maps")
    wanted = sorted(set(labels_of(first)) | set(labels_of(second))) if labels is None else [int(n) for n in labels]
    result = {}
    for label in wanted:
        a, b = first == label, second == label
        total = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
        common = int(np.count_nonzero(a & b))
        result[label] = (2 * common / total, common / (total - common)) if total else (float("nan"), float("nan"))
    return result


def dice(first: np.ndarray, second: np.ndarray, labels: Iterable[int] | None = None) -> dict[int, float]:
    """Dice coefficient of every label, 2 |A and B| / (|A| + |B|); see :func:`overlaps`."""
    return {label: values[0] for label, values in overlaps(first, second, labels).items()}


def surface_distances(first: np.ndarray, second: np.ndarray, spacing: Iterable[float]) -> tuple[np.ndarray, np.ndarray]:
    """Measure the distances from every surface voxel of one region to the nearest of the other, and back, in mm.

    The surface of a region is the set of its voxels that have a face neighbour outside it (beyond the border of the
    image counts as outside). This is the convention of MONAI and MedPy. Regions are arrays of bool, axes (z,) y, x;
    ``spacing`` runs along x, y(, z). Both results are empty if either region is.
    """
    from scipy import ndimage

    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    _check_shapes(first, second, "regions")
    sampling = [float(s) for s in spacing][::-1]
    if len(sampling) != first.ndim:
        raise RegistrationError(f"spacing must have {first.ndim} components for this image, found {len(sampling)}.")
    if not first.any() or not second.any():
        return np.empty(0), np.empty(0)
    # Crop to the bounding box of both regions; with a margin of one voxel their surfaces stay the same.
    box = ndimage.find_objects((first | second).astype(np.uint8))[0]
    first, second = np.pad(first[box], 1), np.pad(second[box], 1)
    surfaces = [region & ~ndimage.binary_erosion(region) for region in (first, second)]
    to_first, to_second = (ndimage.distance_transform_edt(~surface, sampling=sampling) for surface in surfaces)
    return to_second[surfaces[0]], to_first[surfaces[1]]


def summarise_surface_distances(distances: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    """Summarise what :func:`surface_distances` returns, in millimetres; NaN where it is empty.

    ``hd95`` is the larger of the two directed 95th percentiles, the definition of Learn2Reg and MONAI (MedPy pools both
    directions instead); ``asd`` the mean over the surface voxels of both regions.
    """
    if not distances[0].size:
        return {"hd95": float("nan"), "asd": float("nan")}
    return {
        "hd95": max(float(np.percentile(d, 95)) for d in distances),
        "asd": float(np.concatenate(distances).mean()),
    }


def jacobian_determinant(field: DisplacementField) -> np.ndarray:
    """Compute the Jacobian determinant of x -> x + u(x) in physical space, at the interior voxels.

    Central differences, for any spacing and direction, float64, axes (z,) y, x; the outermost voxels, where there is no
    central difference, are left out.
    """
    dimension = field.grid.dimension
    if min(field.grid.size) < 3:
        raise RegistrationError(f"field must be at least 3 voxels wide along each axis, found {field.grid}.")
    to_index = np.linalg.inv(field.grid.matrix)
    result = np.empty([n - 2 for n in field.grid.shape])
    # Slab by slab along the slowest axis: all gradients of a large field at once would take gigabytes.
    step = max(1, 2**20 // int(np.prod(field.grid.shape[1:])))
    for start in range(0, result.shape[0], step):
        stop = min(start + step, result.shape[0])
        slab = field.vectors[start : stop + 2].astype(np.float64)
        gradient = np.empty((*[n - 2 for n in slab.shape[:-1]], dimension, dimension))
        for axis in range(dimension):  # index axis x, y, z is array axis dimension - 1 - axis
            ahead = [slice(1, -1)] * dimension
            behind = list(ahead)
            ahead[dimension - 1 - axis], behind[dimension - 1 - axis] = slice(2, None), slice(None, -2)
            gradient[..., axis] = (slab[tuple(ahead)] - slab[tuple(behind)]) / 2
        result[start:stop] = _determinant(gradient @ to_index + np.eye(dimension))
    return result


def _determinant(matrices: np.ndarray) -> np.ndarray:
    """Determinants of (..., 2, 2) or (..., 3, 3) matrices; written out, ten times faster than numpy.linalg.det."""
    m = np.moveaxis(matrices, (-2, -1), (0, 1))
    if len(m) == 2:
        return m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0]
    return (
        m[0, 0] * (m[1, 1] * m[2, 2] - m[1, 2] * m[2, 1])
        - m[0, 1] * (m[1, 0] * m[2, 2] - m[1, 2] * m[2, 0])
        + m[0, 2] * (m[1, 0] * m[2, 1] - m[1, 1] * m[2, 0])
    )


def folding_percentage(determinant: np.ndarray) -> float:
    """Percentage of voxels at which the determinant of the Jacobian is not positive."""
    return float(100 * np.mean(determinant <= 0))


def sd_log_jacobian_plus_3(determinant: np.ndarray) -> float:
    """Learn2Reg's measure of smoothness: standard deviation of log(clip(J + 3, 1e-9, 1e9)).

    References
    ----------
    A. Hering et al., "Learn2Reg: comprehensive multi-task medical image registration challenge, dataset and evaluation
    in the era of deep learning", IEEE Transactions on Medical Imaging 42(3), 2023, and its evaluation code.
    """
    return float(np.std(np.log(np.clip(determinant + 3, 1e-9, 1e9))))


def sd_log_jacobian(determinant: np.ndarray) -> float:
    """Standard deviation of log J over the voxels that are not folded (the logarithm has no value at the others)."""
    positive = determinant[determinant > 0]
    return float(np.std(np.log(positive))) if positive.size else float("nan")


def normalised_cross_correlation(first: np.ndarray, second: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Correlate the intensities of two images on one grid, from -1 to 1; NaN if one is constant.

    ``mask`` selects the voxels to look at; by default all.
    """
    a, b = _selected(first, second, mask)
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt(np.sum(a * a) * np.sum(b * b))
    return float(np.sum(a * b) / scale) if scale > 0 else float("nan")


def mutual_information(
    first: np.ndarray, second: np.ndarray, mask: np.ndarray | None = None, *, bins: int = 32
) -> float:
    """Compute the mutual information of the intensities of two images on one grid, in nats, from a joint histogram.

    It has ``bins`` equally wide bins between minimum and maximum of each image. ``mask`` selects the voxels; by default
    all.
    """
    a, b = _selected(first, second, mask)
    joint = np.histogram2d(a, b, bins=bins)[0] / a.size
    expected = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    seen = joint > 0
    return float(np.sum(joint[seen] * np.log(joint[seen] / expected[seen])))


def _selected(first: np.ndarray, second: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.asarray(first), np.asarray(second)
    _check_shapes(first, second, "images")
    if mask is None:
        return first.ravel().astype(np.float64), second.ravel().astype(np.float64)
    mask = np.asarray(mask, dtype=bool)
    _check_shapes(first, mask, "image and mask")
    if not mask.any():
        raise RegistrationError("mask must select at least one voxel, found none.")
    return first[mask].astype(np.float64), second[mask].astype(np.float64)
