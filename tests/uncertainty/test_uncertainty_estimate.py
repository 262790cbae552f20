"""The uncertainty itself, where evidence and calibration are given."""

from __future__ import annotations

import itk
import numpy as np
import pytest
import SimpleITK
from conftest import rotation
from scipy import stats

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.mapping import AffineMapping
from itk_pdd.io.volume import Volume
from itk_pdd.uncertainty import IMAGES, LABEL_IMAGES
from itk_pdd.uncertainty import labels as label_images
from itk_pdd.uncertainty.calibration import Calibration
from itk_pdd.uncertainty.estimate import Uncertainty
from itk_pdd.uncertainty.features import Evidence
from itk_pdd.uncertainty.images import tensor_to_itk, uncertainty_writers

PLAIN = Calibration(intercept=np.log(1.5), weights={}, offsets={}, tail=6.0, coherence=6.0)


def made(
    grid: Grid | None = None, *, features: dict | None = None, calibration: Calibration = PLAIN, initial=None,
    spread: np.ndarray | None = None, shift=0.0,
) -> Uncertainty:  # fmt: skip
    """An uncertainty on control points every four voxels of the canonical grid."""
    grid = grid or Grid.create((36, 32, 28), 2.0)
    working = grid.canonical().with_spacing(float(np.prod(grid.spacing) ** (1 / grid.dimension)))
    control = working.blocks(4)
    unit = np.eye(grid.dimension, dtype=np.float32) / grid.dimension if spread is None else spread
    shapes = {"structure": np.broadcast_to(unit, (*control.shape, grid.dimension, grid.dimension))}
    features = {n: np.broadcast_to(np.float32(v), control.shape) for n, v in (features or {}).items()}
    inside = np.ones(control.shape, bool)
    moved = control.points() + shift
    evidence = Evidence(features, shapes, (), working, inside, control, working.spacing[0], moved)
    return Uncertainty(evidence, calibration, DisplacementField.zeros(grid), initial)


@pytest.mark.parametrize("dimension", [2, 3])
def test_standard_deviation_is_that_of_the_calibrated_distribution(dimension: int) -> None:
    found = made(Grid.create((24, 20, 16)[:dimension], 2.0)).standard_deviation()
    # A Student distribution has the variance scale^2 nu / (nu - 2) along each axis.
    assert found.array == pytest.approx(np.sqrt(dimension * 6 / 4) * 1.5 * 2.0, rel=1e-5)
    assert found.array.dtype == np.float32


def test_covariance_has_the_squared_deviation_as_its_trace(grid: Grid) -> None:
    generator = np.random.default_rng(0)
    root = generator.normal(size=(grid.dimension, grid.dimension))
    spread = (root @ root.T / np.trace(root @ root.T)).astype(np.float32)
    uncertainty = made(grid, spread=spread, calibration=Calibration(0.3, {}, {}, 5.0, structure=1.0))
    covariance, deviation = uncertainty.covariance(), uncertainty.standard_deviation().array
    diagonal = [0, 3, 5] if grid.dimension == 3 else [0, 2]
    assert covariance[..., diagonal].sum(axis=-1) == pytest.approx(deviation**2, rel=1e-4)
    # Turned from the axes of the working grid to physical ones.
    turn = np.asarray(uncertainty.evidence.grid.direction)
    full = turn @ spread @ turn.T * deviation.flat[0] ** 2
    assert covariance.reshape(-1, covariance.shape[-1])[0] == pytest.approx(
        full[np.triu_indices(grid.dimension)], rel=1e-4, abs=1e-5
    )


def test_tensor_image_of_itk_holds_the_matrix() -> None:
    grid = Grid.create((9, 8, 7), 2.0, direction=rotation(10, 20, 30))
    spread = np.diag([0.6, 0.3, 0.1]).astype(np.float32)
    uncertainty = made(grid, spread=spread, calibration=Calibration(0.3, {}, {}, 5.0, structure=1.0))
    image = tensor_to_itk(uncertainty.covariance(), grid)
    pixel = image.GetPixel([2, 3, 4])
    matrix = np.array([[pixel(i, j) for j in range(3)] for i in range(3)])
    assert matrix == pytest.approx(matrix.T)
    assert np.sort(np.linalg.eigvalsh(matrix)) == pytest.approx(np.array([0.1, 0.3, 0.6]) * np.trace(matrix), rel=1e-4)
    assert itk.size(image) == itk.size(uncertainty.to_itk())


def test_regions_hold_their_probability_of_the_distribution() -> None:
    uncertainty = made()
    generator = np.random.default_rng(0)
    draws = stats.multivariate_t(shape=np.eye(3) * 3.0**2, df=6, seed=generator).rvs(40000)
    for probability in (0.5, 0.9, 0.95):
        radius = uncertainty.radius(probability).array.flat[0]
        assert np.mean(np.linalg.norm(draws, axis=1) < radius) == pytest.approx(probability, abs=0.01)


@pytest.mark.parametrize("probability", [0.0, 1.0, -0.1, 95])
def test_probability_must_be_one(probability: float) -> None:
    with pytest.raises(RegistrationError, match=f"probability is {probability}"):
        made().radius(probability)


def test_entropy_is_that_of_the_distribution() -> None:
    draws = stats.multivariate_t(shape=np.eye(3) * 3.0**2, df=6, seed=np.random.default_rng(0))
    sample = draws.rvs(100000)
    assert made().entropy().array == pytest.approx(-draws.logpdf(sample).mean(), abs=0.02)


def test_initial_transform_carries_the_uncertainty_on() -> None:
    matrix = np.diag([3.0, 1.0, 1.0, 1.0])
    spread = np.eye(3, dtype=np.float32) / 3
    plain, carried = made(spread=spread), made(spread=spread, initial=AffineMapping(matrix))
    factor = carried.covariance()[0, 0, 0] / np.maximum(plain.covariance()[0, 0, 0], 1e-9)
    assert factor[[0, 3, 5]] == pytest.approx([9, 1, 1], rel=1e-4)


def test_the_initial_transform_counts_where_the_displacement_leads() -> None:
    # x is stretched from 30 mm on: a point at 10 mm that moves there is carried on by the stretched part.
    def bent(points):
        return points + np.maximum(points[..., :1] - 30, 0) * [1.0, 0, 0]

    spread = np.eye(3, dtype=np.float32) / 3
    plain, here, there = (
        made(spread=spread, initial=m, shift=s) for m, s in ((None, 0), (bent, 0), (bent, [40, 0, 0]))
    )
    x = 5  # 10 mm
    factors = [u.covariance()[0, 0, x, 0] / plain.covariance()[0, 0, x, 0] for u in (here, there)]
    assert factors == pytest.approx([1, 4], rel=1e-3)


def test_no_evidence_is_so_bad_that_the_error_has_no_bound() -> None:
    calibration = Calibration(
        0.0, {"left": 0.7}, {"left": 0.1}, 3.0, mismatch={"intercept": 0.0, "weights": {"left": 4}}
    )
    scale = calibration.scale({"left": np.array([0.1, 1e2, 1e4], np.float32)})
    assert scale[0] < scale[1] == scale[2]
    assert scale[2] * np.sqrt(3.0 / (3.0 - 2)) == pytest.approx(calibration.ceiling)  # of a Student distribution


def test_worse_evidence_is_less_certain_and_nothing_goes_below_the_floor() -> None:
    calibration = Calibration(-3.0, {"left": 0.7}, {"left": 0.1}, 5.0, floor=0.3)
    scales = [calibration.scale(made(features={"left": v}).evidence.features).max() for v in (0, 0.5, 1, 10, 100)]
    assert np.all(np.diff(scales) >= 0)
    assert scales[0] == pytest.approx(0.3)
    assert scales[-1] == pytest.approx(np.exp(-3) * 100.1**0.7, rel=1e-4)


def test_imprecision_wrong_matches_and_ambiguity_add_up() -> None:
    wrong = {"intercept": np.log(4.0), "weights": {"left": 1.0}}
    calibration = Calibration(np.log(3.0), {}, {"left": 0.0}, 5.0, mismatch=wrong, ambiguity=0.5)
    features = {"left": np.array([0.0, 1.0, 1.0]), "ambiguity": np.array([0.0, 0.0, 24.0])}
    with np.errstate(divide="ignore"):
        assert calibration.scale(features) == pytest.approx([3, 5, 13], rel=1e-5)


def test_calibration_survives_its_card() -> None:
    calibration = Calibration(-1.0, {"left": 0.7}, {"left": 0.1}, 5.0, structure=0.2, learned={"pairs": 3})
    assert Calibration.from_dict(calibration.to_dict()) == calibration


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tail": 2.0}, "tail is 2.0"),
        ({"weights": {"left": -0.1}}, "none below 0"),
        ({"mismatch": {"intercept": 0.0, "weights": {"left": -1.0}}}, "none below 0"),
        ({"structure": 0.7, "marginals": 0.6}, "not above 1 together"),
        ({"unknown": 1}, "no complete calibration"),
    ],
)
def test_impossible_calibration_is_refused(change: dict, message: str) -> None:
    with pytest.raises(RegistrationError, match=message):
        Calibration.from_dict({"intercept": 0.0, "weights": {}, "offsets": {}, "tail": 5.0, **change})


def test_samples_have_the_covariance_and_are_smooth() -> None:
    spread = np.array([[0.5, 0.2, 0], [0.2, 0.4, 0], [0, 0, 0.1]], np.float32)
    uncertainty = made(spread=spread, calibration=Calibration(0.5, {}, {}, 5.0, structure=1.0, coherence=6.0))
    samples = np.stack([field.vectors for field in uncertainty.sample(150, seed=1)])
    assert samples.mean() == pytest.approx(0, abs=0.2)
    flat = samples.reshape(-1, 3)
    covariance = np.cov(flat.T)[np.triu_indices(3)]
    expected = uncertainty.covariance()[0, 0, 0]
    assert covariance == pytest.approx(expected, abs=float(0.1 * expected.max()))
    # Between control points (two voxels beside one) as well as on them.
    variance = samples[..., 0].var(axis=0)
    assert variance[:, :, 1::4].mean() == pytest.approx(variance[:, :, 3::4].mean(), rel=0.05)
    near = np.corrcoef(samples[:, 10, 10, 10, 0], samples[:, 10, 10, 11, 0])[0, 1]
    far = np.corrcoef(samples[:, 4, 4, 4, 0], samples[:, 24, 28, 32, 0])[0, 1]
    assert near > 0.95
    assert abs(far) < 0.3


def test_the_same_seed_draws_the_same_samples() -> None:
    uncertainty = made()
    first, again, other = (next(iter(uncertainty.sample(1, seed))).vectors for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    with pytest.raises(RegistrationError, match="count is 0"):
        uncertainty.sample(0)


def test_probability_of_a_label_behind_a_plane_is_the_normal_distribution() -> None:
    grid = Grid.create((36, 32, 28), 2.0)
    labels = Volume((np.arange(36) >= 18).astype(np.uint8)[None, None].repeat(28, 0).repeat(32, 1), grid)
    uncertainty = made(grid, calibration=Calibration(np.log(1.5), {}, {}, 6.0))
    values, probabilities = uncertainty.label_probabilities(labels)
    assert values == (0, 1)
    assert probabilities.sum(axis=-1) == pytest.approx(1)
    deviation = uncertainty.standard_deviation().array.flat[0] / np.sqrt(3)
    x = np.arange(36) * 2.0 - 35.0  # distance to the plane
    assert probabilities[14, 16, 3:-3, 1] == pytest.approx(stats.norm.cdf(x / deviation)[3:-3], abs=0.06)


def test_label_entropy_is_zero_inside_and_large_at_the_border() -> None:
    grid = Grid.create((36, 32, 28), 2.0)
    array = np.zeros(grid.shape, np.uint8)
    array[:, :, 18:] = 5
    entropy = made(grid, calibration=Calibration(np.log(0.5), {}, {}, 6.0)).label_entropy(Volume(array, grid)).array
    assert entropy[:, :, 4:12].max() == 0
    assert entropy[8:20, 8:24, 24:32].max() == 0
    assert entropy[8:20, 8:24, 17:19].min() > 0.3
    assert entropy.max() <= np.log(2) + 1e-6


def test_labels_are_drawn_once_for_both_of_their_images(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Grid.create((20, 18, 16), 2.0)
    uncertainty = made(grid)
    labels = Volume(np.random.default_rng(0).integers(0, 3, grid.shape).astype(np.uint8), grid)
    expected = uncertainty.label_entropy(labels).array
    draws = []
    drawn = label_images._drawn
    monkeypatch.setattr(label_images, "_drawn", lambda *given: draws.append(given) or drawn(*given))
    writers = uncertainty_writers(uncertainty, labels.to_simpleitk(), LABEL_IMAGES)
    assert set(writers) == set(IMAGES)
    images = {name: SimpleITK.GetArrayFromImage(writers[name]().args[0]) for name in LABEL_IMAGES}
    assert len(draws) == 1
    assert images["label_probabilities"].shape == (*grid.shape, 3)
    assert images["label_entropy"] == pytest.approx(expected, abs=1e-5)
    # Alone, the entropy needs no array of all probabilities.
    alone = uncertainty_writers(uncertainty, labels.to_simpleitk(), ("label_entropy",))["label_entropy"]().args[0]
    assert SimpleITK.GetArrayFromImage(alone) == pytest.approx(expected, abs=1e-5)


def test_a_calibration_that_has_not_learned_to_judge_does_not() -> None:
    assert made().quality is None
