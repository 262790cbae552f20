"""Gradient of the penalty on changes of volume on tensors of any device, in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from itk_pdd.kernels.volume_change.cpu import FLOOR, SCALE

__all__ = ["add_volume_gradient"]


def add_volume_gradient(
    field: Tensor, out: Tensor, *, weight: float, scale: Sequence[float] = (1.0, 1.0, 1.0)
) -> Tensor:
    """See :func:`itk_pdd.kernels.volume_change.cpu.add_volume_gradient`."""
    axes = [axis for axis in (2, 1, 0) if field.shape[axis] > 1]
    if len(axes) < 2:
        return out
    rows = [2 - axis for axis in axes]  # components
    for sign in (1, -1):
        columns: list[list[Tensor]] = []
        for row, axis in zip(rows, axes, strict=True):
            edge = _narrowed(field.diff(dim=axis), [a for a in axes if a != axis], sign) / float(scale[row])
            columns.append([edge[..., other] + (other == row) for other in rows])
        if len(axes) == 2:
            (xx, yx), (xy, yy) = columns
            cofactors = [[yy, -xy], [-yx, xx]]
            determinant = xx * yy - xy * yx
        else:
            (xx, yx, zx), (xy, yy, zy), (xz, yz, zz) = columns
            cofactors = [
                [yy * zz - yz * zy, xz * zy - xy * zz, xy * yz - xz * yy],
                [yz * zx - yx * zz, xx * zz - xz * zx, xz * yx - xx * yz],
                [yx * zy - yy * zx, xy * zx - xx * zy, xx * yy - xy * yx],
            ]
            determinant = xx * cofactors[0][0] + xy * cofactors[1][0] + xz * cofactors[2][0]
        above = (determinant + 3).clamp_(min=FLOOR)
        slope = (above / 4).log_().div_(above).mul_(weight * SCALE)
        for own, axis, column in zip(rows, axes, cofactors, strict=True):
            for row, cofactor in zip(rows, column, strict=True):
                pull = slope * cofactor / float(scale[own])
                part = out[..., row]
                for end, factor in ((1, 1), (0, -1)):
                    place = part
                    for a in axes:
                        start = end if a == axis else int(sign < 0)
                        place = place.narrow(a, start, part.shape[a] - 1)
                    place.add_(pull, alpha=factor)
    return out


def _narrowed(edges: Tensor, axes: Sequence[int], sign: int) -> Tensor:
    """Those edges that begin at a corner with edges towards ``sign`` along the other axes."""
    for axis in axes:
        edges = edges.narrow(axis, 0 if sign > 0 else 1, edges.shape[axis] - 1)
    return edges
