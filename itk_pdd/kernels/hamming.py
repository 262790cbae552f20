"""Dense displacement costs between binary codes: one population count instead of a dozen squared differences.

The codes come from :func:`itk_pdd.kernels.mind.binary_codes`. The displacements run along x in the innermost loop; the
moving codes are rearranged so that these are neighbours in memory whatever the step. The idea of comparing quantised
self-similarity descriptors by their Hamming distance is that of Heinrich et al., IEEE TMI 32(7), 2013 (deeds).
"""

from __future__ import annotations

import numpy as np

from itk_pdd.kernels.parallel import compiled, run
from itk_pdd.kernels.vectors import CODES, add_hamming

__all__ = ["hamming_costs"]


@compiled()
def _costs(
    first_task, last_task, fixed, weight, moving, shape, per_row, base, cell, stride, radius, step, scale, out
):
    """See :func:`hamming_costs`; ``moving`` is flat, its rows split by phase, ``per_row`` codes per (z, y)."""
    size_z, size_y, size_x = fixed.shape
    grid_y, grid_x = out.shape[1:3]
    count_z, count_y, count_x = out.shape[3:]
    per_phase = per_row // step[2]
    blocks = (count_x + CODES - 1) // CODES
    width = blocks * CODES
    depth, height, length = shape
    has_base, has_weight = base.shape[0] > 0, weight.shape[0] > 0
    for task in range(first_task, last_task):
        kz, ky = task // grid_y, task % grid_y
        sums = np.empty(count_z * count_y * width, np.uint64)
        for kx in range(grid_x):
            sums[:] = 0
            samples = 0
            for z in range(kz * cell[0], min(size_z, (kz + 1) * cell[0]), stride[0]):
                for y in range(ky * cell[1], min(size_y, (ky + 1) * cell[1]), stride[1]):
                    for x in range(kx * cell[2], min(size_x, (kx + 1) * cell[2]), stride[2]):
                        if has_weight and not weight[z, y, x]:
                            continue
                        samples += 1
                        bx, by, bz = x, y, z
                        if has_base:
                            bx += int(np.floor(base[z, y, x, 0] + np.float32(0.5)))
                            by += int(np.floor(base[z, y, x, 1] + np.float32(0.5)))
                            bz += int(np.floor(base[z, y, x, 2] + np.float32(0.5)))
                        bx = min(max(bx, 0), length - 1)
                        by = min(max(by, 0), height - 1)
                        bz = min(max(bz, 0), depth - 1)
                        # The rows are padded in front by the reach: bx is where the first displacement is found.
                        first = (bx % step[2]) * per_phase + bx // step[2]
                        code = fixed[z, y, x]
                        position = 0
                        for dz in range(count_z):
                            mz = min(max(bz + (dz - radius[0]) * step[0], 0), depth - 1)
                            for dy in range(count_y):
                                my = min(max(by + (dy - radius[1]) * step[1], 0), height - 1)
                                row = (mz * height + my) * per_row + first
                                for _ in range(blocks):
                                    add_hamming(sums, position, moving, row, code)
                                    position += CODES
                                    row += CODES
            factor = scale / samples if samples > 0 else np.float32(0)
            for dz in range(count_z):
                for dy in range(count_y):
                    for dx in range(count_x):
                        value = sums[(dz * count_y + dy) * width + dx]
                        out[kz, ky, kx, dz, dy, dx] = np.float32(value) * factor


def hamming_costs(
    fixed: np.ndarray,
    moving: np.ndarray,
    *,
    cell: tuple[int, int, int],
    radius: tuple[int, int, int],
    step: tuple[int, int, int],
    stride: tuple[int, int, int] = (1, 1, 1),
    base: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    bits: int = 60,
) -> np.ndarray:
    """Mean Hamming distance of the codes of a cell and of the moving codes, for every displacement.

    All triples are in array order z, y, x; a 2-D image has one slice, a cell of 1 and a radius of 0 along z.

    Parameters
    ----------
    fixed, moving : numpy.ndarray
        uint64 codes, shape (z, y, x); beyond the border of ``moving`` its nearest voxel counts.
    cell : tuple of int
        Size of the cell of a control point in voxels; control point k owns the voxels from k * cell on.
    radius, step : tuple of int
        Displacements of an axis are step * (-radius .. radius) voxels.
    stride : tuple of int
        Every how many voxels of a cell are compared; a larger stride is faster and noisier.
    base : numpy.ndarray, optional
        Displacement found so far in voxels, float32 (z, y, x, 3), components x, y, z; it is rounded to voxels.
    mask : numpy.ndarray, optional
        Fixed voxels that count, bool; the costs of a cell without any are zero.
    bits : int
        Number of bits a code uses: the distance is divided by it, so that costs lie in [0, 1].

    Returns
    -------
    numpy.ndarray
        float32, shape (kz, ky, kx, dz, dy, dx).
    """
    cell, radius, step, stride = (np.asarray(v, dtype=np.int64) for v in (cell, radius, step, stride))
    shape = [-(-size // c) for size, c in zip(fixed.shape, cell, strict=True)]
    reach = int(radius[2] * step[2])
    # Behind the last voxel a vector operation may read up to CODES - 1 displacements more than there are.
    before, after = reach, reach + CODES * int(step[2])
    rows, per_row = _phases(moving, before, after, int(step[2]))
    out = np.empty((*shape, *(2 * radius + 1)), np.float32)
    run(
        _costs,
        shape[0] * shape[1],
        np.ascontiguousarray(fixed),
        np.empty((0, 0, 0), np.bool_) if mask is None else np.ascontiguousarray(mask),
        rows,
        moving.shape,
        per_row,
        np.empty((0, 0, 0, 3), np.float32) if base is None else base,
        cell,
        stride,
        radius,
        step,
        np.float32(1 / bits),
        out,
    )
    return out


def _phases(moving: np.ndarray, before: int, after: int, step: int) -> tuple[np.ndarray, int]:
    """Pad the rows by their border and split them by x modulo step, so that x, x + step, ... are neighbours."""
    depth, height, width = moving.shape
    length = -(-(before + width + after) // step)
    index = np.clip(np.arange(length * step) - before, 0, width - 1)
    rows = np.empty(depth * height * step * length + CODES, np.uint64)
    view = rows[:-CODES].reshape(depth, height, step, length)
    for phase in range(step):
        np.take(moving, index[phase::step], axis=2, out=view[:, :, phase])
    rows[-CODES:] = 0
    return rows, step * length
