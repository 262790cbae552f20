"""The steps of the default registration as one writes them with numpy and torch, to measure the kernels against."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from itk_pdd import kernels
from itk_pdd.kernels.control_grid.cpu import make_consistent, upsample
from itk_pdd.kernels.correlation.cpu import FLOOR, LocalCorrelation, standardised
from itk_pdd.kernels.hamming.cpu import hamming_costs
from itk_pdd.kernels.mind.cpu import mind_features
from itk_pdd.kernels.mind.definition import mind_ssc
from itk_pdd.kernels.tree.cpu import min_marginals
from itk_pdd.kernels.tree.spanning import spanning_tree

RADIUS, CELL, CONTROL = 5, 3, (14, 12, 16)

__all__ = ["compare"]


def plain_costs(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Mean Hamming distance of cells for all displacements, one shift of the whole image after the other."""
    count, shape = 2 * RADIUS + 1, fixed.shape
    wide = np.pad(moving, RADIUS, mode="edge")
    out = np.empty((count,) * 3 + CONTROL, np.float32)
    for d in np.ndindex(count, count, count):
        there = wide[tuple(slice(o, o + n) for o, n in zip(d, shape, strict=True))]
        bits = np.bitwise_count(fixed ^ there)
        cells = bits.reshape(*(v for n in CONTROL for v in (n, CELL)))
        out[d] = cells.mean(axis=(1, 3, 5), dtype=np.float32)
    return np.moveaxis(out, (0, 1, 2), (3, 4, 5)) / np.float32(60)


def plain_min_sum(costs: np.ndarray, tree, alpha: float, taps: int) -> np.ndarray:
    """Min-marginals, one control point after the other, each message by shifted arrays."""

    def message(energy: np.ndarray) -> np.ndarray:
        for axis in range(3):
            wide = np.pad(energy, [(taps, taps) if a == axis else (0, 0) for a in range(3)], constant_values=np.inf)
            energy = np.min(
                [
                    np.take(wide, range(t + taps, t + taps + energy.shape[axis]), axis) + np.float32(alpha * t * t)
                    for t in range(-taps, taps + 1)
                ],
                axis=0,
            )
        return energy - energy.min()

    energy = costs.reshape(-1, *costs.shape[3:]).copy()
    messages = {}
    for node in tree.order[:0:-1]:
        messages[node] = message(energy[node])
        energy[tree.parent[node]] += messages[node]
    for node in tree.order[1:]:
        energy[node] += message(energy[tree.parent[node]] - messages[node])
    return energy.reshape(costs.shape)


def plain_consistency(forward: torch.Tensor, backward: torch.Tensor, iterations: int) -> tuple[torch.Tensor, ...]:
    """Both fields (1, 3, z, y, x) in voxels made inverse to each other by ``grid_sample``."""
    size = torch.tensor(forward.shape[:1:-1], dtype=torch.float32)
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in forward.shape[2:]], indexing="ij")
    here = torch.stack(axes[::-1], dim=-1)[None]

    def at(field: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        where = 2 * (here + shift.movedim(1, -1)) / (size - 1) - 1
        return F.grid_sample(field, where, align_corners=True, padding_mode="border")

    for _ in range(iterations):
        forward, backward = (forward - at(backward, forward)) / 2, (backward - at(forward, backward)) / 2
    return forward, backward


def plain_correlation(fixed: torch.Tensor, moving: torch.Tensor, field: torch.Tensor, radius: int) -> torch.Tensor:
    """Derivative of 1 minus the squared local correlation by the field, images (1, 1, z, y, x), by autograd."""
    size = torch.tensor(fixed.shape[:1:-1])
    identity = F.affine_grid(torch.eye(3, 4)[None], list(fixed.shape), align_corners=True)
    field = field.clone().requires_grad_()

    def mean(image: torch.Tensor) -> torch.Tensor:
        return F.avg_pool3d(image, 2 * radius + 1, 1, radius, count_include_pad=False)

    where = identity + field.movedim(1, -1) * 2 / (size - 1)
    warped = F.grid_sample(moving, where, align_corners=True, padding_mode="border")
    variances = [mean(i**2) - mean(i) ** 2 + FLOOR for i in (fixed, warped)]
    covariance = mean(fixed * warped) - mean(fixed) * mean(warped)
    (1 - covariance**2 / (variances[0] * variances[1])).sum().backward()
    return field.grad


def timed(function: Callable[[], object], repetitions: int) -> tuple[float, object]:
    """Seconds of all processors that a call takes (the median), and its result."""
    seconds = []
    for _ in range(repetitions):
        started = time.process_time()
        result = function()
        seconds.append(time.process_time() - started)
    return statistics.median(seconds), result


def compare(repetitions: int) -> list[dict]:
    """Processor seconds of both, their ratio and the largest difference, relative to the largest value.

    Of the local correlation's gradient it is the largest one but for a ten-thousandth of the values.
    """
    rng = np.random.default_rng(0)
    shape = tuple(CELL * n for n in CONTROL)
    image = torch.nn.functional.avg_pool3d(torch.rand(1, 1, 100, 90, 110), 3)[0].contiguous()
    image = F.interpolate(image[None], scale_factor=3)[0]
    fixed, moving = (rng.integers(0, 2**60, size=(1, *shape), dtype=np.uint64) for _ in range(2))
    triple = dict(cell=(CELL,) * 3, radius=(RADIUS,) * 3, step=(1, 1, 1))
    count = 2 * RADIUS + 1
    costs = hamming_costs(fixed, moving, **triple)
    bare = np.ascontiguousarray(costs[..., :count])
    tree = spanning_tree(rng.random(CONTROL))
    offsets = [torch.arange(-RADIUS, RADIUS + 1.0)] * 3
    fields = [upsample(rng.normal(size=(16, 13, 18, 3)).astype(np.float32), (6, 6, 6), (96, 80, 108)) for _ in range(2)]
    tensors = [torch.from_numpy(np.moveaxis(f, -1, 0)[None].copy()) for f in fields]

    pair = [standardised(f[..., 0] + f[..., 1] ** 2, None) for f in fields]
    correlation = LocalCorrelation(*pair, radius=2)

    def tree_kernel() -> np.ndarray:
        return min_marginals(costs.copy(), tree, alpha=0.0128, taps=4)[..., :count]

    def moments(kind: str) -> np.ndarray:
        with kernels.use(kind), torch.no_grad():
            return kernels.displacement_moments(torch.from_numpy(bare), 77.0, offsets).mean.numpy()

    steps = (
        (
            f"MIND-SSC features, {'x'.join(map(str, image.shape[1:]))}, torch",
            lambda: np.moveaxis(mind_features(image[0].numpy(), dilation=2)[..., :12], -1, 0) / np.float32(255),
            lambda: mind_ssc(image[0], dilation=2).numpy(),
        ),
        (
            f"costs, {'x'.join(map(str, CONTROL))} points, {count}^3, numpy",
            lambda: hamming_costs(fixed, moving, **triple)[..., :count],
            lambda: plain_costs(fixed[0], moving[0]),
        ),
        ("min-sum on the tree, the same, numpy", tree_kernel, lambda: plain_min_sum(bare, tree, 0.0128, 4)),
        ("softmax and expectation, the same, torch", partial(moments, "fast"), partial(moments, "torch")),
        (
            "consistency, 96x80x108, 6 times, torch",
            lambda: np.moveaxis(make_consistent(*fields, iterations=6)[0], -1, 0)[None],
            lambda: plain_consistency(*tensors, 6)[0].numpy(),
        ),
        (
            "local correlation, gradient, 96x80x108, torch",
            lambda: np.moveaxis(correlation.gradient(fields[0])[0], -1, 0)[None],
            lambda: plain_correlation(*(torch.from_numpy(image)[None, None] for image in pair), tensors[0], 2).numpy(),
        ),
    )
    rows = []
    for name, ours, plain in steps:
        ours()  # compiled
        seconds, found = timed(ours, 5 * repetitions)
        slow, expected = timed(plain, repetitions)
        expected, found = np.asarray(expected), np.asarray(found)
        if "min-sum" in name:
            expected, found = (a - a.min(axis=(3, 4, 5), keepdims=True) for a in (expected, found))
        # The derivative jumps where a displaced voxel meets another one to the last digit: a few of a million do.
        most = 0.9999 if "correlation" in name else 1.0
        difference = np.quantile(np.abs(found - expected), most) / np.abs(expected).max()
        rows.append(
            {"step": name, "seconds": seconds, "plain": slow, "ratio": slow / seconds, "difference": float(difference)}
        )
    return rows
