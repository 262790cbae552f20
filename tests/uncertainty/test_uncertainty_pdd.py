"""The uncertainty of PDD networks: their distributions, put onto blocks of a working grid, and what becomes of them."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import itk
import numpy as np
import pytest
import torch
from conftest import rotation
from scipy import ndimage

import itk_pdd
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.mapping import AffineMapping
from itk_pdd.io.volume import Volume
from itk_pdd.models.pddmodel import PddModel
from itk_pdd.network.card import PddCard
from itk_pdd.network.distribution import DisplacementDistribution
from itk_pdd.network.pddnet import PddNetwork
from itk_pdd.network.preparation import Intensity
from itk_pdd.network.settings import InstanceOptimisation, PddSettings, Warp
from itk_pdd.registration import register_volumes
from itk_pdd.uncertainty import calibration, estimate, searches
from itk_pdd.uncertainty.recorder import StageRecord
from itk_pdd.uncertainty.searches import SearchRecorder

pytestmark = pytest.mark.usefixtures("one_thread")

WORKING = Grid.create((16, 12, 20), 2.5, (10, -20, 5), rotation(5, -8, 10))
GRID = Grid.create((34, 30, 28), (2.0, 2.0, 2.0), (-10.0, 40.0, 7.5))
SCALE = (1.0, 2.0, 3.0)  # working voxels per feature voxel along z, y, x
SHARPNESS = 0.5


def distribution(costs: np.ndarray) -> DisplacementDistribution:
    """A distribution of a network at blocks of 4 working voxels: offsets of 0.5, 0.7 and 0.3 feature voxels."""
    offsets = [torch.arange(-2.0, 3.0, dtype=torch.float64) * step for step in (0.5, 0.7, 0.3)]
    positions = [torch.arange(n, dtype=torch.float64) for n in costs.shape[:3]]
    return DisplacementDistribution(
        torch.from_numpy(costs), temperature=torch.tensor(3.0), positions=positions, displacements=offsets
    )


def record_of(costs: np.ndarray, shift: float = 0.0) -> tuple[StageRecord, np.ndarray, np.ndarray]:
    """Its record, with probabilities (..., n) and displacements (n, 3) in working voxels by brute force."""
    found = distribution(costs)
    recorder = SearchRecorder(SHARPNESS)
    recorder.search(
        found, found.mean(), scale=SCALE, points=WORKING.blocks(4), grid=WORKING,
        before=lambda points: points + shift * WORKING.matrix[:, 0],
    )  # fmt: skip
    (record,) = recorder.records(WORKING)
    weights = np.exp(-SHARPNESS * 3.0 * costs.reshape(*costs.shape[:3], -1).astype(float))
    vectors = [d[::-1] for d in itertools.product(*[o.tolist() for o in found.displacements])]
    return record, weights / weights.sum(axis=-1, keepdims=True), np.array(vectors) * SCALE[::-1]


def test_records_are_sums_over_all_displacements() -> None:
    costs = np.random.default_rng(0).uniform(0, 4, (5, 3, 4, 5, 5, 5)).astype(np.float32)
    record, p, vectors = record_of(costs, shift=1.5)
    mean = np.einsum("zyxn,ni->zyxi", p, vectors)
    second = np.einsum("zyxn,ni,nj->zyxij", p, vectors, vectors)
    np.testing.assert_allclose(record.covariance, second - mean[..., None] * mean[..., None, :], atol=2e-4)
    np.testing.assert_allclose(record.entropy, -(p * np.log(p)).sum(axis=-1), rtol=1e-4)
    # The mean is that of the network itself, through the searches before it.
    sharp = p ** (1 / SHARPNESS)
    own = np.einsum("zyxn,ni->zyxi", sharp / sharp.sum(axis=-1, keepdims=True), vectors)
    np.testing.assert_allclose(record.increment, own, atol=1e-4)
    np.testing.assert_allclose(record.mean, own + np.array([1.5, 0, 0]), atol=1e-4)
    assert record.step == pytest.approx(np.sqrt((0.5**2 + 1.4**2 + 0.9**2) / 3))


def test_two_minima_are_two_hypotheses() -> None:
    costs = np.full((5, 3, 4, 5, 5, 5), 9.0, np.float32)
    costs[2, 1, 3, 0, 2, 4], costs[2, 1, 3, 4, 2, 2] = 0.0, 0.5
    record, p, vectors = record_of(costs)
    (where,) = record.where[np.abs(record.where - [2, 1, 3]).max(axis=1) < 1e-4]
    assert where == pytest.approx([2, 1, 3])
    number = int(np.argmin(np.abs(record.where - where).max(axis=1)))
    best, next_best = 4 + 5 * (2 + 5 * 0), 2 + 5 * (2 + 5 * 4)
    np.testing.assert_allclose(record.modes[number, :2], vectors[[best, next_best]], atol=1e-4)
    assert np.isnan(record.modes[number, 2:]).all()
    ratio = p[2, 1, 3, next_best] / p[2, 1, 3, best]
    assert record.weights[number, 1] / record.weights[number, 0] == pytest.approx(ratio, rel=0.01)


def test_records_of_another_grid_turn_and_scale_along() -> None:
    costs = np.random.default_rng(1).uniform(0, 4, (5, 3, 4, 5, 5, 5)).astype(np.float32)
    found, recorder = distribution(costs), SearchRecorder()
    points = WORKING.blocks(4)
    recorder.search(found, found.mean(), scale=SCALE, points=points, grid=WORKING, before=lambda points: points)
    other = Grid.create((24, 24, 24), 1.25, WORKING.origin)
    own, seen = (recorder.records(grid)[0] for grid in (WORKING, other))
    turn = WORKING.matrix
    at = other.blocks(4).to_index(points.points())[2, 1, 1]
    nearest = tuple(np.round(at[::-1]).astype(int))
    here = points.to_index(other.blocks(4).to_physical(np.asarray(nearest[::-1], float)))
    expected = turn @ own.covariance @ turn.T / 1.25**2
    flat = ndimage.map_coordinates
    wanted = [[flat(expected[..., i, j], here[::-1, None], order=1)[0] for j in range(3)] for i in range(3)]
    np.testing.assert_allclose(seen.covariance[nearest], wanted, rtol=1e-3, atol=1e-3)
    assert seen.step == pytest.approx(2 * own.step)


def network(**options) -> PddModel:
    """Two searches with hand-made features."""
    settings = PddSettings(
        features="mind-ssc", warps=(Warp(0.4, 9, 8), Warp(0.15, 5, 10)), stride=2,
        optimisation=InstanceOptimisation(3), **options,
    )  # fmt: skip
    made = PddNetwork(settings)
    for search in made.searches:
        search.regularisation.log_temperature.data.fill_(math.log(3000.0))
    return PddModel(made, PddCard("mind", "", settings, Intensity("percentiles", 1, 99), 2.0))


def images(seed: int = 0) -> tuple[Volume, Volume]:
    """A texture, and the same a few voxels away."""
    array = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=GRID.shape), 2).astype(np.float32)
    return Volume(array, GRID), Volume(np.roll(array, (-1, 1, 2), (0, 1, 2)), GRID)


@pytest.fixture(scope="module")
def pair():
    """Two images, their registration without and with the uncertainty."""
    fixed, moving = images()
    return fixed, moving, *(register_volumes(fixed, moving, model=network(), uncertainty=u) for u in (False, True))


def test_asking_does_not_change_the_field(pair) -> None:
    _, _, plain, told = pair
    assert plain.uncertainty is None
    assert np.array_equal(plain.field.vectors, told.field.vectors)


def test_nothing_is_computed_without_being_asked_for(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_args, **_options):
        raise AssertionError("computed without being asked for")

    fixed, moving, *_ = pair
    monkeypatch.setattr(DisplacementDistribution, "moments", forbidden)
    monkeypatch.setattr(searches, "distinct_modes", forbidden)
    monkeypatch.setattr(estimate, "Uncertainty", forbidden)
    register_volumes(fixed, moving, model=network())


def test_it_is_an_uncertainty_like_that_of_the_default(pair) -> None:
    fixed, moving, _, told = pair
    found = told.uncertainty
    deviation, covariance = found.standard_deviation().array, found.covariance()
    assert (deviation > 0).all()
    np.testing.assert_allclose(covariance[..., [0, 3, 5]].sum(axis=-1), deviation**2, rtol=1e-3)
    assert np.isfinite(found.entropy().array).all()
    assert "half of the body is located within" in found.headline
    values, shares = found.label_probabilities(Volume((moving.array > 0).astype(np.uint8), GRID).to_itk())
    assert values == (0, 1)
    np.testing.assert_allclose(shares.sum(axis=-1), 1, rtol=1e-6)
    assert {each.stage for each in found.hypotheses} <= {1, 2}
    for each in found.hypotheses:
        assert 2 <= len(each.displacements) == len(each.probabilities)
    assert found.quality is None or 0 < found.quality.figure < 1
    sample = next(found.sample(1))
    assert not np.array_equal(sample.vectors, told.field.vectors)
    _, image = itk_pdd.register(fixed.to_itk(), moving.to_itk(), model=network(), return_uncertainty=True)
    np.testing.assert_allclose(itk.array_view_from_image(image), deviation, rtol=1e-5)


def test_a_direction_without_texture_is_less_certain() -> None:
    x = ndimage.gaussian_filter1d(np.random.default_rng(2).normal(size=GRID.shape[2]), 2)
    plates = Volume(np.broadcast_to(x, GRID.shape).astype(np.float32).copy(), GRID)
    found = register_volumes(plates, plates, model=network(), uncertainty=True).uncertainty
    across, *along = np.moveaxis(found.covariance()[8:-8, 8:-8, 8:-8, [0, 3, 5]].mean(axis=(0, 1, 2)), -1, 0)
    assert min(along) > 1.3 * across
    # The distributions themselves say so.
    spread = found.evidence.spread["marginals"][2:-2, 2:-2, 2:-2].mean(axis=(0, 1, 2))
    assert min(spread[1, 1], spread[2, 2]) > 1.5 * spread[0, 0]


def test_wider_distributions_make_it_less_certain(pair) -> None:
    fixed, moving, _, told = pair
    blurred = network()
    for search in blurred.network.searches:
        search.regularisation.log_temperature.data.fill_(math.log(30.0))
    wide = register_volumes(fixed, moving, model=blurred, uncertainty=True).uncertainty
    means = [u.evidence.features["width0"].mean() for u in (told.uncertainty, wide)]
    assert means[1] > 1.5 * means[0]
    assert wide.standard_deviation().array.mean() > told.uncertainty.standard_deviation().array.mean()


def test_masks_and_an_initial_transform_are_taken(pair) -> None:
    fixed, moving, *_ = pair
    mask = np.zeros(GRID.shape, bool)
    mask[:, :, 16:] = True
    found = register_volumes(
        fixed, moving, model=network(), fixed_mask=Volume(mask, GRID), moving_mask=Volume(mask, GRID),
        initial=AffineMapping.translation(np.array([-3.0, -2.0, 2.0])), uncertainty=True,
    ).uncertainty  # fmt: skip
    assert np.isfinite(found.standard_deviation().array).all()
    assert not found.evidence.inside[..., 0].any()
    assert found.evidence.inside[..., 5].any()


def test_the_calibration_on_the_card_counts(pair) -> None:
    fixed, moving, _, told = pair
    own = replace(calibration.calibration_of_package(calibration.PDD), floor=9.0, ceiling=30.0)
    model = network()
    model = replace(model, card=replace(model.card, uncertainty=own.to_dict()))
    found = register_volumes(fixed, moving, model=model, uncertainty=True).uncertainty
    assert found.calibration == own
    assert found.standard_deviation().array.min() > told.uncertainty.standard_deviation().array.max()
