"""What a registration says about its own certainty."""

from __future__ import annotations

import pickle
from dataclasses import replace

import itk
import numpy as np
import pytest
import SimpleITK
from conftest import blobs, made_pair, rotation
from scipy import ndimage

import itk_pdd
from itk_pdd import models, registration
from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.mapping import AffineMapping
from itk_pdd.io.volume import Volume
from itk_pdd.solver import engine
from itk_pdd.solver.settings import Refinement
from itk_pdd.uncertainty import estimate, features, recorder

PLANE = Grid.create((96, 96), 1.0)


def uncertain(fixed: Volume, moving: Volume, **options):
    """The uncertainty of a registration."""
    return registration.register_volumes(fixed, moving, uncertainty=True, **options).uncertainty


def stripes(shift: int) -> Volume:
    """A texture that repeats itself every 16 voxels along x, shifted along x."""
    y, x = np.meshgrid(*[np.arange(n) for n in PLANE.shape], indexing="ij")
    texture = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(96, 16)), (2, 1.5), mode="wrap")
    return Volume((1000 * texture[y, (x - shift) % 16]).astype(np.float32), PLANE)


@pytest.fixture(scope="module")
def pair():
    """A small synthetic pair, its registration and uncertainty."""
    made = made_pair((64, 56, 48), 3.0, seed=3, displacement=12.0)
    return made, registration.register_volumes(made.fixed, made.moving, uncertainty=True)


def test_two_equally_good_places_are_two_hypotheses_and_uncertain() -> None:
    # Half a period to either side is the same; an eighth of it is not.
    clear, ambiguous = uncertain(stripes(0), stripes(2)), uncertain(stripes(0), stripes(8))
    middle = [h for h in ambiguous.hypotheses if h.stage == 1 and np.abs(h.point - 48).max() < 24]
    assert len(middle) > 20
    for hypotheses in middle:
        assert len(hypotheses.displacements) == 2
        assert np.sort(hypotheses.displacements[:, 0]) == pytest.approx([-8, 8], abs=0.5)
        assert hypotheses.displacements[:, 1] == pytest.approx(0, abs=0.5)
        assert hypotheses.probabilities == pytest.approx(0.5, abs=0.15)
    assert not [h for h in clear.hypotheses if h.stage == 1 and np.abs(h.point - 48).max() < 24]
    here = np.s_[32:64, 32:64]
    found = [each.standard_deviation().array[here].mean() for each in (clear, ambiguous)]
    assert found[1] > 2 * found[0]


def test_flat_regions_are_less_certain_than_structured_ones() -> None:
    rng = np.random.default_rng(0)
    texture = ndimage.gaussian_filter(rng.normal(size=PLANE.shape), 2)
    texture *= 100 / texture.std() * (np.arange(96) < 48)
    fixed, moving = (Volume((texture + rng.normal(size=PLANE.shape)).astype(np.float32), PLANE) for _ in range(2))
    found = uncertain(fixed, moving).standard_deviation().array
    assert found[:, 64:].mean() > 2 * found[:, :32].mean()


def test_deviation_scales_with_the_spacing() -> None:
    fixed, moving = blobs(PLANE, seed=1), blobs(PLANE, seed=2)
    large = Grid.create(PLANE.size, 2.5)
    once = uncertain(fixed, moving).standard_deviation().array
    twice = uncertain(Volume(fixed.array, large), Volume(moving.array, large)).standard_deviation().array
    assert twice == pytest.approx(2.5 * once, rel=1e-3)


def test_deviation_does_not_depend_on_the_physical_frame(pair) -> None:
    made, result = pair
    turned = Grid.create(made.fixed.grid.size, 3.0, (50, -20, 11), rotation(5, -8, 10))
    found = uncertain(Volume(made.fixed.array, turned), Volume(made.moving.array, turned))
    here = result.uncertainty.standard_deviation().array
    assert found.standard_deviation().array == pytest.approx(here, rel=0.01)
    # The covariance turns along.
    turn = np.asarray(turned.direction)
    matrices = [_matrices(each.covariance()) for each in (result.uncertainty, found)]
    assert np.abs(turn @ matrices[0] @ turn.T - matrices[1]).max() < 0.02 * np.abs(matrices[0]).max()


def _matrices(components: np.ndarray) -> np.ndarray:
    return components[..., [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(*components.shape[:-1], 3, 3)


def test_intensity_units_do_not_matter(pair) -> None:
    made, result = pair
    found = uncertain(*(Volume(v.array * 7 + 300, v.grid) for v in (made.fixed, made.moving)))
    here = result.uncertainty.standard_deviation().array
    assert np.abs(found.standard_deviation().array / here - 1).mean() < 0.02


def test_no_registration_is_surer_than_quantisation_allows(pair) -> None:
    made, _ = pair
    found = uncertain(made.fixed, made.fixed)
    step = models.DEFAULT.stages[-1].step * 3.0
    nu, least = found.calibration.tail, found.calibration.floor * 3.0
    assert found.standard_deviation().array.min() >= np.sqrt(3 * nu / (nu - 2)) * least * (1 - 1e-5)
    # The width of the last stage holds what its steps cannot tell.
    assert found.evidence.features["width0"].min() >= np.sqrt(3 / 12) - 1e-5
    assert found.standard_deviation().array.min() > 0.75 * np.sqrt(3 * step**2 / 12)


def test_refinement_counts(pair) -> None:
    made, result = pair
    plain = uncertain(made.fixed, made.moving, model=replace(models.DEFAULT, refinement=Refinement(iterations=0)))
    before, after = plain.evidence.features["width0"], result.uncertainty.evidence.features["width0"]
    assert (after >= before - 1e-5).all()
    assert after.mean() > before.mean()


def test_true_errors_are_larger_where_it_is_less_certain(pair) -> None:
    made, result = pair
    error = np.linalg.norm(result.field.vectors - made.truth.vectors, axis=-1)[made.body]
    deviation = result.uncertainty.standard_deviation().array[made.body]
    order = np.argsort(deviation)
    fifth = len(order) // 5
    assert error[order[-fifth:]].mean() > 2 * error[order[:fifth]].mean()


def test_nothing_is_computed_without_being_asked_for(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    made, result = pair

    def forbidden(*_args, **_options):
        raise AssertionError("computed without being asked for")

    monkeypatch.setattr(engine, "Recorder", forbidden)
    monkeypatch.setattr(features, "collect", forbidden)
    monkeypatch.setattr(estimate, "Uncertainty", forbidden)
    monkeypatch.setattr(recorder, "distinct_modes", forbidden)
    plain = registration.register_volumes(made.fixed, made.moving)
    assert plain.uncertainty is None
    assert np.array_equal(plain.field.vectors, result.field.vectors), "asking does not change the answer"


def test_function_returns_an_image_on_the_fixed_grid(pair) -> None:
    made, result = pair
    transform, image = itk_pdd.register(made.fixed.to_itk(), made.moving.to_itk(), return_uncertainty=True)
    assert isinstance(image, itk.Image[itk.F, 3])
    assert isinstance(transform, itk.DisplacementFieldTransform[itk.D, 3])
    assert tuple(itk.size(image)) == made.fixed.grid.size
    assert itk.array_view_from_image(image) == pytest.approx(result.uncertainty.standard_deviation().array)
    images = made.fixed.to_simpleitk(), made.moving.to_simpleitk()
    assert isinstance(itk_pdd.register(*images, return_uncertainty=True)[1], SimpleITK.Image)
    assert isinstance(itk_pdd.register(*images, return_uncertainty="full")[1], itk_pdd.Uncertainty)
    with pytest.raises(RegistrationError, match="return_uncertainty is 'all'"):
        itk_pdd.register(*images, return_uncertainty="all")


def test_method_gives_it_and_runs_once_if_told_before(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = pair
    runs = []
    original = registration.run
    monkeypatch.setattr(registration, "run", lambda *a, **o: runs.append(o) or original(*a, **o))
    method = itk_pdd.PDDRegistrationMethod.New(fixed_image=made.fixed.to_itk(), moving_image=made.moving.to_itk())
    method.ComputeUncertaintyOn()
    method.Update()
    image, tensors = method.GetUncertainty(), method.GetCovariance()
    method.GetTransform()
    assert len(runs) == 1
    assert isinstance(image, itk.Image[itk.F, 3])
    assert isinstance(tensors, itk.Image[itk.SymmetricSecondRankTensor[itk.F, 3], 3])
    pixel = tensors.GetPixel([30, 20, 10])
    assert pixel(0, 0) + pixel(1, 1) + pixel(2, 2) == pytest.approx(image.GetPixel([30, 20, 10]) ** 2, rel=1e-3)
    again = pickle.loads(pickle.dumps(method))
    assert itk.array_view_from_image(again.GetUncertainty()) == pytest.approx(itk.array_view_from_image(image))
    assert len(runs) == 1
    later = itk_pdd.PDDRegistrationMethod.New(fixed_image=made.fixed.to_itk(), moving_image=made.moving.to_itk())
    later.Update()
    assert not runs[-1]["uncertainty"]
    later.GetUncertainty()
    assert (len(runs), later.GetComputeUncertainty()) == (3, True), "it runs again where nobody asked before"


def test_masks_channels_and_initial_transforms_are_taken(pair) -> None:
    made, _ = pair
    mask = Volume(made.body, made.fixed.grid)
    start = AffineMapping(np.array([[1.0, 0, 0, 3], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    found = registration.register_volumes(
        (made.fixed, made.fixed), (made.moving, made.moving), fixed_mask=mask, moving_mask=None, initial=start,
        uncertainty=True,
    ).uncertainty  # fmt: skip
    array = found.standard_deviation().array
    assert np.isfinite(array).all()
    assert (array > 0).all()


def test_the_same_channel_twice_tells_what_it_tells_once() -> None:
    made = made_pair((40, 36, 32), 3.0, seed=4, displacement=6.0)
    once = registration.register_volumes(made.fixed, made.moving, uncertainty=True).uncertainty.evidence
    channels = (made.fixed, made.fixed), (made.moving, made.moving)
    twice = registration.register_volumes(*channels, uncertainty=True).uncertainty.evidence
    assert twice.features["decorrelation"] == pytest.approx(once.features["decorrelation"], abs=1e-4)
    assert np.array_equal(twice.inside, once.inside)


def test_a_large_offset_of_the_intensities_changes_nothing() -> None:
    made = made_pair((40, 36, 32), 3.0, seed=4, displacement=6.0)
    images = [(each.array * np.float32(0.01), each.grid) for each in (made.fixed, made.moving)]
    plain, offset = (
        registration.register_volumes(
            *(Volume(array + np.float32(add), grid) for array, grid in images), uncertainty=True
        )
        for add in (0, 10000)
    )
    # The offset itself costs digits of the intensities.
    assert np.abs(offset.field.vectors - plain.field.vectors).mean() < 0.1
    found, expected = (each.uncertainty.evidence for each in (offset, plain))
    assert np.mean(found.inside != expected.inside) < 0.02
    assert np.abs(found.features["decorrelation"] - expected.features["decorrelation"]).mean() < 0.02


@pytest.mark.parametrize("block", [1, 3])
def test_evidence_lies_on_the_control_grid_whatever_the_lattice_of_the_field(block: int, monkeypatch) -> None:
    made = made_pair((40, 36, 32), 3.0, seed=4, displacement=6.0)
    search = engine.search

    def on_another_lattice(first, second, *arguments, **options):
        return search(first, second, *arguments, **options).enlarged(1).restricted(block)

    usual = registration.register_volumes(made.fixed, made.moving, uncertainty=True).uncertainty.evidence
    monkeypatch.setattr(engine, "search", on_another_lattice)
    found = registration.register_volumes(made.fixed, made.moving, uncertainty=True).uncertainty.evidence
    inner = np.s_[1:-1, 1:-1, 1:-1]
    assert np.abs(found.moved - usual.moved)[inner].mean() < 0.3
    assert np.linalg.norm(usual.moved - usual.grid.points(), axis=-1).mean() > 1
