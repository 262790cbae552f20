"""Semantic networks on images of any geometry, and model folders that are not as they should be."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import GEOMETRIES
from torch import nn

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.volume import Volume
from itk_pdd.network.card import CARD, SCHEMA, WEIGHTS, LabelClass, ModelCard
from itk_pdd.network.export import write_model
from itk_pdd.network.preparation import Intensity
from itk_pdd.network.semantic import SemanticNetwork, predict
from itk_pdd.network.settings import UNetSettings
from itk_pdd.network.unet import UNet

CLASSES = (LabelClass("background", 0, 1e6), LabelClass("left", 1, 500.0))


class Bright(nn.Module):
    """A network of known answer: class 1 where the mean of a block is above 0."""

    def __init__(self, fold):
        super().__init__()
        self.settings = UNetSettings(2, (4, 8, 16), 1, fold)
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, image):
        mean = nn.functional.avg_pool3d(image, self.settings.fold)
        return [torch.cat([-40 * mean, 40 * mean], 1)]


def card(fold=2, spacing=4.0):
    settings = UNetSettings(2, (4, 8, 16), 1, fold)
    return ModelCard("test", "A test.", settings, spacing, Intensity("range", -1.0, 1.0), CLASSES)


@pytest.mark.parametrize("name", ["plain 3-D", "oblique", "left-handed", "flipped and permuted", "anisotropic"])
def test_answers_lie_where_the_image_does(name):
    """An image that grows linearly to the left and up, on any grid: the answer has the same border in space."""
    grid = GEOMETRIES[name]
    towards = np.array([1.0, 0.3, 0.5])
    height = (grid.points() - grid.centre) @ towards
    model = SemanticNetwork(Bright(2), card())
    found, where = model.probabilities(Volume((height / 20).astype(np.float32), grid))
    assert found.shape == (2, *where.shape) and found.dtype == np.float32
    assert np.allclose(found.sum(0), 1, atol=1e-5) and where.spacing == (4.0, 4.0, 4.0)
    assert where.same_space(model.grid(grid))
    # Inside the image, and where the sign is clear.
    height = (where.points() - grid.centre) @ towards
    index = grid.to_index(where.points())
    inside = np.all((index >= 1) & (index <= np.asarray(grid.size) - 2), axis=-1) & (np.abs(height) > 3)
    assert inside.sum() > 50
    assert np.array_equal(found[1][inside] > 0.5, height[inside] > 0)
    # The answer covers the image.
    corners = where.to_index(grid.corners())
    assert (corners >= -0.5 - 1e-6).all() and (corners <= np.asarray(where.size) - 0.5 + 1e-6).all()


def test_tiles_give_what_the_whole_gives():
    image = torch.randn(150, 270, 13, generator=torch.Generator().manual_seed(0))
    network = Bright(1)
    whole, tiled = predict(network, image), predict(network, image, whole=1000)
    assert whole.shape == (2, 150, 270, 13)
    assert float((whole - tiled).abs().max()) < 1e-5


@torch.no_grad()
def test_tiles_of_a_true_network_agree_with_the_whole():
    torch.manual_seed(0)
    network = UNet(UNetSettings(2, (4, 8), 1, 1)).eval()
    image = torch.randn(40, 24, 300)
    whole, tiled = predict(network, image), predict(network, image, whole=1000)
    # A tile ends in zeros where the whole goes on, which is felt close to its ends.
    assert float((whole - tiled).abs().mean()) < 0.02 * float(whole.std())


def test_two_dimensional_images_are_refused():
    flat = Volume(np.zeros((20, 20), np.float32), Grid.create((20, 20), 1.0))
    with pytest.raises(RegistrationError, match="model test works on 3-D images, found one of 2 dimensions"):
        SemanticNetwork(Bright(2), card()).probabilities(flat)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    write_model(tmp_path / "model", UNet(card().network), card())
    return tmp_path / "model"


def test_a_model_folder_is_read_as_it_was_written(folder):
    model = SemanticNetwork.from_folder(folder)
    assert model.card == card()
    image = Volume(
        np.random.default_rng(0).uniform(-1, 1, (16, 16, 16)).astype(np.float32), Grid.create((16,) * 3, 2.0)
    )
    torch.manual_seed(0)
    expected, _ = SemanticNetwork(UNet(card().network), card()).probabilities(image)
    found, _ = model.probabilities(image)
    # Half precision.
    assert np.abs(found - expected).max() < 5e-3


def edited(folder, **changes):
    content = json.loads((folder / CARD).read_text())
    content.update(changes)
    (folder / CARD).write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"schema": SCHEMA + 1}, r"written by a newer version of itk_pdd \(schema 2, this one reads up to 1\): update"),
        ({"schema": None}, "is no model card, it has no number 'schema'"),
        ({"spacing": None}, "is no complete model card"),
        ({"kind": "oracle"}, "kind is 'oracle', expected 'semantic'"),
        ({"spacing": -1.0}, "spacing is -1.0 mm"),
        ({"classes": [{"name": "background", "value": 0, "volume": 1.0}]}, "names 1 classes, but its network has 2"),
        ({"intensity": {"kind": "range", "low": 3, "high": 1}}, "expected low below high"),
        (
            {"network": {"classes": 2, "widths": [4, 8, 12], "blocks": 1, "fold": 2}},
            "has shape .* do not belong|belong",
        ),
    ],
)
def test_cards_that_cannot_be_used(folder, changes, complaint):
    edited(folder, **changes)
    with pytest.raises(RegistrationError, match=complaint):
        SemanticNetwork.from_folder(folder)


def test_files_that_are_missing_or_damaged(folder, tmp_path):
    with pytest.raises(RegistrationError, match=r"is no model folder, it has no card\.json"):
        SemanticNetwork.from_folder(tmp_path)
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])
    with pytest.raises(RegistrationError, match=r"weights\.safetensors is damaged"):
        SemanticNetwork.from_folder(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(RegistrationError, match=r"model: there is no file .*weights\.safetensors"):
        SemanticNetwork.from_folder(folder)
    (folder / CARD).write_text("{")
    with pytest.raises(RegistrationError, match="cannot be read"):
        SemanticNetwork.from_folder(folder)
