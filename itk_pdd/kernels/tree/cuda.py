"""Exact min-sum on a spanning tree on CUDA tensors, by Triton kernels: see :mod:`itk_pdd.kernels.tree.cpu`.

The trees of a registration are 300 to 700 levels deep and some hundred control points wide, so that a launch per level
would cost more than the levels. One launch makes a whole sweep instead, as solvers of sparse triangular systems do (Liu
W. et al., "A synchronization-free algorithm for parallel sparse triangular solves", Euro-Par 2016): programs draw
tickets, which name the control points in an order in which every one stands behind those that it waits for. The holder
of the lowest ticket in use never waits, whatever else is on the device, so that there is no deadlock.

A sweep takes the depth of the tree times the time of a message, which goes through three axes in scratch memory.

With ``TRITON_INTERPRET=1`` the kernels run on CPU tensors, one program after the other, for tests.
"""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from itk_pdd.kernels.parallel import compiled
from itk_pdd.kernels.tree.spanning import SpanningTree

__all__ = ["min_marginals"]

_FAR = tl.constexpr(1e30)
_LANES = 4096  # displacements held at once in registers, by 256 threads
_THREADS = 1024  # per multiprocessor: more of them wait for the same few control points


@compiled
def _levels(order, parent, by_depth, starts, children):
    """Control points sorted by depth, and the children of each: ``children[starts[k] : starts[k + 1]]``."""
    count = len(order)
    depth = np.zeros(count, np.int32)
    starts[:] = 0
    deepest = 0
    for i in range(count):
        node = order[i]
        up = parent[node]
        if up >= 0:
            depth[node] = depth[up] + 1
            deepest = max(deepest, depth[node])
            starts[up + 1] += 1
    following = np.zeros(deepest + 2, np.int64)
    for i in range(count):
        following[depth[i] + 1] += 1
        starts[i + 1] += starts[i]
    for level in range(deepest + 1):
        following[level + 1] += following[level]
    place = starts[:count].copy()
    for node in range(count):
        by_depth[following[depth[node]]] = node
        following[depth[node]] += 1
        up = parent[node]
        if up >= 0:
            children[place[up]] = node
            place[up] += 1


@triton.jit
def _window(delta, taps, LENGTH: tl.constexpr):
    """Between which differences of displacements the best one is sought; the rule of the CPU kernel."""
    best = tl.floor(delta + 0.5).to(tl.int32)
    low = tl.maximum(tl.minimum(best - taps, 0), 1 - LENGTH)
    high = tl.minimum(tl.maximum(best + taps, 0), LENGTH - 1)
    return low, high


@triton.jit
def _lowest(source, d, inside, alpha, delta, taps, LENGTH: tl.constexpr, INNER: tl.constexpr):
    """Lower envelope along one axis at the displacements ``d``: minimum of source[d + t] + alpha (t - delta)^2."""
    low, high = _window(delta, taps, LENGTH)
    position = d // INNER % LENGTH
    result = tl.full(d.shape, _FAR, tl.float32)
    for t in range(low, high + 1):
        there = position + t
        valid = inside & (there >= 0) & (there < LENGTH)
        difference = t - delta
        value = tl.load(source + d + t * INNER, mask=valid, other=_FAR)
        result = tl.minimum(result, value + alpha * (difference * difference))
    return result


@triton.jit
def _along(source, target, lanes, alpha, delta, taps, TOTAL: tl.constexpr, LENGTH: tl.constexpr,
           INNER: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """The envelope along one axis from one array to another, once all threads have written the first."""
    tl.debug_barrier()
    for start in range(0, TOTAL, BLOCK):
        d = start + lanes
        inside = d < TOTAL
        tl.store(target + d, _lowest(source, d, inside, alpha, delta, taps, LENGTH, INNER), mask=inside)


@triton.jit
def _difference(offset, to, from_, AXIS: tl.constexpr):
    return tl.load(offset + 3 * to + AXIS) - tl.load(offset + 3 * from_ + AXIS)


@triton.jit
def _envelope(source, first, second, target, lanes, least, offset, to, from_, alpha, taps, TOTAL: tl.constexpr,
              Z: tl.constexpr, Y: tl.constexpr, X: tl.constexpr, BLOCK: tl.constexpr, ADD: tl.constexpr):  # fmt: skip
    """The envelope along all three axes, by way of two arrays, less ``least``: it becomes ``target`` or is added to it.

    ``first`` is not ``source``, ``second`` may be.
    """
    _along(source, first, lanes, alpha, _difference(offset, to, from_, 0), taps, TOTAL, X, 1, BLOCK)
    _along(first, second, lanes, alpha, _difference(offset, to, from_, 1), taps, TOTAL, Y, X, BLOCK)
    tl.debug_barrier()
    delta = _difference(offset, to, from_, 2)
    for start in range(0, TOTAL, BLOCK):
        d = start + lanes
        inside = d < TOTAL
        # The energy of whole branches would drown the differences in single precision.
        value = _lowest(second, d, inside, alpha, delta, taps, Z, Y * X) - least
        if ADD:
            value += tl.load(target + d, mask=inside, other=0.0)
        tl.store(target + d, value, mask=inside)


@triton.jit(do_not_specialize=("nodes", "taps"))
def _upward(by_depth, parent, starts, children, offset, energy, message, scratch, ready, ticket, nodes, alpha, taps,
            Z: tl.constexpr, Y: tl.constexpr, X: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Towards the root: what each control point tells its parent; ``energy`` becomes that of whole branches.

    What other programs write in the same launch is read past the first-level cache, which need not know of it.
    """
    TOTAL: tl.constexpr = Z * Y * X
    lanes = tl.arange(0, BLOCK)
    a = scratch + tl.program_id(0).to(tl.int64) * (2 * TOTAL)
    b = a + TOTAL
    turn = tl.atomic_add(ticket, 1)
    while turn < nodes:
        node = tl.load(by_depth + (nodes - 1 - turn))
        up = tl.load(parent + node)
        first, last = tl.load(starts + node), tl.load(starts + node + 1)
        while tl.atomic_add(ready + node, 0, sem="acquire") < last - first:
            pass
        tl.debug_barrier()
        own = energy + node.to(tl.int64) * TOTAL
        least = tl.full((), _FAR, tl.float32)
        for start in range(0, TOTAL, BLOCK):
            d = start + lanes
            inside = d < TOTAL
            value = tl.load(own + d, mask=inside, other=_FAR)
            for k in range(first, last):
                child = tl.load(children + k).to(tl.int64)
                value += tl.load(message + child * TOTAL + d, mask=inside, other=0.0, cache_modifier=".cg")
            tl.store(own + d, value, mask=inside)
            least = tl.minimum(least, tl.min(value, axis=0))
        if up >= 0:
            target = message + node.to(tl.int64) * TOTAL
            _envelope(own, a, b, target, lanes, least, offset, up, node, alpha, taps, TOTAL, Z, Y, X, BLOCK, False)
            # All threads must have written before one of them says so.
            tl.debug_barrier()
            tl.atomic_add(ready + up, 1, sem="release")
        turn = tl.atomic_add(ticket, 1)


@triton.jit(do_not_specialize=("nodes", "taps"))
def _downward(by_depth, parent, offset, energy, message, scratch, done, ticket, nodes, alpha, taps,
              Z: tl.constexpr, Y: tl.constexpr, X: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Away from the root: add to each control point what is known outside its branch."""
    TOTAL: tl.constexpr = Z * Y * X
    lanes = tl.arange(0, BLOCK)
    a = scratch + tl.program_id(0).to(tl.int64) * (2 * TOTAL)
    b = a + TOTAL
    turn = tl.atomic_add(ticket, 1)
    while turn < nodes:
        node = tl.load(by_depth + turn)
        up = tl.load(parent + node)
        if up >= 0:
            while tl.atomic_add(done + up, 0, sem="acquire") == 0:
                pass
            tl.debug_barrier()
            least = tl.full((), _FAR, tl.float32)
            for start in range(0, TOTAL, BLOCK):
                d = start + lanes
                inside = d < TOTAL
                above = tl.load(energy + up.to(tl.int64) * TOTAL + d, mask=inside, other=_FAR, cache_modifier=".cg")
                rest = above - tl.load(message + node.to(tl.int64) * TOTAL + d, mask=inside, other=0.0)
                tl.store(a + d, rest, mask=inside)
                least = tl.minimum(least, tl.min(rest, axis=0))
            own = energy + node.to(tl.int64) * TOTAL
            _envelope(a, b, a, own, lanes, least, offset, node, up, alpha, taps, TOTAL, Z, Y, X, BLOCK, True)
        tl.debug_barrier()
        tl.atomic_add(done + node, 1, sem="release")
        turn = tl.atomic_add(ticket, 1)


def min_marginals(
    costs: Tensor, tree: SpanningTree, *, alpha: float, taps: int = 4, base: Tensor | None = None
) -> Tensor:
    """See :func:`itk_pdd.kernels.tree.cpu.min_marginals`.

    Parameters
    ----------
    costs : Tensor
        float32, contiguous, shape (kz, ky, kx, dz, dy, dx), rows not padded; they are overwritten.
    tree, alpha, taps
        As there.
    base : Tensor, optional
        float32, shape (kz, ky, kx, 3).

    Returns
    -------
    Tensor
        The same one; beside it as much memory is needed once more.
    """
    if costs.dtype != torch.float32 or not costs.is_contiguous() or costs.ndim != 6:
        raise ValueError(f"costs are {costs.dtype} of shape {tuple(costs.shape)}, expected contiguous float32, 6-D")
    counts, device = tuple(costs.shape[3:]), costs.device
    total, nodes = int(np.prod(counts)), len(tree.order)
    # One table, one transfer: control points by depth, parents, children, where the children begin. Rows begin at
    # multiples of 16 bytes, as there is a variant of the kernels for those, and only for those is it compiled.
    length = -(-(nodes + 1) // 4) * 4
    table = np.empty((4, length), np.int32)
    table[1, :nodes] = tree.parent
    _levels(tree.order, tree.parent, table[0], table[3, : nodes + 1], table[2])
    by_depth, parent, children, starts = torch.from_numpy(table).to(device).unbind()
    offset = torch.zeros(nodes, 3, device=device) if base is None else base.reshape(-1, 3).float().contiguous()
    lanes = min(triton.next_power_of_2(total), _LANES)
    warps = 8 if lanes >= 2048 else 4
    programs = min(nodes, _multiprocessors(device) * (_THREADS // (32 * warps)))
    scratch = torch.empty(programs, 2, total, device=device)
    message = torch.empty_like(costs)
    signals = torch.zeros(2, length + 4, dtype=torch.int32, device=device)
    sizes = dict(zip("ZYX", counts, strict=True), BLOCK=lanes, num_warps=warps)
    up, down = signals.unbind()
    _upward[(programs,)](
        by_depth, parent, starts, children, offset, costs, message, scratch, up, up[length:], nodes, float(alpha),
        int(taps), **sizes,
    )  # fmt: skip
    _downward[(programs,)](
        by_depth, parent, offset, costs, message, scratch, down, down[length:], nodes, float(alpha), int(taps), **sizes
    )
    return costs


def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
