"""Dense displacement costs between binary codes: one population count instead of a dozen squared differences.

The codes come from :func:`itk_pdd.kernels.mind.cpu.add_codes`. The displacements run along x in the innermost vector;
the moving codes are rearranged so that these are neighbours in memory whatever the step, and the counts of all voxels
of a cell are added up in registers. The idea of comparing quantised self-similarity descriptors by their Hamming
distance is that of Heinrich et al., IEEE TMI 32(7), 2013 (deeds).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from itk_pdd.kernels.parallel import compiled, inlined, run
from itk_pdd.kernels.vectors import FAR, FLOATS, MOST_CODES, add_hamming4, add_hamming8, add_hamming16

__all__ = ["ArrangedCodes", "MaskedCosts", "arranged", "hamming_costs", "masked_costs", "padded"]

_ALL = np.uint64(2**64 - 1)
_PART = 128  # control points of which the excluded samples are taken out at once: that takes as much memory four times
_FEW = 0.25  # share of the samples of a cell below which what is left of them says too little


@dataclass(frozen=True)
class ArrangedCodes:
    """Moving codes in the order in which :func:`hamming_costs` reads them, made by :func:`arranged`.

    Parameters
    ----------
    rows : numpy.ndarray
        The codes, flat.
    per_row : int
        How many of them there are per word, z and y.
    shape : tuple of int
        Of the codes: (words, z, y, x).
    """

    rows: np.ndarray
    per_row: int
    shape: tuple[int, ...]


def padded(count: int) -> int:
    """Length to which rows of ``count`` displacements are padded."""
    return -(-count // FLOATS) * FLOATS


@inlined
def _add_row(out, first, count, rows, starts, shift, codes, samples, scale):
    """Add the distances of a row of ``count`` displacements to ``out``; few at a time, as a byte counts no further."""
    for begin in range(0, samples, MOST_CODES):
        end = min(begin + MOST_CODES, samples)
        x = 0
        while x < count:
            if count - x > 12:
                add_hamming16(out, first + x, rows, starts, shift + x, codes, begin, end, scale)
                x += 16
            elif count - x > 4:
                add_hamming8(out, first + x, rows, starts, shift + x, codes, begin, end, scale)
                x += 8
            else:
                add_hamming4(out, first + x, rows, starts, shift + x, codes, begin, end, scale)
                x += 4


@compiled
def _costs(
    first_task,
    last_task,
    points,
    fixed,
    weight,
    rows,
    shape,
    per_row,
    base,
    block,
    cell,
    stride,
    radius,
    step,
    scales,
    grid,
    out,
):
    """See :func:`hamming_costs`; ``rows`` holds the moving codes, split by phase, ``per_row`` of them per (z, y)."""
    words, size_z, size_y, size_x = fixed.shape
    grid_y, grid_x = grid[1], grid[2]
    depth, height, length = shape
    per_phase, per_word = per_row // step[2], depth * height * per_row
    count_z, count_y, count_x = 2 * radius[0] + 1, 2 * radius[1] + 1, 2 * radius[2] + 1
    width = out.shape[1] // (count_z * count_y)
    has_base, has_weight = base.shape[0] > 0, weight.shape[0] > 0
    most = cell[0] * cell[1] * cell[2]
    codes = np.empty((words, most), np.uint64)
    starts, place = np.empty(most, np.int64), np.empty((3, most), np.int64)
    along_z = np.empty(most, np.int64)
    for task in range(first_task, last_task):
        kz, ky, kx = points[task] // (grid_y * grid_x), (points[task] // grid_x) % grid_y, points[task] % grid_x
        samples = 0
        for z in range(kz * cell[0], min(size_z, (kz + 1) * cell[0]), stride[0]):
            for y in range(ky * cell[1], min(size_y, (ky + 1) * cell[1]), stride[1]):
                for x in range(kx * cell[2], min(size_x, (kx + 1) * cell[2]), stride[2]):
                    if has_weight and not weight[z, y, x]:
                        continue
                    bx, by, bz = x, y, z
                    if has_base:
                        found = base[z // block[0], y // block[1], x // block[2]]
                        bx += int(np.floor(found[0] + np.float32(0.5)))
                        by += int(np.floor(found[1] + np.float32(0.5)))
                        bz += int(np.floor(found[2] + np.float32(0.5)))
                    bx = min(max(bx, 0), length - 1)
                    place[1, samples] = min(max(by, 0), height - 1)
                    place[0, samples] = min(max(bz, 0), depth - 1)
                    # The rows are padded in front by the reach: bx is where the first displacement is found.
                    place[2, samples] = (bx % step[2]) * per_phase + bx // step[2]
                    for w in range(words):
                        codes[w, samples] = fixed[w, z, y, x]
                    samples += 1
        own = out[task]
        for dz in range(count_z):
            for v in range(samples):
                mz = min(max(place[0, v] + (dz - radius[0]) * step[0], 0), depth - 1)
                along_z[v] = mz * height * per_row + place[2, v]
            for dy in range(count_y):
                row = (dz * count_y + dy) * width
                for v in range(samples):
                    my = min(max(place[1, v] + (dy - radius[1]) * step[1], 0), height - 1)
                    starts[v] = along_z[v] + my * per_row
                own[row : row + width] = 0
                for w in range(words):
                    scale = scales[w] / np.float32(max(samples, 1))
                    _add_row(own, row, count_x, rows, starts, w * per_word, codes[w], samples, scale)
                own[row + count_x : row + width] = np.float32(FAR)


def hamming_costs(
    fixed: np.ndarray,
    moving: np.ndarray | ArrangedCodes,
    *,
    cell: tuple[int, int, int],
    radius: tuple[int, int, int],
    step: tuple[int, int, int],
    stride: tuple[int, int, int] = (1, 1, 1),
    base: np.ndarray | None = None,
    block: tuple[int, int, int] = (1, 1, 1),
    mask: np.ndarray | None = None,
    scales: Sequence[float] = (1 / 60,),
    points: np.ndarray | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Mean Hamming distance of the codes of a cell and of the moving codes, for every displacement.

    All triples are in array order z, y, x; a 2-D image has one slice, a cell of 1 and a radius of 0 along z.

    Parameters
    ----------
    fixed, moving : numpy.ndarray
        uint64 codes, shape (words, z, y, x); beyond the border of ``moving`` its nearest voxel counts. Moving codes
        that are compared several times can be :func:`arranged` once.
    cell : tuple of int
        Size of the cell of a control point in voxels; control point k owns the voxels from k * cell on.
    radius, step : tuple of int
        Displacements of an axis are step * (-radius .. radius) voxels.
    stride : tuple of int
        Every how many voxels of a cell are compared; a larger stride is faster and noisier.
    base : numpy.ndarray, optional
        Displacement found so far in voxels, float32 (z, y, x, 3), components x, y, z, for each block of voxels; it is
        rounded to voxels.
    block : tuple of int
        Size of these blocks.
    mask : numpy.ndarray, optional
        Fixed voxels that count, bool; the costs of a cell without any are zero.
    scales : sequence of float
        Factor of the distance of each word: its weight divided by the bits that it uses.
    points : numpy.ndarray, optional
        Flat indices (n,) of the control points whose costs are wanted; all by default.
    out : numpy.ndarray, optional
        Where to write the result: contiguous, float32, of its shape.

    Returns
    -------
    numpy.ndarray
        float32, shape (kz, ky, kx, dz, dy, width), or (n, dz, dy, width) for some ``points``: the rows of displacements
        along x are padded to ``padded(2 * radius + 1)`` with numbers larger than any cost.
    """
    cell, radius, step, stride = (np.asarray(v, dtype=np.int64) for v in (cell, radius, step, stride))
    grid = -(-np.asarray(fixed.shape[1:], dtype=np.int64) // cell)
    if not isinstance(moving, ArrangedCodes):
        moving = arranged(moving, radius, step)
    counts = [int(n) for n in 2 * radius + 1]
    counts[2] = padded(counts[2])
    shape = (*(grid.tolist() if points is None else (len(points),)), *counts)
    points = np.arange(int(grid.prod())) if points is None else np.ascontiguousarray(points, dtype=np.int64)
    out = np.empty(shape, np.float32) if out is None else out
    if out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ValueError(f"out is {out.dtype} of shape {out.shape}, expected contiguous float32 of shape {shape}")
    run(
        _costs,
        len(points),
        points,
        np.ascontiguousarray(fixed),
        np.empty((0, 0, 0), np.bool_) if mask is None else np.ascontiguousarray(mask),
        moving.rows,
        np.asarray(moving.shape[1:], dtype=np.int64),
        moving.per_row,
        np.empty((0, 0, 0, 3), np.float32) if base is None else np.ascontiguousarray(base),
        np.asarray(block, dtype=np.int64),
        cell,
        stride,
        radius,
        step,
        np.asarray(scales, dtype=np.float32),
        grid,
        out.reshape(len(points), int(np.prod(counts))),
        grain=max(1, int(grid[2])),
    )
    return out


def arranged(moving: np.ndarray, radius: Sequence[int], step: Sequence[int]) -> ArrangedCodes:
    """Codes in the order in which those of neighbouring displacements stand together, rows padded by the border.

    Parameters
    ----------
    moving : numpy.ndarray
        uint64 codes, shape (words, z, y, x).
    radius, step : sequence of int
        As for :func:`hamming_costs`.
    """
    reach = int(radius[2] * step[2])
    # Behind the last voxel a vector operation may read more displacements than there are.
    after = reach + padded(int(2 * radius[2] + 1)) * int(step[2])
    rows, per_row = _phases(moving, reach, after, int(step[2]))
    return ArrangedCodes(rows, per_row, moving.shape)


def _phases(moving: np.ndarray, before: int, after: int, step: int) -> tuple[np.ndarray, int]:
    """Pad the rows by their border and split them by x modulo step, so that x, x + step, ... are neighbours."""
    words, depth, height, width = moving.shape
    length = -(-(before + width + after) // step)
    index = np.clip(np.arange(length * step) - before, 0, width - 1)
    rows = np.empty((words, depth, height, step, length), np.uint64)
    for phase in range(step):
        np.take(moving, index[phase::step], axis=3, out=rows[..., phase, :])
    return rows.reshape(-1), step * length


class MaskedCosts:
    """:func:`hamming_costs` over the samples that land on allowed voxels, for any points.

    Three passes of the same kernel take the excluded samples out again: with the excluded moving codes set to zero,
    such a sample of the fixed code f adds popcount(f); against all ones there and zero elsewhere the sum over the
    samples is popcount(f) where allowed and 64 - popcount(f) where not, which gives their sum; zero against the same
    gives their number.

    Parameters
    ----------
    fixed, moving, scales, **options
        As there; ``points`` and ``out`` are given to the call.
    allowed : numpy.ndarray, optional
        Voxels of ``moving`` that may be compared, bool (z, y, x); all by default.
    """

    def __init__(
        self,
        fixed: np.ndarray,
        moving: np.ndarray,
        allowed: np.ndarray | None,
        *,
        scales: Sequence[float],
        **options: Any,
    ) -> None:
        self._fixed, self._scales = fixed, scales
        self._options = {name: value for name, value in options.items() if value is not None}
        self._excluded: Any = None
        if allowed is not None and not allowed.all():
            excluded = np.where(allowed, np.uint64(0), _ALL)
            moving = moving & ~excluded
            self._excluded = self._arranged(excluded[None])
            self._excluded_words = (
                self._excluded if len(moving) == 1 else self._arranged(np.broadcast_to(excluded, moving.shape))
            )
            # Codes without a bit set; against them the fixed ones have as many bits whatever the displacement.
            self._nothing = np.zeros((1, *fixed.shape[1:]), fixed.dtype)
            still = {**self._options, "radius": (0, 0, 0)}
            bits = hamming_costs(fixed, np.zeros(moving.shape, moving.dtype), scales=scales, **still)
            self._bits = bits[..., :1].reshape(-1, 1, 1, 1)
        self._moving = self._arranged(moving)

    @property
    def displacements(self) -> tuple[int, int, int]:
        """Displacements along z and y, and those along x with their padding."""
        counts = [2 * int(r) + 1 for r in self._options["radius"]]
        return counts[0], counts[1], padded(counts[2])

    def _arranged(self, codes: np.ndarray) -> Any:
        return arranged(codes, self._options["radius"], self._options["step"])

    def __call__(self, points: np.ndarray | None = None, out: np.ndarray | None = None) -> np.ndarray:
        """Costs of all control points, or of those with some flat indices (n,); shapes as there.

        Displacements that leave less than a quarter of the samples of a cell have the mean cost of the others, so that
        nothing speaks for or against them.
        """
        options = {**self._options, "points": points}
        result = hamming_costs(self._fixed, self._moving, scales=self._scales, out=out, **options)
        if self._excluded is None:
            return result
        every = result.reshape(-1, *result.shape[-3:])
        points = np.arange(len(every)) if points is None else points
        for first in range(0, len(every), _PART):
            part = slice(first, first + _PART)
            self._take_out(every[part], points[part])
        return result

    def _take_out(self, result: np.ndarray, points: np.ndarray) -> None:
        """Take the excluded samples out of the costs of some control points (n, dz, dy, width)."""
        options = {**self._options, "points": points}
        count = 2 * options["radius"][2] + 1
        costs = result[..., :count]
        # Of the excluded samples, the share of bits that are set, and their own share.
        against = hamming_costs(self._fixed, self._excluded_words, scales=self._scales, **options)[..., :count]
        share = hamming_costs(self._nothing, self._excluded, scales=(1 / 64,), **options)[..., :count]
        costs -= (self._bits[points] + np.float32(64 * sum(self._scales)) * share - against) / 2
        left = 1 - share
        enough = left >= _FEW
        np.divide(costs, left, out=costs, where=enough)
        axes = (-3, -2, -1)
        neutral = np.sum(costs, axis=axes, where=enough, keepdims=True)
        neutral /= np.maximum(enough.sum(axis=axes, keepdims=True), 1)
        np.copyto(costs, neutral.astype(np.float32), where=~enough)


def masked_costs(
    fixed: np.ndarray, moving: np.ndarray, allowed: np.ndarray | None, *, scales: Sequence[float], **options: Any
) -> np.ndarray:
    """:class:`MaskedCosts` of all control points."""
    return MaskedCosts(fixed, moving, allowed, scales=scales, **options)()
