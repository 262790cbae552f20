"""Learned descriptors: they begin as MIND-SSC, their words hold the signs, and the last search compares them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import GEOMETRIES
from scipy import ndimage

from itk_pdd import models
from itk_pdd.errors import RegistrationError
from itk_pdd.evaluation import datasets
from itk_pdd.evaluation.scoring import load_case, score
from itk_pdd.kernels.mind.cpu import add_codes
from itk_pdd.kernels.operations import HOST
from itk_pdd.network.card import DescriptorCard, ModelCard
from itk_pdd.network.descriptor import Descriptor, descriptor_features, load_descriptor
from itk_pdd.network.export import write_model
from itk_pdd.network.settings import DescriptorSettings
from itk_pdd.registration import register_volumes
from itk_pdd.solver.settings import Refinement
from itk_pdd.solver.working import WorkingImage
from itk_pdd.synthesis import make_pair
from itk_pdd.training.descriptor_trainer import Objective
from itk_pdd.training.views import ViewSource, label_maps

SETTINGS = DescriptorSettings(hidden=8)


@pytest.fixture(scope="module")
def image():
    noise = np.random.default_rng(0).normal(size=(11, 18, 14)).astype(np.float32)
    return ndimage.gaussian_filter(noise, 1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model whose descriptor has random weights."""
    torch.manual_seed(3)
    network = Descriptor(SETTINGS)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    folder = tmp_path_factory.mktemp("models") / "random"
    write_model(folder, network, DescriptorCard("random", "", SETTINGS, share=0.25))
    return folder


def test_it_begins_as_the_bits_of_mind_ssc(image):
    expected = np.zeros(image.shape, np.uint64)
    for i, dilation in enumerate((1, 3)):
        add_codes(image, expected, bits=2, shift=24 * i, dilation=dilation)
    found = Descriptor(SETTINGS).codes(image) & np.uint64(2**48 - 1)
    # The order of the bits is another one, their distance the same, but where 8 bits of a feature decide otherwise.
    pairs = [(a.ravel()[:-7], a.ravel()[7:]) for a in (expected, found)]
    one, other = (np.bitwise_count(a ^ b).astype(int) for a, b in pairs)
    assert one.max() > 20
    assert np.abs(one - other).max() <= 3 and (one != other).mean() < 0.1


def test_words_hold_the_signs(image, folder):
    network = load_descriptor(folder)
    with torch.no_grad():
        numbers = network(torch.from_numpy(descriptor_features(image, SETTINGS.dilations))).numpy()
    codes = network.codes(image)
    for bit in (0, 1, 31, 32, 63):
        np.testing.assert_array_equal(codes >> np.uint64(bit) & np.uint64(1), numbers[..., bit] > 0)


def test_contrast_does_not_matter(image, folder):
    network = load_descriptor(folder)
    same = np.bitwise_count(network.codes(image) ^ network.codes(-300 * image + 70))
    assert same.mean() < 0.01 * 64, "a bit may depend on the last digit"


def test_the_codes_of_a_search_share_their_worth(image, folder):
    network = load_descriptor(folder)
    working = WorkingImage((image, 2 * image), 3, weights=(1.0, 3.0), descriptor=network.codes)
    codes, scales = working.codes((1, 2), HOST, learned=0.25)
    plain, worth = working.codes((1, 2), HOST)
    np.testing.assert_array_equal(codes[:2], plain)
    np.testing.assert_array_equal(codes[2], network.codes(image))
    bits = 48
    assert scales == pytest.approx((0.75 / 4 / bits, 0.75 * 3 / 4 / bits, 0.25 / 4 / 64, 0.25 * 3 / 4 / 64))
    assert worth == pytest.approx((1 / 4 / bits, 3 / 4 / bits))


def test_only_the_last_search_compares_them(folder):
    model = models.load(folder)
    assert [stage.learned for stage in model.stages] == [0, 0, 0.25]
    assert model.refinement == models.DEFAULT.refinement


def test_registration_looks_at_it(folder):
    pair = make_pair((40, 36, 32), 3.0, seed=2, displacement=12.0)
    found = [replace(models.load(m), refinement=Refinement(iterations=0)) for m in ("auto", folder)]
    fields = [register_volumes(pair.fixed, pair.moving, model=m, threads=1).field.vectors for m in found]
    errors = [np.linalg.norm(f - pair.truth.vectors, axis=-1)[pair.body].mean() for f in fields]
    assert np.abs(fields[0] - fields[1]).max() > 0.1
    # Even random answers to questions about the right features are no disaster at a quarter of the worth.
    assert errors[1] < 1.5 * errors[0]


def test_two_dimensions_go_without_it(folder):
    pair = make_pair((48, 40), 2.0, seed=1)
    fields = [register_volumes(pair.fixed, pair.moving, model=m).field.vectors for m in ("auto", folder)]
    np.testing.assert_array_equal(*fields)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"share": 1.5}, "share is 1.5, expected a number between 0 and 1"),
        ({"network": {"dilations": [1], "hidden": 8}}, "dilations are"),
        ({"network": {"dilations": [1, 2, 3, 4], "hidden": 0}}, "hidden is 0"),
        ({"network": {"dilations": [1, 2, 3, 4], "hidden": 9}}, "card and weights do not belong together"),
        ({"schema": 99}, "newer version"),
    ],
)
def test_damaged_cards_are_one_sentence(folder, tmp_path, change, complaint):
    content = {**json.loads((folder / "card.json").read_text()), **change}
    (tmp_path / "card.json").write_text(json.dumps(content))
    (tmp_path / "weights.safetensors").write_bytes((folder / "weights.safetensors").read_bytes())
    with pytest.raises(RegistrationError, match=complaint):
        load_descriptor(tmp_path)


def test_another_kind_is_told(folder):
    with pytest.raises(RegistrationError, match="kind is 'descriptor', expected 'semantic'"):
        ModelCard.from_folder(folder)


def test_every_geometry_is_taken(folder):
    grid = GEOMETRIES["flipped and permuted"]
    pair = make_pair(grid.size, grid.spacing, seed=4, origin=grid.origin, direction=np.asarray(grid.direction))
    assert np.isfinite(register_volumes(pair.fixed, pair.moving, model=folder, threads=1).field.vectors).all()


def test_the_model_of_the_package_is_no_worse_than_without(data):
    """Its card says what was measured on all pairs; here on some small ones."""
    dice = {}
    for model in ("auto", "general"):
        found = []
        for pair in datasets.hippocampus_pairs("validation", 8):
            case = load_case(pair)
            field = register_volumes(case.fixed, case.moving, model=model).field
            found.append(score(case, field, surfaces=False, similarity=False).mean())
        dice[model] = np.mean(found)
    assert dice["general"] > dice["auto"] - 0.005


def test_the_model_of_the_package_has_learned():
    """Beside MIND-SSC, its bits make the true displacements of unseen shapes more probable than those it began with."""
    source = ViewSource(label_maps(3, seed=987), size=32)
    views = [source.draw(np.random.default_rng([4, number])) for number in range(4)]
    losses = {}
    for name, network in (
        ("learned", load_descriptor(models.load("general").descriptor)),
        ("begun with", Descriptor(DescriptorSettings())),
    ):
        objective = Objective(DescriptorSettings(), share=0.5)
        objective.descriptor.load_state_dict(network.state_dict())
        found = []
        with torch.no_grad():
            for temperature in (10.0, 20.0, 40.0):
                objective.log_temperature.fill_(float(np.log(temperature)))
                found.append(float(objective(views, np.random.default_rng(0))))
        losses[name] = min(found)
    assert losses["learned"] < losses["begun with"] - 0.05
