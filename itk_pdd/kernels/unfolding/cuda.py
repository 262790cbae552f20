"""Remove folds from a displacement field on tensors of any device, in plain torch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from itk_pdd.kernels.unfolding.cpu import widened

__all__ = ["unfold"]


def unfold(
    field: Tensor, *, scale: Sequence[float] = (1.0, 1.0, 1.0), minimum: float = 0.05, rounds: int = 1000
) -> tuple[Tensor, int, int]:
    """See :func:`itk_pdd.kernels.unfolding.cpu.unfold`."""
    bad = _smallest_determinants(field, scale) < minimum
    if not bool(bad.any()):
        return field, 0, 0
    flat = field.shape[0] == 1
    components = 2 if flat else 3
    field, moved = field.clone(), torch.zeros(field.shape[:3], dtype=torch.bool, device=field.device)
    for turn in range(rounds):
        reach = 1 + widened(turn)
        width = [1 if flat else 2 * reach, 2 * reach, 2 * reach]
        around = [reach] * 4 + [0 if flat else reach] * 2
        nodes = functional.max_pool3d(functional.pad(bad[None].float(), around), width, 1)[0] > 0
        moved |= nodes
        part = field[..., :components]
        part += nodes[..., None] * 0.5 * (_neighbours(part, flat) - part)
        bad = _smallest_determinants(field, scale) < minimum
        if not bool(bad.any()):
            break
    return field, int(moved.sum()), int(bad.sum())


def _neighbours(values: Tensor, flat: bool) -> Tensor:
    """Mean of the neighbours along the axes, those beyond the border being the nodes there themselves."""
    total = torch.zeros_like(values)
    axes = (1, 2) if flat else (0, 1, 2)
    for axis in axes:
        first, last = values.narrow(axis, 0, 1), values.narrow(axis, -1, 1)
        size = values.shape[axis]
        total += torch.cat([first, values.narrow(axis, 0, size - 1)], dim=axis)
        total += torch.cat([values.narrow(axis, 1, size - 1), last], dim=axis)
    return total / (2 * len(axes))


def _smallest_determinants(field: Tensor, scale: Sequence[float]) -> Tensor:
    flat = field.shape[0] == 1
    dimension = 2 if flat else 3
    edges = []  # along x, y, z
    for component, axis in enumerate((2, 1, 0)[:dimension]):
        edge = torch.diff(field[..., :dimension], dim=axis) / float(scale[component])
        edge[..., component] += 1
        edges.append(edge)
    depth, height, width = field.shape[:3]
    result = None
    for cz, cy, cx in itertools.product((0,) if flat else (0, 1), (0, 1), (0, 1)):
        z = slice(None) if flat else slice(cz, depth - 1 + cz)
        y, x = slice(cy, height - 1 + cy), slice(cx, width - 1 + cx)
        if flat:
            (xx, yx), (xy, yy) = edges[0][z, y].unbind(-1), edges[1][z, :, x].unbind(-1)
            found = xx * yy - xy * yx
        else:
            meeting = edges[0][z, y], edges[1][z, :, x], edges[2][:, y, x]
            (xx, yx, zx), (xy, yy, zy), (xz, yz, zz) = (edge.unbind(-1) for edge in meeting)
            found = xx * (yy * zz - yz * zy) - xy * (yx * zz - yz * zx) + xz * (yx * zy - yy * zx)
        result = found if result is None else torch.minimum(result, found)
    return result
