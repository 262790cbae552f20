"""Images and fields at displaced places, in voxels of the working grid: what training needs of warping.

Displacements have the shape (z, y, x, 3) and components x, y, z; ``targets`` are the voxel indices along z, y, x at
which they stand. Beyond the border of what is sampled it goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from itk_pdd.network.organs import at_indices
from itk_pdd.network.pddnet import PddNetwork, dense

__all__ = ["compose", "pull", "pull_labels", "remaining", "searched", "voxels_of"]


def voxels_of(image: Tensor) -> list[Tensor]:
    """Indices of the voxels along z, y, x of an image (1, z, y, x), as ``targets``."""
    return [torch.arange(n, dtype=torch.float64) for n in image.shape[1:]]


@torch.no_grad()
def searched(
    network: PddNetwork, fixed: Tensor, moving: Tensor, count: int, *, features: Callable[[Tensor], Tensor]
) -> Tensor:
    """The field (z, y, x, 3) of the first ``count`` searches of a network, each on the image warped by those before.

    There is no instance optimisation. ``fixed`` are features (channels, z', y', x') of the fixed image, ``moving`` (1,
    z, y, x) is the moving image itself, of its size.
    """
    voxels, total = voxels_of(moving), None
    for warp in range(count):
        warped = moving if total is None else pull(moving, total, voxels)
        layout = network.lattice(moving.shape[1:], warp=warp)
        found = network.displacements(fixed, features(warped), layout, warp=warp, iterations=0)
        field = dense(found, layout.positions(), voxels)
        total = field if total is None else compose(total, field, voxels)
    assert total is not None
    return total


def pull(values: Tensor, vectors: Tensor, targets: Sequence[Tensor], *, mode: str = "bilinear") -> Tensor:
    """Values (C, z, y, x) at displaced places; differentiable in both, linearly interpolated or the nearest."""
    places = torch.stack(torch.meshgrid(*(t.to(vectors) for t in targets), indexing="ij"), dim=-1).flip(-1) + vectors
    return at_indices(values, places, mode=mode)


def pull_labels(labels: Tensor, vectors: Tensor, targets: Sequence[Tensor]) -> Tensor:
    """Labels (z, y, x), uint8, at displaced places: those of the nearest voxels."""
    return pull(labels[None].to(vectors), vectors, targets, mode="nearest")[0].to(torch.uint8)


def compose(first: Tensor, second: Tensor, targets: Sequence[Tensor]) -> Tensor:
    """The field of both searches, the second on the image warped by the first: u(x) = u2(x) + u1(x + u2(x))."""
    return second + pull(first.movedim(-1, 0), second, targets).movedim(0, -1)


def remaining(truth: Tensor, field: Tensor, targets: Sequence[Tensor]) -> Tensor:
    """Return the rest v of a true displacement t after a field u: t(x) = v(x) + u(x + v(x))."""
    rest = truth - field
    for _ in range(3):  # a contraction where the field does not fold
        rest = truth - pull(field.movedim(-1, 0), rest, targets).movedim(0, -1)
    return rest
