"""Images and fields at displaced places, in voxels of the working grid: what training needs of warping.

Displacements have the shape (z, y, x, 3) and components x, y, z; ``targets`` are the voxel indices along z, y, x at
which they stand. Beyond the border of what is sampled it goes on.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["compose", "pull", "pull_labels", "remaining"]


def pull(values: Tensor, vectors: Tensor, targets: Sequence[Tensor], *, mode: str = "bilinear") -> Tensor:
    """Values (C, z, y, x) at displaced places; differentiable in both, linearly interpolated or the nearest."""
    places = torch.stack(torch.meshgrid(*(t.to(vectors) for t in targets), indexing="ij"), dim=-1).flip(-1) + vectors
    size = torch.tensor(values.shape[:0:-1]).to(places)
    # Indices of voxel centres to -1 .. 1 from corner to corner.
    normalised = places * (2 / (size - 1).clamp(min=1)) - 1
    return functional.grid_sample(values[None], normalised[None], mode=mode, padding_mode="border", align_corners=True)[
        0
    ]


def pull_labels(labels: Tensor, vectors: Tensor, targets: Sequence[Tensor]) -> Tensor:
    """Labels (z, y, x), uint8, at displaced places: those of the nearest voxels."""
    return pull(labels[None].to(vectors), vectors, targets, mode="nearest")[0].to(torch.uint8)


def compose(first: Tensor, second: Tensor, targets: Sequence[Tensor]) -> Tensor:
    """The field of both searches, the second on the image warped by the first: u(x) = u2(x) + u1(x + u2(x))."""
    return second + pull(first.movedim(-1, 0), second, targets).movedim(0, -1)


def remaining(truth: Tensor, field: Tensor, targets: Sequence[Tensor]) -> Tensor:
    """What is left to be found of a true displacement t after a field u: the v with t(x) = v(x) + u(x + v(x))."""
    rest = truth - field
    for _ in range(3):  # a contraction where the field does not fold
        rest = truth - pull(field.movedim(-1, 0), rest, targets).movedim(0, -1)
    return rest
