"""Fuse the labels of several registered atlases: weighted by local similarity and by the calibrated uncertainty."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from itk_pdd.uncertainty.labels import entropy_of

__all__ = ["Fused", "fuse", "majority"]

_BLOCK = 60_000  # voxels whose weights are solved at a time
_WINDOW = 3.0  # standard deviation, in voxels, of the Gaussian in which intensities are made comparable
_RADIUS = 2  # of the patches in which images are compared, in voxels
_POWER = 2.0  # of the expected errors: a larger one trusts the most similar atlases more
# Share of the mean error that is added to the errors of each atlas: a larger one makes the weights more equal. It was
# chosen on hippocampi of the training split.
_RIDGE = 1.0


@dataclass(frozen=True)
class Fused:
    """Fused labels."""

    labels: np.ndarray  # the most probable label of each voxel
    values: tuple[int, ...]  # the labels, ascending
    probabilities: np.ndarray  # float32, (labels, z, y, x); they add up to 1

    @property
    def entropy(self) -> np.ndarray:
        """Compute the entropy of the probabilities in nats, float32."""
        return entropy_of(np.moveaxis(self.probabilities, 0, -1))


def fuse(
    target: np.ndarray,
    images: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    deviations: Sequence[np.ndarray] | None = None,
    *,
    spacing: Sequence[float] | None = None,
) -> Fused:
    """Fuse the labels of atlases that are warped onto a target image (z, y, x).

    The weights of the atlases at a voxel minimise the expected error of the fused label, if two atlases are wrong
    together as often as both differ from the target in the patch around the voxel (joint label fusion). Each atlas
    votes by probabilities: its labels, their borders blurred by the uncertainty of its registration, which
    ``deviations`` are (standard deviations of the displacements in millimetres). ``spacing`` is in millimetres along z,
    y, x.

    References
    ----------
    Wang H. et al., "Multi-atlas segmentation with joint label fusion", IEEE TPAMI 35(3), 2013.
    """
    values = _values(labels)
    box = _box(labels)
    probabilities = np.zeros((len(values), *target.shape), np.float32)
    probabilities[0] = 1
    inner = (slice(None), *box)
    probabilities[inner] = 0
    weights = _weights(target[box], [image[box] for image in images], [each[box] for each in labels])
    for number, each in enumerate(labels):
        deviation = None if deviations is None else deviations[number][box]
        votes = _votes(each[box], values, deviation, spacing or (1.0,) * target.ndim)
        for k, vote in enumerate(votes):
            probabilities[k][box] += weights[number] * vote
    total = probabilities[inner].sum(axis=0)
    probabilities[inner] /= np.maximum(total, 1e-6)
    return _decided(probabilities, values)


def majority(labels: Sequence[np.ndarray]) -> Fused:
    """Fuse labels by the number of atlases that have them."""
    values = _values(labels)
    votes = np.stack([sum((each == value).astype(np.float32) for each in labels) for value in values]) / len(labels)
    return _decided(votes, values)


def _values(labels: Sequence[np.ndarray]) -> tuple[int, ...]:
    return tuple(int(value) for value in np.unique([0, *(v for each in labels for v in np.unique(each))]))


def _decided(probabilities: np.ndarray, values: tuple[int, ...]) -> Fused:
    kind = np.uint8 if values[-1] < 256 and values[0] >= 0 else np.int32
    return Fused(np.asarray(values, kind)[probabilities.argmax(axis=0)], values, probabilities)


def _box(labels: Sequence[np.ndarray]) -> tuple[slice, ...]:
    """Bound the voxels that some atlas labels, with a margin."""
    from scipy import ndimage

    used, margin = np.any([each != 0 for each in labels], axis=0), _RADIUS + 4
    if not used.any():
        return tuple(slice(0, n) for n in used.shape)
    return tuple(
        slice(max(0, s.start - margin), s.stop + margin) for s in ndimage.find_objects(used.astype(np.uint8))[0]
    )


def _weights(target: np.ndarray, images: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> np.ndarray:
    """Weigh the atlases at each voxel (atlases, z, y, x); where all agree, alike."""
    from scipy import ndimage

    count = len(images)
    weights = np.full((count, *target.shape), 1 / count, np.float32)
    if count == 1:
        return weights
    differ = np.zeros(target.shape, bool)
    for each in labels[1:]:
        differ |= each != labels[0]
    differ = ndimage.binary_dilation(differ, iterations=2)
    level = _levelled(target)
    errors = [np.abs(_levelled(image) - level) for image in images]
    places = np.nonzero(differ)
    matrices = np.empty((len(places[0]), count, count), np.float32)
    size = 2 * _RADIUS + 1
    for i in range(count):
        for j in range(i, count):
            together = ndimage.uniform_filter(errors[i] * errors[j], size, mode="nearest")[places]
            matrices[:, i, j] = matrices[:, j, i] = np.maximum(together, 0) ** _POWER
    for first in range(0, len(matrices), _BLOCK):
        part = slice(first, first + _BLOCK)
        matrix = matrices[part].astype(np.float64)
        mean = np.trace(matrix, axis1=1, axis2=2)[:, None, None] / count
        matrix += np.eye(count) * (_RIDGE * mean + 1e-12)
        found = np.maximum(np.linalg.solve(matrix, np.ones((len(matrix), count, 1)))[..., 0], 0)
        index: tuple[Any, ...] = (slice(None), *(place[part] for place in places))
        weights[index] = (found / found.sum(axis=1, keepdims=True)).T
    return weights


def _levelled(array: np.ndarray) -> np.ndarray:
    """Subtract the local mean and divide by the local standard deviation."""
    from scipy import ndimage

    values = array.astype(np.float32)
    values = (values - values.mean()) / max(float(values.std()), 1e-12)
    mean = ndimage.gaussian_filter(values, _WINDOW)
    variance = ndimage.gaussian_filter(values * values, _WINDOW) - mean * mean
    return (values - mean) / np.sqrt(np.maximum(variance, 1e-3))


def _votes(
    labels: np.ndarray, values: Sequence[int], deviation: np.ndarray | None, spacing: Sequence[float]
) -> Iterator[np.ndarray]:
    """Yield the probability of each label: that of a border displaced by a normal error along its normal."""
    if deviation is None:
        for value in values:
            yield (labels == value).astype(np.float32)
        return
    from scipy import ndimage
    from scipy.special import ndtr

    sampling, smallest = tuple(spacing), min(spacing)
    # The deviation is that of the whole vector: one component has less.
    width = np.maximum(deviation / np.sqrt(labels.ndim), 0.1 * smallest)
    votes = []
    for value in values:
        inside = labels == value
        if not inside.any() or inside.all():
            votes.append(inside.astype(np.float32))
            continue
        # Distance to the border, which lies half a voxel from the centres on either side.
        depth = np.where(
            inside,
            ndimage.distance_transform_edt(inside, sampling) - smallest / 2,
            smallest / 2 - ndimage.distance_transform_edt(~inside, sampling),
        )
        votes.append(ndtr(depth / width).astype(np.float32))
    total = np.maximum(np.sum(votes, axis=0), 1e-6)
    for vote in votes:
        yield vote / total
