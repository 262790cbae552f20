"""The Sobel operator against that of scipy and against straight ramps."""

import numpy as np
import pytest
from scipy import ndimage

from itk_pdd.kernels.sobel.cpu import sobel


@pytest.mark.parametrize("shape", [(6, 7, 8), (1, 9, 11), (2, 1, 3)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_it_is_that_of_scipy(shape, axis):
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected = ndimage.sobel(image, axis=axis, mode="nearest") / 32
    np.testing.assert_allclose(sobel(image, axis), expected, atol=1e-6)


def test_the_derivative_of_a_ramp_is_its_slope():
    z, y, x = np.mgrid[:6, :7, :8]
    ramp = 2 * z - 3 * y + 0.5 * x
    for axis, slope in enumerate((2, -3, 0.5)):
        np.testing.assert_allclose(sobel(ramp, axis)[1:-1, 1:-1, 1:-1], slope, atol=1e-5)
