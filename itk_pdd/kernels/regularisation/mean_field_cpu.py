"""Mean field on the CPU.

The two averages over three neighbours are one sum with the weights [1 2 3 2 1] / 9 along each axis. With the border
replicated that is a matrix with five diagonals; its transpose, for the way back, is one as well.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from itk_pdd.kernels.arithmetic import load, store
from itk_pdd.kernels.parallel import compiled, inlined, run
from itk_pdd.kernels.regularisation.stencil import diagonals
from itk_pdd.kernels.tensors import empty, flat

__all__ = ["mean_field"]

CHUNK = 1024  # numbers side by side in one pass


@inlined
def _copy(a, ia, out, io, count):
    for i in range(count):
        store(out, io + i, load(a, ia + i))


@compiled
def weigh_axis(first, last, values, out, size, inner, weights):
    """Multiply along one axis with a matrix of five diagonals, for items first .. last of (outer) x (chunks of inner).

    Parameters
    ----------
    values, out : flat arrays, read as (outer, size, inner)
        May be the same.
    weights : array (size, 5)
        See :func:`itk_pdd.kernels.stencil.diagonals`.
    """
    chunks = (inner + CHUNK - 1) // CHUNK
    before = np.empty((3, CHUNK), values.dtype)
    for item in range(first, last):
        begin = item // chunks * size * inner + item % chunks * CHUNK
        count = min(CHUNK, inner - item % chunks * CHUNK)
        for k in range(size):
            # Copies of what was here and at the two places before, which may have been overwritten.
            here, one, two = before[k % 3], before[(k + 2) % 3], before[(k + 1) % 3]
            at = begin + k * inner
            _copy(values, at, here, 0, count)
            one = one if k > 0 else here
            two = two if k > 1 else here
            next1, next2 = begin + min(k + 1, size - 1) * inner, begin + min(k + 2, size - 1) * inner
            w0, w1, w2, w3, w4 = weights[k, 0], weights[k, 1], weights[k, 2], weights[k, 3], weights[k, 4]
            if k < size - 1:
                for i in range(count):
                    behind = w0 * load(two, i) + w1 * load(one, i) + w2 * load(here, i)
                    store(out, at + i, behind + w3 * load(values, next1 + i) + w4 * load(values, next2 + i))
            else:
                # The next place would be this one, which is being written.
                for i in range(count):
                    store(out, at + i, w0 * load(two, i) + w1 * load(one, i) + w2 * load(here, i))


def mean_field(costs: Tensor, dimension: int, *, transposed: bool = False, out: Tensor | None = None) -> Tensor:
    """Averages over the control points, or their transpose; the result may replace the costs."""
    out = empty(costs.shape, costs) if out is None else out
    source = costs
    for axis in range(costs.ndim - 2 * dimension, costs.ndim - dimension):
        size = costs.shape[axis]
        outer, inner = int(np.prod(costs.shape[:axis])), int(np.prod(costs.shape[axis + 1 :]))
        weights = diagonals(size, transposed=transposed).astype(costs.numpy().dtype)
        chunks = -(-inner // CHUNK)
        run(weigh_axis, outer * chunks, flat(source), flat(out), size, inner, weights, grain=4)
        source = out
    return out
