"""Up-sampling, restriction and composition of displacements."""

import numpy as np
import pytest

from itk_pdd.kernels.control_grid.cpu import compose, make_consistent, restrict, spread, upsample

CASES = [((9, 11, 14), (4, 3, 5)), ((1, 12, 10), (1, 4, 4)), ((7, 7, 7), (2, 2, 2))]


def control_shape(shape, cell):
    return tuple(-(-n // c) for n, c in zip(shape, cell, strict=True))


@pytest.mark.parametrize("shape, cell", CASES)
@pytest.mark.parametrize("order", [1, 3])
def test_a_linear_function_is_reproduced_inside(shape, cell, order):
    grids = np.meshgrid(
        *[np.arange(n) * c + (c - 1) / 2 for n, c in zip(control_shape(shape, cell), cell, strict=True)], indexing="ij"
    )
    control = (2 + 3 * grids[0] - grids[1] + 0.5 * grids[2])[..., None]
    voxels = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    expected = 2 + 3 * voxels[0] - voxels[1] + 0.5 * voxels[2]
    inside = tuple(
        slice(None) if n == 1 else slice(int((order + 1) / 2 * c), max(0, int(n - (order + 1) / 2 * c)))
        for n, c in zip(shape, cell, strict=True)
    )
    np.testing.assert_allclose(upsample(control, cell, shape, order=order)[..., 0][inside], expected[inside], rtol=1e-5)


@pytest.mark.parametrize("shape, cell", CASES)
def test_spread_is_the_adjoint_of_upsample(shape, cell):
    rng = np.random.default_rng(0)
    control = rng.normal(size=(*control_shape(shape, cell), 3)).astype(np.float32)
    up = upsample(control, cell, shape)
    voxels = rng.normal(size=up.shape).astype(np.float32)
    down = spread(voxels, cell, control.shape[:3])
    assert np.isclose((up * voxels).sum(dtype=float), (control * down).sum(dtype=float), rtol=1e-4)


def test_restrict_is_the_mean_of_each_cell():
    values = np.random.default_rng(1).normal(size=(5, 4, 7, 2)).astype(np.float32)
    result = restrict(values, (2, 3, 4))
    for k in np.ndindex(*result.shape[:3]):
        part = values[tuple(slice(i * c, (i + 1) * c) for i, c in zip(k, (2, 3, 4), strict=True))]
        np.testing.assert_allclose(result[k], part.mean(axis=(0, 1, 2)), rtol=1e-5)


def test_composition_of_translations_and_scalings():
    shape = (12, 13, 14)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")[::-1], axis=-1).astype(np.float32)
    centre = np.asarray([6.5, 6.0, 5.5], np.float32)
    half = -0.5 * (grid - centre)
    both = compose(half, half)
    np.testing.assert_allclose(both, -0.75 * (grid - centre), atol=1e-5)


def test_consistent_fields_invert_each_other_and_do_not_fold():
    rng = np.random.default_rng(2)
    forward, backward = (upsample(rng.normal(scale=2.5, size=(5, 5, 5, 3)), (4,) * 3, (20,) * 3) for _ in range(2))
    before = np.abs(compose(backward, forward)).mean()
    forward, backward = make_consistent(forward, backward, iterations=10)
    assert np.abs(compose(backward, forward)).mean() < 0.1 * before
