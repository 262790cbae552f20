"""Folds are found where the definition says so, and removed without touching anything else."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from itk_pdd.kernels.unfolding.cpu import smallest_determinants, unfold


def by_definition(field, scale, z, y, x):
    """Smallest determinant over the corners of a cell, from the positions of its nodes."""
    flat = field.shape[0] == 1
    dimension = 2 if flat else 3

    def position(i, j, k):
        return np.array([k, j, i])[:dimension] * scale[:dimension] + field[i, j, k][:dimension]

    smallest = np.inf
    for cz in (0,) if flat else (0, 1):
        for cy in (0, 1):
            for cx in (0, 1):
                corner = (z + cz, y + cy, x + cx)
                ends = [(z + cz, y + cy, x + 1 - cx), (z + cz, y + 1 - cy, x + cx)]
                ends += [] if flat else [(z + 1 - cz, y + cy, x + cx)]
                signs = [1 - 2 * cx, 1 - 2 * cy, 1 - 2 * cz]
                edges = [
                    s * (position(*end) - position(*corner)) / h
                    for s, end, h in zip(signs, ends, scale[:dimension], strict=False)
                ]
                smallest = min(smallest, np.linalg.det(np.stack(edges, axis=1)))
    return smallest


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 4, 6), (2, 2, 2)])
def test_determinants_are_those_of_the_edges(shape):
    field = np.random.default_rng(0).normal(0, 0.5, (*shape, 3)).astype(np.float32)
    scale = (2.0, 1.0, 1.5)
    found = smallest_determinants(field, scale)
    assert found.shape == (max(shape[0] - 1, 1), shape[1] - 1, shape[2] - 1)
    for index in np.ndindex(found.shape):
        assert found[index] == pytest.approx(by_definition(field, np.asarray(scale), *index), abs=1e-4)


@pytest.mark.parametrize("shape", [(24, 25, 26), (1, 40, 30), (2, 9, 9)])
@pytest.mark.parametrize("scale", [(1.0, 1.0, 1.0), (2.0, 1.0, 1.5)])
@pytest.mark.parametrize("minimum", [0.05, 0.3])
def test_nothing_folds_any_more(shape, scale, minimum):
    rng = np.random.default_rng(1)
    field = np.zeros((*shape, 3), np.float32)
    middle = tuple(slice(n // 3, 2 * n // 3 + 1) for n in shape)
    field[middle] = rng.normal(0, 1.5, field[middle].shape)
    assert (smallest_determinants(field, scale) < 0).any()
    before = field.copy()
    found, moved, left = unfold(field, scale=scale, minimum=minimum)
    assert left == 0
    assert (smallest_determinants(found, scale) >= minimum).all()
    if shape[0] == 1:
        assert np.array_equal(found[..., 2], before[..., 2])
    assert np.array_equal(field, before)
    assert (found != before).any(axis=-1).sum() <= moved < field[..., 0].size


def test_what_does_not_fold_is_returned_as_it_is():
    rng = np.random.default_rng(2)
    field = rng.normal(0, 0.05, (8, 9, 10, 3)).astype(np.float32)
    found, moved, left = unfold(field)
    assert found is field and moved == left == 0


def test_only_the_surroundings_of_a_fold_change():
    field = np.zeros((20, 20, 20, 3), np.float32)
    field[4, 4, 4] = (3, 0, 0)
    field += np.linspace(0, 2, 20, dtype=np.float32)[:, None]
    found, _, _ = unfold(field)
    changed = np.argwhere((found != field).any(axis=-1))
    assert len(changed) > 0 and np.abs(changed - 4).max() <= 5


@pytest.mark.parametrize("shape", [(20, 20, 20), (1, 40, 40)])
@pytest.mark.parametrize("seed", [0, 2, 4])
def test_even_scrambled_space_is_unfolded(shape, seed):
    sigma = [0 if n == 1 else 2 for n in shape] + [0]
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(*shape, 3)), sigma)
    field = (12 * field / field.std()).astype(np.float32)
    scale = (1.0, 1.0, 1.0)
    assert (smallest_determinants(field, scale) < 0).mean() > 0.3
    found, _, left = unfold(field)
    assert left == 0
    assert (smallest_determinants(found, scale) >= 0.05).all()


def test_what_could_not_be_relaxed_is_counted():
    field = np.random.default_rng(3).normal(0, 2, (8, 8, 8, 3)).astype(np.float32)
    found, _, left = unfold(field, rounds=1)
    assert left == (smallest_determinants(found, (1, 1, 1)) < 0.05).sum() > 0


def test_fields_of_one_node_along_an_axis_cannot_fold():
    field = np.ones((1, 1, 5, 3), np.float32)
    assert unfold(field)[1] == 0
