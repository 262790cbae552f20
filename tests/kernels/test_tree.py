"""Min-marginals on a tree against the enumeration of all fields."""

import itertools

import numpy as np
import pytest

from itk_pdd.kernels.hamming.cpu import padded
from itk_pdd.kernels.tree import cpu as tree_module
from itk_pdd.kernels.tree.spanning import spanning_tree
from itk_pdd.kernels.vectors import FAR


def min_marginals(costs, tree, **options):
    """Of costs without padding."""
    count = costs.shape[-1]
    rows = np.full((*costs.shape[:-1], padded(count)), FAR, np.float32)
    rows[..., :count] = costs
    return tree_module.min_marginals(rows, tree, **options)[..., :count]


def enumerate_marginals(costs, tree, alpha, base):
    nodes = int(np.prod(costs.shape[:3]))
    labels = list(np.ndindex(*costs.shape[3:]))
    flat = costs.reshape(nodes, -1)
    vectors = np.asarray([label[::-1] for label in labels], dtype=float)
    base = np.zeros((nodes, 3)) if base is None else base.reshape(nodes, 3)
    best = np.full(flat.shape, np.inf)
    for field in itertools.product(range(len(labels)), repeat=nodes):
        energy = sum(flat[k, field[k]] for k in range(nodes))
        for k in range(nodes):
            if tree.parent[k] >= 0:
                p = tree.parent[k]
                energy += alpha * np.sum((vectors[field[k]] + base[k] - vectors[field[p]] - base[p]) ** 2)
        for k in range(nodes):
            best[k, field[k]] = min(best[k, field[k]], energy)
    return best.reshape(costs.shape)


@pytest.mark.parametrize("with_base", [False, True])
@pytest.mark.parametrize(
    "grid, displacements",
    [((1, 2, 2), (1, 3, 3)), ((2, 1, 3), (3, 1, 2)), ((1, 1, 3), (2, 2, 2)), ((1, 1, 2), (1, 9, 17))],
)
def test_min_marginals_are_exact(grid, displacements, with_base):
    rng = np.random.default_rng(len(grid) + with_base)
    costs = rng.random((*grid, *displacements)).astype(np.float32)
    base = rng.normal(scale=0.7, size=(*grid, 3)).astype(np.float32) if with_base else None
    tree = spanning_tree(rng.random(grid))
    result = min_marginals(costs, tree, alpha=0.2, taps=6, base=base)
    expected = enumerate_marginals(costs, tree, 0.2, base)
    smallest = [a.min(axis=(3, 4, 5), keepdims=True) for a in (result, expected)]
    np.testing.assert_allclose(result - smallest[0], expected - smallest[1], atol=1e-5)


def test_branches_and_trunk_give_what_one_sweep_gives(monkeypatch):
    """However the tree is cut into branches, the sums are the same."""
    rng = np.random.default_rng(2)
    costs = rng.random((6, 7, 8, 3, 3, 5)).astype(np.float32)
    base = rng.normal(scale=0.4, size=(6, 7, 8, 3)).astype(np.float32)
    tree = spanning_tree(rng.random((6, 7, 8)))
    results = []
    for branches in (1, 4, 20):
        monkeypatch.setattr(tree_module, "_BRANCHES", branches)
        found, trunk = tree_module.branches_of(tree)
        assert sorted([k for b in found for k in range(b, b + tree.size[b])] + trunk.tolist()) == list(range(6 * 7 * 8))
        results.append(min_marginals(costs, tree, alpha=0.1, base=base))
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], atol=1e-4)


def test_long_trees_keep_their_precision():
    """The energy of a large grid must not swallow the differences between the displacements of one control point."""
    rng = np.random.default_rng(1)
    costs = (100 + rng.random((40, 40, 40, 1, 1, 3))).astype(np.float32)
    tree = spanning_tree(rng.random((40, 40, 40)))
    result = min_marginals(costs, tree, alpha=0.0, taps=2)
    # Without smoothness every control point is on its own.
    difference = result - result.min(axis=-1, keepdims=True)
    np.testing.assert_allclose(difference, costs - costs.min(axis=-1, keepdims=True), atol=1e-4)


def test_tree_is_a_minimum_spanning_tree():
    rng = np.random.default_rng(3)
    guide = rng.random((4, 5, 6))
    tree = spanning_tree(guide)
    assert sorted(tree.order) == list(range(guide.size))
    assert (tree.parent == -1).sum() == 1
    # No edge of the grid outside the tree is lighter than the heaviest edge of the path it would close.
    values = guide.ravel()

    def path_to_root(k):
        path = [k]
        while tree.parent[path[-1]] >= 0:
            path.append(tree.parent[path[-1]])
        return path

    index = np.arange(guide.size).reshape(guide.shape)
    for axis in range(3):
        first = np.take(index, range(guide.shape[axis] - 1), axis).ravel()
        second = np.take(index, range(1, guide.shape[axis]), axis).ravel()
        for a, b in zip(first, second, strict=True):
            one, two = path_to_root(a), path_to_root(b)
            common = set(one) & set(two)
            steps = [k for k in one + two if k not in common]
            heaviest = max((abs(values[k] - values[tree.parent[k]]) for k in steps), default=0)
            assert abs(values[a] - values[b]) >= heaviest - 1e-12
