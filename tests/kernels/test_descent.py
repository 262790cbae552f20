"""What the instance optimisation descends on, against definitions and finite differences."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from itk_pdd.kernels.correlation.cpu import LocalCorrelation
from itk_pdd.kernels.matching.cpu import feature_gradient


def slopes(loss, field, points, step):
    """Central differences of a loss by the displacements at some points."""
    for point in points:
        for component in range(2 if field.shape[0] == 1 else 3):
            change = np.zeros_like(field)
            change[(*point, component)] = step
            yield (*point, component), (loss(field + change) - loss(field - change)) / (2 * step)


@pytest.mark.parametrize("flat", [False, True])
def test_feature_gradient_is_the_derivative(flat):
    rng = np.random.default_rng(3)
    shape = (1 if flat else 6, 7, 8)
    fixed, moving = rng.integers(0, 256, size=(2, *shape, 16)).astype(np.uint8)
    field = rng.uniform(0.1, 0.9, size=(*shape, 3)).astype(np.float32)
    if flat:
        field[..., 2] = 0
    gradient, _ = feature_gradient(fixed, moving, field, channels=16)
    loss = lambda u: feature_gradient(fixed, moving, u, channels=16)[1]  # noqa: E731
    for place, slope in slopes(loss, field, [(0, 1, 1), (0, 2, 3), (shape[0] - 1, 1, 2)], 1e-3):
        assert gradient[place] == pytest.approx(slope, rel=0.03, abs=2e-3)


def images(shape, seed=0):
    rng = np.random.default_rng(seed)
    return gaussian_filter(rng.normal(size=(2, *shape)), (0, 0 if shape[0] == 1 else 0.7, 0.7, 0.7)).astype(np.float32)


@pytest.mark.parametrize("radius", [1, 2])
@pytest.mark.parametrize("shape", [(6, 7, 8), (1, 9, 11), (3, 2, 12)])
def test_loss_is_one_minus_the_squared_correlation_of_each_window(shape, radius):
    fixed, moving = images(shape)
    counted = np.random.default_rng(1).random(shape) < 0.8
    _, loss = LocalCorrelation(fixed, moving, radius=radius, masks=(counted, None)).gradient(
        np.zeros((*shape, 3), np.float32)
    )
    reach = [min(radius, (n - 1) // 2) for n in shape]
    # Windows with next to no variance count as noise.
    floor = [1e-3 * fixed[counted].var(), 1e-3 * moving.var()]
    expected = 0.0
    for place in zip(*np.nonzero(counted), strict=True):
        window = tuple(slice(max(0, i - r), i + r + 1) for i, r in zip(place, reach, strict=True))
        f, m = (image[window][counted[window]].astype(float) for image in (fixed, moving))
        covariance = np.mean(f * m) - f.mean() * m.mean()
        expected += 1 - covariance**2 / ((f.var() + floor[0]) * (m.var() + floor[1]))
    assert loss == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", [(6, 7, 8), (1, 9, 11)])
def test_gradient_of_the_correlation_is_the_derivative_at_the_border_too(shape, masked):
    fixed, moving = images(shape)
    field = np.random.default_rng(2).uniform(0.2, 0.8, size=(*shape, 3)).astype(np.float32)
    if shape[0] == 1:
        field[..., 2] = 0
    counted = np.random.default_rng(1).random(shape) < 0.8 if masked else None
    correlation = LocalCorrelation(fixed, moving, radius=2, masks=(counted, None))
    gradient = correlation.gradient(field)[0].copy()
    points = [(0, 0, 0), (0, 1, 2), (shape[0] // 2, 3, 4), (shape[0] - 1, 5, 6), (0, 4, shape[2] - 2)]
    loss = lambda u: correlation.gradient(u)[1]  # noqa: E731
    found = [(gradient[place], slope) for place, slope in slopes(loss, field, points, 1e-2)]
    assert max(abs(slope) for _, slope in found) > 0.1
    for own, slope in found:
        assert own == pytest.approx(slope, rel=0.02, abs=5e-3)


def test_what_does_not_count_has_no_say():
    fixed, moving = images((6, 7, 8))
    counted = np.ones(fixed.shape, bool)
    counted[:, :, 5:] = False
    field = np.zeros((*fixed.shape, 3), np.float32)
    expected = LocalCorrelation(fixed[:, :, :5], moving[:, :, :5], radius=2).gradient(field[:, :, :5])
    masks = (counted, None)
    for outside in (fixed, 100 * moving):
        image = np.where(counted, fixed, outside)
        gradient, loss = LocalCorrelation(image, moving, radius=2, masks=masks).gradient(field)
        assert loss == pytest.approx(expected[1], rel=1e-4)
        assert not gradient[:, :, 5:].any()
        # The last column is the border of the smaller image, beyond which it does not change any more.
        np.testing.assert_allclose(gradient[:, :, :4], expected[0][:, :, :4], atol=1e-4)


def test_a_larger_floor_looks_at_strong_contrasts_only():
    strong, faint = images((12, 12, 12), seed=1), images((12, 12, 12), seed=2)
    near = np.arange(12) < 6
    fixed, moving = (np.where(near, a, 0.03 * b).astype(np.float32) for a, b in zip(strong, faint, strict=True))
    field = np.full((*fixed.shape, 3), 0.3, np.float32)
    parts = []
    for floor in (1e-4, 1e-1):
        gradient = np.abs(LocalCorrelation(fixed, moving, radius=1, floor=floor).gradient(field)[0])
        parts.append((gradient[:, :, :4].mean(), gradient[:, :, 8:].mean()))
    assert parts[0][1] > 0.3 * parts[0][0]
    assert parts[1][1] < 0.03 * parts[1][0]


def test_correlations_share_memory():
    pairs = images((6, 7, 8), seed=1), images((6, 7, 8), seed=2)
    field = np.random.default_rng(2).uniform(-0.8, 0.8, size=(6, 7, 8, 3)).astype(np.float32)
    scratch = {}
    apart = [LocalCorrelation(*pair, radius=2) for pair in pairs]
    together = [LocalCorrelation(*pair, radius=2, scratch=scratch) for pair in pairs]
    for own, shared in zip(apart, together, strict=True):
        np.testing.assert_array_equal(shared.gradient(field)[0], own.gradient(field)[0])
    assert together[0].gradient(field)[0] is together[1].gradient(field)[0]


def test_brightness_contrast_and_sign_do_not_count():
    fixed, moving = images((8, 9, 10))
    field = np.random.default_rng(2).uniform(-0.8, 0.8, size=(*fixed.shape, 3)).astype(np.float32)
    gradient, loss = LocalCorrelation(fixed, moving, radius=2).gradient(field)
    other, same = LocalCorrelation(fixed, 1000 - 30 * moving, radius=2).gradient(field)
    assert same == pytest.approx(loss, rel=1e-4)
    np.testing.assert_allclose(other, gradient, atol=1e-3 * np.abs(gradient).max())
