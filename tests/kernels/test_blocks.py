"""The min-sum in blocks of control points gives, to the last bit, what one sweep over everything gives."""

from functools import partial

import numpy as np
import pytest

from itk_pdd.kernels.hamming.cpu import MaskedCosts, masked_costs
from itk_pdd.kernels.operations import HOST
from itk_pdd.kernels.tree import blocks as blocks_module
from itk_pdd.kernels.tree.blocks import min_sum_means
from itk_pdd.kernels.tree.cpu import min_marginals
from itk_pdd.kernels.tree.spanning import spanning_tree
from itk_pdd.solver.search import _mean
from itk_pdd.solver.settings import Stage

STAGE = Stage(shrink=1, cell=2, radius=2, step=1, dilations=(1,), smoothness=0.05)


@pytest.mark.parametrize("shape", [(13, 20, 17), (1, 40, 31), (3, 3, 3), (2, 3, 40)], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_blocks_change_nothing(shape, masked, monkeypatch):
    rng = np.random.default_rng(4)
    flat = shape[0] == 1
    fixed, moving = (rng.integers(0, 2**64, size=(2, *shape), dtype=np.uint64) for _ in range(2))
    allowed = rng.random(shape) < 0.7 if masked else None
    cell, radius = (1 if flat else 2, 2, 2), (0 if flat else 2, 3, 4)
    options = dict(cell=cell, radius=radius, step=(1, 2, 1), scales=(0.01, 0.02))
    grid = tuple(-(-n // c) for n, c in zip(shape, cell, strict=True))
    tree = spanning_tree(rng.random(grid))
    base = rng.normal(scale=0.5, size=(*grid, 3)).astype(np.float32)
    settings = dict(alpha=0.05, taps=2, base=base)
    mean = partial(_mean, STAGE, radius, (1, 2, 1), operations=HOST, listener=None)
    marginals = min_marginals(masked_costs(fixed, moving, allowed, **options), tree, **settings)
    expected = mean(np.arange(tree.order.size), marginals).reshape(-1, 3)
    taken = []
    cut = blocks_module._parts
    monkeypatch.setattr(blocks_module, "_parts", lambda *a: taken.append(cut(*a)) or taken[-1])
    for memory in (None, 2e6, 5e5, 0):
        found = min_sum_means(MaskedCosts(fixed, moving, allowed, **options), mean, tree, memory=memory, **settings)
        np.testing.assert_array_equal(found, expected)
    assert len(taken[0]) == 1
    if tree.order.size > 500:
        assert len(taken[-1]) > 3


def test_memory_is_kept():
    """Costs and messages, the large arrays, take what they may, once the trunk and one branch fit."""
    rng = np.random.default_rng(5)
    codes = rng.integers(0, 2**64, size=(1, 24, 24, 24), dtype=np.uint64)
    costs = MaskedCosts(codes, codes, None, cell=(2, 2, 2), radius=(2, 2, 2), step=(1, 1, 1), scales=(0.01,))
    tree = spanning_tree(rng.random((12, 12, 12)))
    whole = 8 * 12**3 * 5 * 5 * 8
    for memory in (whole, whole / 2, whole / 3):
        sweeps = blocks_module._Sweeps(tree, costs.displacements, None, memory)
        used = sweeps._energy.nbytes + sweeps._message.nbytes
        assert 0.9 * memory < used <= memory


def test_costs_of_some_points():
    rng = np.random.default_rng(6)
    fixed, moving = (rng.integers(0, 2**64, size=(1, 5, 6, 9), dtype=np.uint64) for _ in range(2))
    allowed = rng.random((5, 6, 9)) < 0.6
    costs = MaskedCosts(fixed, moving, allowed, cell=(2, 3, 2), radius=(1, 1, 3), step=(1, 1, 2), scales=(0.02,))
    everything = costs()
    points = rng.permutation(3 * 2 * 5)[:11]
    out = np.empty((11, *costs.displacements), np.float32)
    costs(points, out)
    np.testing.assert_array_equal(out, everything.reshape(-1, *costs.displacements)[points])
