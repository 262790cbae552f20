"""Class probabilities beside the image: seen from the working grid, and followed by the search."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import rotation

from itk_pdd import models, registration
from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.blockfield import BlockField
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.volume import Volume
from itk_pdd.kernels.thermometer.cpu import thermometer_codes
from itk_pdd.network.preparation import Intensity
from itk_pdd.solver.class_maps import ClassMaps
from itk_pdd.solver.refinement import refined
from itk_pdd.solver.settings import Refinement
from itk_pdd.solver.working import WorkingImage
from itk_pdd.synthesis import make_pair
from itk_pdd.synthesis.abdomen import AbdomenLabel


def ramp(grid):
    """A class whose probability grows along physical x, and its complement."""
    x = grid.points()[..., 0]
    value = np.clip(0.5 + x / 60, 0, 1).astype(np.float32)
    return np.stack([value, 1 - value], axis=-1)


@pytest.mark.parametrize("direction", [np.eye(3), np.diag([-1.0, 1.0, -1.0]), rotation(10, 20, -15)])
@pytest.mark.parametrize("shrink", [1, 2])
def test_codes_are_those_of_the_physical_place(direction, shrink):
    where = Grid.create((22, 21, 20), 4.0, direction @ [-42.0, -40.0, -38.0], direction)
    working = Grid.create((21, 20, 11), 2.0, (-20.0, -20.0, -10.0))
    maps = ClassMaps(ramp(where), where, [20, 30], working, 1.0)
    expected = thermometer_codes(ramp(working.blocks(shrink)), [20, 30])
    different = maps.codes(shrink) ^ expected
    # One level of rounding is left to the interpolation.
    assert max(bin(int(v)).count("1") for v in different.ravel()) <= 2
    shifted = ClassMaps(ramp(where), where, [20, 30], working, 1.0, lambda points: points + np.array([8.0, 0, 0]))
    away = thermometer_codes(np.clip(ramp(working.blocks(shrink)) + np.float32([8 / 60, -8 / 60]), 0, 1), [20, 30])
    assert max(bin(int(v)).count("1") for v in (shifted.codes(shrink) ^ away).ravel()) <= 2


@pytest.mark.parametrize("direction", [np.eye(3), rotation(10, 20, -15)])
def test_features_are_the_probabilities_of_the_physical_place(direction):
    where = Grid.create((22, 21, 20), 4.0, direction @ [-42.0, -40.0, -38.0], direction)
    working = Grid.create((21, 20, 11), 2.0, (-20.0, -20.0, -10.0))
    maps = ClassMaps(ramp(where), where, [16, 32], working, 1.0)
    assert maps.shrink == 2
    found = maps.features(2)
    assert found.shape == (*working.blocks(2).shape, 16) and not found[..., 2:].any()
    # Squared differences count as the bits do: half as much for the first class.
    expected = 255 * np.sqrt([0.5, 1.0]) * ramp(working.blocks(2))
    assert np.abs(found[..., :2] - expected).max() <= 1.5


def test_descent_on_class_probabilities_finds_a_small_shift():
    grid = Grid.create((40, 38, 36), 2.0)
    rng = np.random.default_rng(0)
    shift = np.asarray([3.0, -2.0, 1.5])  # voxels

    def image(centre):
        radius = np.linalg.norm(grid.points() - centre, axis=-1)
        organ = (1 / (1 + np.exp((radius - 18) / 2))).astype(np.float32)
        maps = ClassMaps(organ[..., None], grid, [64], grid, 1.0)
        # Noise of its own in each image: the intensities tell nothing.
        noise = rng.normal(size=grid.shape).astype(np.float32)
        return WorkingImage((noise,), 3, classes=maps), radius

    (fixed, radius), (moving, _) = image(grid.centre), image(grid.centre + 2 * shift)
    settings = models.load("abdomen-ct").refinement
    assert settings.features == "classes"
    start = np.zeros((*grid.shape, 3), np.float32)
    result = refined(fixed, moving, BlockField(start, 1, grid.shape, 3), settings)
    found = result.vectors
    assert result.size == 1
    surface = np.abs(radius - 18) < 4
    normal = (grid.points() - grid.centre)[surface] / radius[surface][:, None]
    # Along the surface nothing tells how far it moved.
    missing = ((found[surface] - shift) * normal).sum(axis=-1)
    assert np.abs((shift * normal).sum(axis=-1)).mean() > 1.5
    assert np.abs(missing).mean() < 0.4


def ball(grid, centre):
    return (np.linalg.norm(grid.points() - centre, axis=-1) < 12).astype(np.float32)


def stub_network(monkeypatch, answer, volumes, spacing):
    """Put a network in the place of every trained one: ``answer`` takes a volume to probabilities on its grid.

    Returns the list of what it is loaded from, folders and devices.
    """
    classes = [SimpleNamespace(name="organ", volume=volume) for volume in volumes]
    card = SimpleNamespace(classes=classes, image_spacing=spacing, intensity=Intensity(), purpose={})
    network = SimpleNamespace(card=card, probabilities=lambda volume: (answer(volume), volume.grid))
    loaded = []

    def from_folder(folder, *, device):
        loaded.append((folder, device))
        return network

    monkeypatch.setattr("itk_pdd.network.semantic.SemanticNetwork", SimpleNamespace(from_folder=from_folder))
    return loaded


def test_classes_lead_where_the_image_says_nothing(monkeypatch):
    grid = Grid.create((40, 40, 40), 2.0)
    rng = np.random.default_rng(0)
    centre, shift = grid.centre, np.asarray([8.0, -6.0, 4.0])
    fixed, moving = (Volume(rng.normal(size=grid.shape).astype(np.float32), grid) for _ in range(2))
    places = iter([centre, centre + shift])

    def answer(volume):
        organ = ball(volume.grid, next(places))
        return np.stack([1 - organ, organ])

    loaded = stub_network(monkeypatch, answer, (500_000.0, 10_000.0), 2.0)
    model = replace(models.DEFAULT, network="somewhere", class_weight=20.0, refinement=Refinement(iterations=0))
    found = registration.register_volumes(fixed, moving, model=model).field
    assert loaded == [("somewhere", "cpu")]
    organ = ball(grid, centre) > 0
    moved = ball(Grid.create((40, 40, 40), 2.0), centre + shift)
    from itk_pdd.kernels.interpolation.cpu import sample_linear

    warped = sample_linear(moved, grid.to_index(found(grid.points()))) > 0.5
    dice = 2 * (warped & organ).sum() / (warped.sum() + organ.sum())
    start = 2 * ((moved > 0.5) & organ).sum() / ((moved > 0.5).sum() + organ.sum())
    assert start < 0.5
    assert dice > 0.8


@pytest.mark.parametrize("name", ["abdomen-ct", "hippocampus-mr"])
def test_structures_without_a_label_move_as_well(monkeypatch, name):
    """Once, a descent on organs alone left bones, fat and the wall of the body near their start."""
    made = make_pair((48, 44, 36), 6.0, seed=3, displacement=30)
    organs = [label for label, organ in made.names.items() if organ in ("liver", "spleen")]

    def answer(volume):
        labels = made.fixed_labels if np.array_equal(volume.array, made.fixed.array) else made.moving_labels
        shares = np.stack([labels.array == organ for organ in organs]).astype(np.float32)
        return np.concatenate([1 - shares.sum(axis=0, keepdims=True), shares])

    stub_network(monkeypatch, answer, (1e7, 2e6, 2e5), 6.0)
    found = registration.register_volumes(made.fixed, made.moving, model=name).field
    error, before = (np.linalg.norm(u - made.truth.vectors, axis=-1) / 6 for u in (found.vectors, 0))
    for where in (made.body & ~np.isin(made.fixed_labels.array, organs), made.fixed_labels.array == AbdomenLabel.BONE):
        assert before[where].mean() > 1.5
        assert error[where].mean() < 0.5 * before[where].mean()
    assert found.jacobian_determinant().min() > 0


def test_cards_name_the_weight_of_the_intensities(tmp_path):
    folder = Path(models.__file__).parent / "hippocampus-mr"
    shutil.copytree(folder, tmp_path / "mine")
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    for weight in (0.0, 0.1):
        (tmp_path / "mine" / "card.json").write_text(json.dumps(card | {"correlation": weight}), encoding="utf-8")
        assert models.load(tmp_path / "mine").refinement.correlation == weight
    (tmp_path / "mine" / "card.json").write_text(json.dumps(card | {"correlation": -1}), encoding="utf-8")
    with pytest.raises(RegistrationError, match="correlation is -1, expected a number from 0 to 1"):
        models.load(tmp_path / "mine")


def test_unknown_models_are_named():
    with pytest.raises(RegistrationError, match=r"expected 'auto', one of .*mind-ssc"):
        models.load("nonsense")
