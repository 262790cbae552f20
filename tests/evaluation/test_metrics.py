"""Metrics against brute force, SimpleITK, scikit-image and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from itk_pdd import DisplacementField, Grid, RegistrationError
from itk_pdd.evaluation import metrics


def hd95(*regions_and_spacing):
    return metrics.summarise_surface_distances(metrics.surface_distances(*regions_and_spacing))["hd95"]


def average_surface_distance(*regions_and_spacing):
    return metrics.summarise_surface_distances(metrics.surface_distances(*regions_and_spacing))["asd"]


def blobs(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    from scipy import ndimage

    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2.5)
    return np.digitize(noise, np.quantile(noise, [0.6, 0.75, 0.9])).astype(np.uint8)


def rotation(seed: int, dimension: int) -> np.ndarray:
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(dimension, dimension)))
    q = q * np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else q[:, [1, 0, *range(2, dimension)]]


def test_overlaps_agree_with_simpleitk():
    import SimpleITK as sitk

    first, second = blobs(1, (14, 20, 17)), blobs(2, (14, 20, 17))
    found = metrics.overlaps(first, second)
    assert sorted(found) == [1, 2, 3]
    filter_ = sitk.LabelOverlapMeasuresImageFilter()
    filter_.Execute(sitk.GetImageFromArray(first), sitk.GetImageFromArray(second))
    for label, (dice, jaccard) in found.items():
        assert dice == pytest.approx(filter_.GetDiceCoefficient(label), abs=1e-9)
        assert jaccard == pytest.approx(filter_.GetJaccardCoefficient(label), abs=1e-9)
    assert metrics.dice(first, second)[2] == found[2][0]


def test_overlap_of_missing_labels():
    first, second = np.array([[1, 1, 0]]), np.array([[0, 0, 0]])
    assert metrics.dice(first, second) == {1: 0.0}
    assert np.isnan(metrics.dice(first, second, [7])[7])
    with pytest.raises(RegistrationError, match=r"\(1, 3\).*\(3, 1\)"):
        metrics.dice(first, second.T)


def surface_by_hand(region: np.ndarray) -> np.ndarray:
    padded = np.pad(region, 1)
    inner = padded.copy()
    for axis in range(region.ndim):
        inner &= np.roll(padded, 1, axis) & np.roll(padded, -1, axis)
    return np.argwhere((padded & ~inner)[(slice(1, -1),) * region.ndim])


@pytest.mark.parametrize(("shape", "spacing"), [((14, 20, 17), (0.7, 1.3, 3.1)), ((30, 25), (0.5, 2.0))])
def test_surface_distances_agree_with_brute_force(shape, spacing):
    first, second = blobs(3, shape) == 2, blobs(4, shape) >= 2
    a, b = (surface_by_hand(region) * np.array(spacing[::-1]) for region in (first, second))
    between = np.linalg.norm(a[:, None] - b[None], axis=-1)
    forward, backward = between.min(1), between.min(0)
    expected = max(np.percentile(forward, 95), np.percentile(backward, 95))
    assert hd95(first, second, spacing) == pytest.approx(expected, abs=1e-6)
    mean = np.concatenate([forward, backward]).mean()
    assert average_surface_distance(first, second, spacing) == pytest.approx(mean, abs=1e-6)


def test_surface_distances_agree_with_simpleitk():
    import SimpleITK as sitk

    spacing = (0.8, 0.8, 2.5)
    regions = [blobs(seed, (20, 24, 22)) == 3 for seed in (5, 6)]
    images = [sitk.GetImageFromArray(region.astype(np.uint8)) for region in regions]
    for image in images:
        image.SetSpacing(spacing)
    contours = [sitk.LabelContour(sitk.ConstantPad(i, [1] * 3, [1] * 3, 0), fullyConnected=False) for i in images]
    maps = [
        sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(c, squaredDistance=False, useImageSpacing=True))
        for c in contours
    ]
    sets = [sitk.GetArrayFromImage(c) > 0 for c in contours]
    directed = [np.abs(maps[1])[sets[0]], np.abs(maps[0])[sets[1]]]
    assert hd95(*regions, spacing) == pytest.approx(max(np.percentile(d, 95) for d in directed), abs=0.01)


def test_largest_surface_distance_agrees_with_scikit_image():
    from skimage.metrics import hausdorff_distance
    from skimage.segmentation import find_boundaries

    first, second = np.pad(blobs(7, (12, 15, 13)) == 1, 2), np.pad(blobs(8, (12, 15, 13)) == 3, 2)
    borders = [find_boundaries(r, connectivity=1, mode="inner") for r in (first, second)]
    found = metrics.surface_distances(first, second, (1, 1, 1))
    assert max(d.max() for d in found) == pytest.approx(hausdorff_distance(*borders))


def test_surface_distance_of_two_planes_uses_the_right_axis():
    flat = np.zeros((5, 6, 7), dtype=bool)
    flat[1] = True
    moved = np.zeros_like(flat)
    moved[3] = True
    assert hd95(flat, moved, (1.0, 2.0, 5.0)) == pytest.approx(10.0)
    assert average_surface_distance(flat, moved, (1.0, 2.0, 5.0)) == pytest.approx(10.0)


def test_surface_distance_of_an_empty_region_is_nan():
    empty, full = np.zeros((4, 4), dtype=bool), np.ones((4, 4), dtype=bool)
    assert np.isnan(hd95(empty, full, (1, 1)))
    assert np.isnan(average_surface_distance(full, empty, (1, 1)))
    assert hd95(full, full, (1, 1)) == 0
    with pytest.raises(RegistrationError, match="spacing"):
        hd95(full, full, (1, 1, 1))


@pytest.mark.parametrize("dimension", [2, 3])
def test_jacobian_of_an_affine_map_on_an_oblique_grid(dimension):
    grid = Grid.create([7, 9, 6][:dimension], [0.7, 1.9, 2.5][:dimension], 11.0, rotation(1, dimension))
    affine = np.eye(dimension) + 0.3 * np.random.default_rng(2).normal(size=(dimension, dimension))
    points = grid.points()
    field = DisplacementField((points @ affine.T - points).astype(np.float32), grid)
    found = metrics.jacobian_determinant(field)
    assert found.shape == tuple(n - 2 for n in grid.shape)
    assert found == pytest.approx(np.linalg.det(affine), abs=1e-4)


def test_jacobian_agrees_with_simpleitk():
    import SimpleITK as sitk
    from scipy import ndimage

    # SimpleITK's filter ignores the direction: compare on an axis-aligned, anisotropic grid.
    grid = Grid.create((13, 11, 12), (1.0, 2.0, 3.0))
    noise = np.random.default_rng(0).normal(size=(*grid.shape, 3))
    vectors = 20 * ndimage.gaussian_filter(noise, (1.5, 1.5, 1.5, 0)).astype(np.float32)
    image = sitk.GetImageFromArray(vectors.astype(np.float64), isVector=True)
    image.SetSpacing(grid.spacing)
    expected = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(image))[1:-1, 1:-1, 1:-1]
    found = metrics.jacobian_determinant(DisplacementField(vectors, grid))
    assert found == pytest.approx(expected, abs=1e-4)
    assert metrics.folding_percentage(found) == pytest.approx(100 * np.mean(expected <= 0))


def test_jacobian_in_slabs_equals_the_whole(monkeypatch):
    grid = Grid.create((1100, 1000, 7))
    vectors = np.random.default_rng(0).normal(size=(*grid.shape, 3)).astype(np.float32)
    whole = metrics.jacobian_determinant(DisplacementField(vectors, grid))  # slabs of one layer
    cut = (slice(None), slice(300, 330), slice(500, 540))
    part = metrics.jacobian_determinant(DisplacementField(vectors[cut], Grid.create((40, 30, 7))))
    assert np.array_equal(whole[:, 300:328, 500:538], part)


def test_smoothness_measures():
    determinant = np.array([1.0, 2.0, -1.0, -5.0])
    assert metrics.folding_percentage(determinant) == 50
    assert metrics.folding_percentage(np.zeros(3)) == 100
    assert metrics.sd_log_jacobian_plus_3(determinant) == pytest.approx(np.std([np.log(v) for v in (4, 5, 2, 1e-9)]))
    assert metrics.sd_log_jacobian(determinant) == pytest.approx(np.log(2) / 2)
    assert np.isnan(metrics.sd_log_jacobian(np.array([-1.0])))
    with pytest.raises(RegistrationError, match="3 voxels"):
        metrics.jacobian_determinant(DisplacementField(np.zeros((2, 5, 2), np.float32), Grid.create((5, 2))))


def test_similarity():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(30, 40))
    assert metrics.normalised_cross_correlation(image, 5 - 3 * image) == pytest.approx(-1)
    assert np.isnan(metrics.normalised_cross_correlation(image, np.ones_like(image)))
    other = rng.normal(size=image.shape)
    assert metrics.normalised_cross_correlation(image, other) == pytest.approx(
        np.corrcoef(image.ravel(), other.ravel())[0, 1]
    )
    mask = image > 0
    assert metrics.normalised_cross_correlation(image, np.where(mask, image, other), mask) == pytest.approx(1)
    with pytest.raises(RegistrationError, match="mask"):
        metrics.normalised_cross_correlation(image, image, np.zeros_like(mask))
    # Two fair coins: log 2 if they are the same coin, nothing if they are independent.
    coin = np.tile([0.0, 1.0], 500)
    assert metrics.mutual_information(coin, 1 - coin) == pytest.approx(np.log(2))
    assert metrics.mutual_information(coin, np.repeat([0.0, 1.0], 500)) == pytest.approx(0, abs=1e-12)


def test_mutual_information_is_the_sum_of_entropies():
    rng = np.random.default_rng(1)
    a = rng.normal(size=5000)
    b = a + rng.normal(size=5000)
    joint = np.histogram2d(a, b, bins=16)[0].ravel() / 5000
    entropy = [
        -sum(p * np.log(p) for p in probabilities if p > 0)
        for probabilities in (np.histogram(a, 16)[0] / 5000, np.histogram(b, 16)[0] / 5000, joint)
    ]
    assert metrics.mutual_information(a, b, bins=16) == pytest.approx(entropy[0] + entropy[1] - entropy[2])
