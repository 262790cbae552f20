"""Evidence for and against a registration at every control point: the numbers a calibration weighs.

All of them are lengths in working voxels or plain ratios, on the control grid of the last stage, so that they depend
neither on the spacing nor on the frame of the images nor on the scale of intensities, and all are such that more of
them means less certainty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy import ndimage

from itk_pdd.geometry.blockfield import BlockField, relaid
from itk_pdd.geometry.grid import Grid
from itk_pdd.kernels.control_grid.cpu import per_axis
from itk_pdd.kernels.interpolation.cpu import sample_linear
from itk_pdd.uncertainty.agreement import agreement
from itk_pdd.uncertainty.recorder import Recorder, StageRecord

__all__ = ["Evidence", "SeenImage", "collect"]

_HISTOGRAM_BINS = 64
_FLAT = 1e-3  # variance within a cell, relative to that of the image, below which there is nothing to see
_NEAR = ("disagreement0", "disagreement1", "disagreement2", "bending", "strain", "decorrelation", "width0")
_NEAR_WIDTH = 2.0  # standard deviation of the neighbourhood in control points
_DAMPING = 1e-3  # added to normal equations, per sample: structure below it is noise


class SeenImage(Protocol):
    """An image on the working grid: intensities and self-similarities."""

    @property
    def channels(self) -> tuple[np.ndarray, ...]:
        """Intensities of each channel, float32 (z, y, x)."""

    @property
    def dimension(self) -> int:
        """2 or 3."""

    @property
    def weights(self) -> tuple[float, ...]:
        """Weights of the channels."""

    @property
    def mask(self) -> np.ndarray | None:
        """Voxels that count, bool (z, y, x)."""

    @property
    def similarities(self) -> int:
        """Number of MIND-SSC features."""

    def features(self, dilation: int, channel: int = 0) -> np.ndarray:
        """Compute the MIND-SSC features of a channel, uint8 (z, y, x, 16)."""


@dataclass(frozen=True)
class Evidence:
    """Evidence for the certainty of a registration, on the control grid of the last stage."""

    # Numbers by name, float32, shape of ``grid``; more is less certain; lengths are working voxels.
    features: dict[str, np.ndarray]
    # Which directions are less certain, as matrices (*grid.shape, dim, dim) of trace 1, components along the axes x,
    # y(, z) of the grid: "marginals" of the search, "structure" of the images.
    spread: dict[str, np.ndarray]
    stages: tuple[StageRecord, ...]
    working: Grid
    # Bool, shape of ``grid``: control points that show something of the fixed image, inside its mask.
    inside: np.ndarray
    grid: Grid  # the control points
    voxel: float  # working spacing in millimetres
    moved: np.ndarray  # where the control points go, before the initial transform: physical points, (*grid.shape, dim)


def collect(recorder: Recorder, first: SeenImage, second: SeenImage, field: BlockField, grid: Grid) -> Evidence:
    """Collect the evidence of a registration: from the search of two images, and from its result, on the host."""
    target, shape = recorder.stages[-1].block, field.shape
    result: dict[str, np.ndarray] = {}
    last = len(recorder.stages) - 1
    ambiguity: Any = 0.0
    for n, stage in enumerate(recorder.stages):
        # Counted from the last stage on, so that a model of fewer stages has the same features.
        values = {f"width{last - n}": stage.width}
        if stage.disagreement is not None:
            values[f"disagreement{last - n}"] = stage.disagreement
        if 0 < n < last:
            values[f"change{last - n}"] = np.linalg.norm(stage.increment, axis=-1)
        for name, value in {**values, "ambiguity": stage.ambiguity}.items():
            result[name] = value if stage.block == target else relaid(value, stage.block, target, shape)
        ambiguity = ambiguity + result["ambiguity"]
    result["ambiguity"] = np.sqrt(ambiguity)
    if target[-1] % field.size:
        final = relaid(field.vectors, field.block, target, shape)
    else:
        final = field.restricted(target[-1]).vectors
    result["entropy0"] = recorder.stages[-1].entropy
    # A change by the refinement is as uncertain as the width that the last stage left.
    result["width0"] = np.sqrt(np.square(result["width0"]) + np.square(recorder.refined))
    result["smoothing"] = np.linalg.norm(final - recorder.stages[-1].mean, axis=-1)
    result["strain"], result["bending"] = _derivatives(final, target)
    seen, structure, inside = _from_images(first, second, field, target)
    result |= seen
    # Errors reach farther than what gives them away: the same in the neighbourhood.
    for name in _NEAR:
        if name in result:
            width = [_NEAR_WIDTH if n > 1 else 0 for n in result[name].shape]
            result[f"{name} near"] = ndimage.gaussian_filter(result[name], width, mode="nearest")
    marginals = sum(
        stage.covariance if stage.block == target else relaid(stage.covariance, stage.block, target, shape)
        for stage in recorder.stages[1:] or recorder.stages
    )
    spread = {"marginals": marginals + np.float32(recorder.stages[-1].step ** 2 / 12) * np.eye(3, dtype=np.float32)}
    spread["structure"] = structure
    flat = first.dimension == 2
    points = grid.blocks(target[-1])
    moved = (final[0, ..., :2] if flat else final) * np.float32(min(grid.spacing)) @ np.asarray(grid.direction).T
    return Evidence(
        {n: np.ascontiguousarray(v[0] if flat else v, np.float32) for n, v in result.items()},
        {n: _unit(v[0, ..., :2, :2] if flat else v) for n, v in spread.items()},
        tuple(recorder.stages),
        grid,
        inside[0] if flat else inside,
        points,
        float(min(grid.spacing)),
        points.points() + moved,
    )


def _unit(matrices: np.ndarray) -> np.ndarray:
    """Scale matrices to a trace of 1."""
    return matrices / np.trace(matrices, axis1=-2, axis2=-1)[..., None, None]


def _derivatives(field: np.ndarray, cell: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Compute the first derivative (a ratio) and the distance to the mean of neighbours (working voxels), as norms."""
    first, mean, axes = 0.0, 0.0, 0
    for axis in range(3):
        if field.shape[axis] < 2:
            continue
        first = first + np.sum(np.square(np.gradient(field, axis=axis) / np.float32(cell[axis])), axis=-1)
        mean = mean + ndimage.correlate1d(field, (0.5, 0, 0.5), axis=axis, mode="nearest")
        axes += 1
    if not axes:
        return np.zeros(field.shape[:3], np.float32), np.zeros(field.shape[:3], np.float32)
    return np.sqrt(first), np.linalg.norm(field - mean / axes, axis=-1)


def _from_images(
    first: SeenImage, second: SeenImage, field: BlockField, target: tuple[int, int, int]
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Compare the images under the final field, in intensities (matched to each other) and self-similarities."""
    stride = per_axis(2, first.dimension) if min(target[1:]) % 2 == 0 else (1, 1, 1)
    options: dict[str, Any] = {"block": field.block, "cell": target, "stride": stride}
    options |= {"mask": first.mask, "allowed": second.mask}
    sums: Any = None
    structured: Any = False
    likeness = []
    for channel, weight in enumerate(first.weights):
        if not weight:
            continue
        fixed = first.channels[channel]
        moving = _matched(fixed, second.channels[channel], field, first.mask)
        # Centred: the variance of large numbers would drown in the rounding of their squares.
        scale, centre = np.float32(1 / (float(fixed.std()) or 1.0)), np.float32(fixed.mean(dtype=np.float64))
        intensities = [((array - centre) * scale)[..., None] for array in (fixed, moving)]
        found = {
            "intensity": agreement(intensities[0], intensities[1], field.vectors, channels=1, **options),
            "structure": agreement(
                first.features(2, channel), second.features(2, channel), field.vectors, channels=first.similarities,
                factor=1 / 255, **options,
            ),
        }  # fmt: skip
        # Of each channel by itself: a variance of sums is none of a channel.
        f, m, ff, mm, fm = np.moveaxis(found["intensity"].moments, -1, 0)
        variances = np.maximum(ff - f**2, 0) * np.maximum(mm - m**2, 0)
        likeness.append(np.float32(weight) * np.clip((fm - f * m) / np.sqrt(variances + 1e-4), -1, 1))
        structured = structured | (ff - f**2 > _FLAT)
        if sums is None:
            sums = found
        else:
            sums = {k: v.plus(found[k]) for k, v in sums.items()}
    result: dict[str, np.ndarray] = {}
    spread = {}
    for name, each in sums.items():
        damped = each.normal + np.float32(_DAMPING) * np.eye(3, dtype=np.float32)
        if first.dimension == 2:
            damped[..., 2, 2] = 1
        inverse = np.linalg.inv(damped)
        axes = slice(0, first.dimension)
        spread[name] = np.trace(inverse[..., axes, axes], axis1=-2, axis2=-1)
        result[f"{name} left"] = np.linalg.norm((inverse @ each.slope[..., None])[..., 0], axis=-1)
        result[f"{name} residual"] = np.sqrt(each.square)
    result["structure hold"] = np.sqrt(spread["structure"])
    result["intensity bound"] = np.sqrt(spread["intensity"] * sums["intensity"].square)
    result["decorrelation"] = 1 - sum(likeness) / np.float32(sum(first.weights))
    result["unseen"] = 1 - sums["intensity"].count / sums["intensity"].total
    return result, inverse, structured


def _matched(fixed: np.ndarray, moving: np.ndarray, field: BlockField, mask: np.ndarray | None) -> np.ndarray:
    """Replace moving intensities by the fixed ones that they lie on average upon: comparable in any modality."""
    step = tuple(max(b, 2) if n > 1 else 1 for b, n in zip(field.block, fixed.shape, strict=True))
    axes = [np.arange(0, n, s) for n, s in zip(fixed.shape, step, strict=True)]
    index = np.stack(np.meshgrid(*axes, indexing="ij")[::-1], axis=-1)
    at = np.ix_(*[np.minimum(a // b, n - 1) for a, b, n in zip(axes, field.block, field.nodes, strict=True)])
    points = index + field.vectors[at]
    use = Grid.create(moving.shape[::-1]).contains_index(points)
    if mask is not None:
        use &= mask[np.ix_(*axes)]
    if not use.any():
        return moving
    pairs = sample_linear(moving, points[use]), fixed[np.ix_(*axes)][use]
    edges = np.unique(np.quantile(pairs[0], np.linspace(0, 1, _HISTOGRAM_BINS + 1)))
    if len(edges) < 3:
        return np.full_like(moving, pairs[1].mean())
    bins = np.clip(np.searchsorted(edges, pairs[0], side="right") - 1, 0, len(edges) - 2)
    count = np.maximum(np.bincount(bins, minlength=len(edges) - 1), 1)
    means = [np.bincount(bins, values, minlength=len(edges) - 1) / count for values in pairs]
    return np.interp(moving, *means).astype(np.float32)
