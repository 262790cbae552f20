"""A single slice is unfolded whichever axis it lies across."""

import numpy as np
import pytest

from itk_pdd.kernels.unfolding.cpu import smallest_determinants
from itk_pdd.solver.folds import without_folds


@pytest.mark.parametrize("across", ["y", "x"])
def test_slices_across_any_axis_are_unfolded_alike(across):
    axis = {"y": 1, "x": 2}[across]
    component = 2 - axis
    rng = np.random.default_rng(1)
    axial = np.zeros((1, 40, 30, 3), np.float32)
    axial[:, 13:27, 10:20] = rng.normal(0, 1.5, (1, 14, 10, 3))
    scale = (2.0, 1.0, 1.5)
    assert (smallest_determinants(axial, scale) < 0).any()
    order = [0, 1, 2]
    order[component], order[2] = 2, component

    def turned(field):
        return np.ascontiguousarray(field.swapaxes(0, axis)[..., order])

    found = without_folds(turned(axial), [scale[i] for i in order], 0.05)
    assert found.shape[axis] == 1
    assert (smallest_determinants(turned(found), scale) >= 0.05).all()
    np.testing.assert_array_equal(found[..., component], turned(axial)[..., component])
    np.testing.assert_array_equal(turned(found), without_folds(axial, scale, 0.05))
