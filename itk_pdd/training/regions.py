"""Find the parts of two images that a block of control points needs, so that full sizes can be trained in blocks.

Windows are slices along z, y, x: of features, or of image voxels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from itk_pdd.network.pddnet import Lattice, PddNetwork, dense
from itk_pdd.training.pulling import compose, pull, voxels_of

__all__ = ["Windows", "random_block", "searched_window", "warped_window", "windows_of"]

_MEAN_FIELD = 2  # control points around a block whose costs count much in its averages


@dataclass(frozen=True)
class Windows:
    """Features that a block of control points needs."""

    block: tuple[slice, ...]  # the control points
    fixed: tuple[slice, ...]  # features among which they lie
    moving: tuple[slice, ...]  # features that their displacements reach


def random_block(layout: Lattice, length: int | None, rng: np.random.Generator) -> tuple[slice, ...]:
    """A block of ``length`` control points along each axis anywhere among all of them; all of them if None."""
    if length is None:
        return tuple(slice(0, n) for n in layout.control.shape)
    lengths = [min(length, n) for n in layout.control.shape]
    begins = [int(rng.integers(n - k + 1)) for n, k in zip(layout.control.shape, lengths, strict=True)]
    return tuple(slice(b, b + k) for b, k in zip(begins, lengths, strict=True))


def windows_of(layout: Lattice, block: Sequence[slice]) -> Windows:
    """The features that a block of control points needs."""
    ends = [(float(p[0]), float(p[-1])) for p in layout.control.part(block).positions()]
    reached = [(a - r, b + r) for (a, b), r in zip(ends, layout.displacements.reach, strict=True)]
    return Windows(tuple(block), *(_around(along, layout.shape) for along in (ends, reached)))


def _around(ends: Sequence[tuple[float, float]], size: Sequence[int]) -> tuple[slice, ...]:
    """Indices between which all places from one end to the other are interpolated; the border goes on."""
    lows = [min(max(0, math.floor(a)), n - 1) for (a, _), n in zip(ends, size, strict=True)]
    highs = [max(min(n - 1, math.ceil(b)), 0) for (_, b), n in zip(ends, size, strict=True)]
    return tuple(slice(a, max(a, b) + 1) for a, b in zip(lows, highs, strict=True))


def _image_window(
    network: PddNetwork, layout: Lattice, window: Sequence[slice], size: Sequence[int]
) -> tuple[slice, ...]:
    """Image voxels that a window of features looks at."""
    ends = [
        (float(along[w.start]) - m, float(along[w.stop - 1]) + m)
        for along, w, m in zip(layout.features, window, network.margins(layout), strict=True)
    ]
    return _around(ends, size)


@torch.no_grad()
def searched_window(
    network: PddNetwork,
    fixed: Tensor,
    moving: Tensor,
    warp: int,
    block: Sequence[slice],
    *,
    features: Callable[[Tensor, Sequence[slice]], Tensor],
) -> tuple[Tensor, tuple[slice, ...]]:
    """The field of the searches before one, where a block of control points of that one can see the warped image.

    As :func:`itk_pdd.training.pulling.searched`, but each search, numbered from 1 on, has only the control points
    around the features that the next one needs. Near the border of these its averages lack some neighbours, and what
    the features see farther away moves as at the border. ``features`` takes an image and a window to the features
    there. Returns displacements (z', y', x', 3) at the voxels of a window, and that window of image voxels.
    """
    size = moving.shape[1:]
    layouts = [network.lattice(size, warp=number) for number in range(warp + 1)]
    needed: list[tuple[Windows, tuple[slice, ...]]] = []
    windows = windows_of(layouts[warp], block)
    for layout, later in itertools.pairwise(reversed(layouts)):
        seen = _image_window(network, layout, windows.moving, size)
        windows = windows_of(later, _control_block(later, layout, windows.moving))
        needed.append((windows, seen))
    total, before = None, None
    for number, (windows, seen) in enumerate(reversed(needed)):
        image, layout = moving, layouts[number]
        if total is not None:
            image = warped_window(moving, total, before)
        parts = features(fixed, windows.fixed), features(image, windows.moving)
        distribution = network.search(
            *parts, layout, warp=number, block=windows.block, windows=(windows.fixed, windows.moving)
        )
        places = [p[b] for p, b in zip(layout.positions(), windows.block, strict=True)]
        voxels = [torch.arange(w.start, w.stop, dtype=torch.float64) for w in seen]
        field = dense(layout.to_image(distribution.mean()), places, voxels)
        if total is not None:
            inside = [v - w.start for v, w in zip(voxels, before, strict=True)]
            field = compose(total, field, inside)
        total, before = field, seen
    assert total is not None and before is not None
    return total, before


def warped_window(image: Tensor, field: Tensor, window: Sequence[slice]) -> Tensor:
    """An image (1, z, y, x) warped by a field in a window and left as it is elsewhere."""
    voxels = [v[w] for v, w in zip(voxels_of(image), window, strict=True)]
    result = image.clone()
    result[(slice(None), *window)] = pull(image, field, voxels)
    return result


def _control_block(layout: Lattice, wanted: Lattice, window: Sequence[slice]) -> tuple[slice, ...]:
    """Control points of a search between which a window of features lies, and some more."""
    block = []
    for along, features, w in zip(layout.positions(), wanted.features, window, strict=True):
        first, step = float(along[0]), float(along[1] - along[0])
        low = math.floor((float(features[w.start]) - first) / step) - _MEAN_FIELD
        high = math.ceil((float(features[w.stop - 1]) - first) / step) + _MEAN_FIELD
        low = min(max(0, low), len(along) - 2)
        block.append(slice(low, max(low + 2, min(len(along), high + 1))))
    return tuple(block)
