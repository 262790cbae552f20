"""Organ probabilities as features of a PDD network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from itk_pdd.cli.train import main as train

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.mapping import AffineMapping
from itk_pdd.io.files import write_image
from itk_pdd.io.volume import Volume
from itk_pdd.models import load
from itk_pdd.models.pddmodel import PddModel
from itk_pdd.network.card import CombinedCard, LabelClass, ModelCard, PddCard
from itk_pdd.network.export import write_model
from itk_pdd.network.organs import OrganFeatures
from itk_pdd.network.pddnet import PddNetwork
from itk_pdd.network.preparation import Intensity
from itk_pdd.network.settings import InstanceOptimisation, PddSettings, UNetSettings, Warp
from itk_pdd.registration import register_volumes
from itk_pdd.uncertainty.calibration import DESCENT, PDD, calibration_of_package

pytestmark = pytest.mark.usefixtures("one_thread")

UNET = UNetSettings(classes=3, widths=(4, 8), fold=2)
SETTINGS = PddSettings(
    features="organs", organs=UNET, stride=2, warps=(Warp(0.4, 9, 10), Warp(0.15, 5, 12)), extent=(28, 30, 32)
)
CLASSES = (LabelClass("background", 0, 200_000.0), LabelClass("bright", 1, 3_000.0), LabelClass("dark", 2, 3_000.0))
GRID = Grid.create((32, 30, 28), (2.0, 2.0, 2.0), (-10.0, 40.0, 7.5))


@pytest.fixture
def network() -> PddNetwork:
    """A network that takes what is bright for one organ and what is dark for another, without having learned it."""
    made = PddNetwork(SETTINGS).eval().requires_grad_(False)
    unet = made.organs.unet
    for weights in unet.parameters():
        weights.zero_()
    # The mean of a block, and its negative, pass through the finest resolution alone.
    unet.stem[0].weight[0, :, 1, 1, 1], unet.stem[0].weight[1, :, 1, 1, 1] = 1 / 8, -1 / 8
    unet.decode[0][0].weight[0, 0, 1, 1, 1] = unet.decode[0][0].weight[1, 1, 1, 1, 1] = 1.0
    for norm in (unet.stem[1], unet.decode[0][1]):
        norm.weight.fill_(1.0)
    unet.heads[0].weight[1, 0] = unet.heads[0].weight[2, 1] = 12.0
    unet.heads[0].bias[0] = 4.0
    return made


def ball(centre: tuple[float, float, float]) -> Volume:
    """A bright and a dark ball, side by side along x, around a place in millimetres from the centre of the grid."""
    points = GRID.points() - GRID.centre - np.asarray(centre)
    array = np.zeros(GRID.shape, np.float32)
    for value, x in ((1.0, -9.0), (-1.0, 9.0)):
        array[np.linalg.norm(points - [x, 0, 0], axis=-1) < 9] = value
    return Volume(array, GRID)


def test_features_are_the_probabilities(network: PddNetwork) -> None:
    image = torch.from_numpy(ball((0.0, 0.0, 0.0)).array)[None]
    found = network.features(image)
    assert found.shape == (2, 14, 15, 16)
    bright, dark = found[:, 7, 7, 5], found[:, 7, 7, 10]
    assert bright[0] > 0.9 > 0.1 > bright[1]
    assert dark[1] > 0.9 > 0.1 > dark[0]
    assert float(found[:, 0, 0, 0].max()) < 0.05


def test_at_and_at_places_agree(network: PddNetwork) -> None:
    organs = network.organs
    organs.factors.data.copy_(torch.tensor([0.5, 2.0]))
    maps = torch.rand(2, 7, 8, 9, generator=torch.Generator().manual_seed(0))
    along = [torch.tensor([-3.0, 0.2, 5.7]), torch.tensor([1.0, 14.9]), torch.tensor([0.0, 3.3, 8.0, 30.0])]
    places = torch.stack(torch.meshgrid(*along, indexing="ij"), dim=-1).flip(-1)
    # The centre of the first block of 2 voxels lies between the voxels 0 and 1.
    torch.testing.assert_close(organs.at_places(maps, (places - 0.5) / 2), organs.at(maps, along), atol=1e-5, rtol=1e-5)


def test_registration_finds_a_shift(network: PddNetwork, tmp_path) -> None:
    card = PddCard("organs", "", SETTINGS, Intensity("range", -1, 1), 2.0, classes=CLASSES)
    PddModel(network, card).write(tmp_path / "model")
    model = load(tmp_path / "model")
    assert model.network.settings == SETTINGS
    assert model.network.organs.unet.settings == UNET
    shift = np.array([4.0, -6.0, 2.0])
    fixed, moving = ball((0.0, 0.0, 0.0)), ball(tuple(shift))
    inside = np.abs(fixed.array) > 0
    field = register_volumes(fixed, moving, model=model).field
    assert np.linalg.norm(field.vectors[inside].mean(axis=0) - shift) < 1.0
    # The descent moves little where the organs have met, and comes nearer.
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "card.json").write_text(CombinedCard("both", "", "model").to_json())
    both = register_volumes(fixed, moving, model=tmp_path / "both")
    assert both.model.name == "both"
    assert np.linalg.norm(both.field.vectors[inside].mean(axis=0) - shift) < 0.6
    # The same with most of it known beforehand, through which the organs of the moving image are seen.
    initial = AffineMapping.translation(shift * 0.8)
    field = register_volumes(fixed, moving, model=model, initial=initial).field
    assert np.linalg.norm(field.vectors[inside].mean(axis=0) - shift) < 1.0


def test_both_models_tell_their_uncertainty(network: PddNetwork, tmp_path) -> None:
    own = replace(calibration_of_package(DESCENT), floor=3.0)
    card = PddCard("organs", "", SETTINGS, Intensity("range", -1, 1), 2.0, classes=CLASSES)
    PddModel(network, card).write(tmp_path / "model")
    (tmp_path / "both").mkdir()
    text = CombinedCard("both", "", "model", uncertainty=own.to_dict()).to_json()
    (tmp_path / "both" / "card.json").write_text(text)
    fixed, moving = ball((0.0, 0.0, 0.0)), ball((4.0, -6.0, 2.0))
    shown, empty = np.abs(fixed.array) > 0, np.zeros(GRID.shape, bool)
    empty[:4, :4, :4] = True
    for name in ("model", "both"):
        plain, told = (register_volumes(fixed, moving, model=tmp_path / name, uncertainty=u) for u in (False, True))
        assert np.array_equal(plain.field.vectors, told.field.vectors)
        found = told.uncertainty
        deviation = found.standard_deviation().array
        # Where there is no organ nothing holds the place.
        assert deviation[empty].mean() > deviation[shown].mean()
        assert {"width0", "width1", "smoothing", "decorrelation"} <= set(found.evidence.features)
        assert len(found.evidence.stages) == 2
    assert found.calibration == own
    # The descent moves what the searches have found, and counts.
    assert told.uncertainty.evidence.features["width0"].mean() > 0


def test_factors_are_learned_and_the_segmentation_is_not(network: PddNetwork) -> None:
    image = torch.from_numpy(ball((0.0, 0.0, 0.0)).array)[None]
    organs = OrganFeatures(UNET)
    organs.at(organs.maps(image), network.lattice((28, 30, 32)).features).sum().backward()
    assert organs.factors.grad is not None
    assert all(weights.grad is None for weights in organs.unet.parameters())


@pytest.mark.parametrize("wrong", [{"features": "organs"}, {"organs": UNET}])
def test_settings_need_both(wrong) -> None:
    with pytest.raises(RegistrationError, match="segmentation network"):
        PddSettings(**wrong)


def segmentation(network: PddNetwork, folder: Path) -> Path:
    """The segmentation network alone, as pdd-train segmentation writes it."""
    card = ModelCard("organs", "", UNET, 4.0, Intensity("range", -1, 1), CLASSES, training={"scans": ["a"]})
    write_model(folder, network.organs.unet, card)
    return folder


def test_command_makes_both_models(network: PddNetwork, tmp_path) -> None:
    arguments = ["organs", str(segmentation(network, tmp_path / "organs")), "-o", str(tmp_path / "pdd")]
    arguments += ["--warp", "0.4", "9", "10", "--stride", "2", "--extent", "32", "30", "28", "--optimisation", "7"]
    image, labels = ball((0.0, 0.0, 0.0)), ball((0.0, 0.0, 0.0)).array.astype(np.uint8)
    write_image(image.to_simpleitk(), tmp_path / "image.nii.gz")
    write_image(Volume(labels, GRID).to_simpleitk(), tmp_path / "labels.nii.gz")
    (tmp_path / "scans.csv").write_text("image,labels\nimage.nii.gz,labels.nii.gz\n")
    arguments += ["--scans", str(tmp_path / "scans.csv")]
    result = CliRunner().invoke(train, [*arguments, "--descent", str(tmp_path / "pdd-descent")])
    assert result.exit_code == 0, result.output
    model = load(tmp_path / "pdd")
    settings = model.network.settings
    assert settings.warps == (Warp(0.4, 9, 10),)
    assert settings.extent == (28.0, 30.0, 32.0)
    assert settings.optimisation == InstanceOptimisation(7, 3.0)
    assert model.card.training["scans"] == ["a"]
    assert 0.8 < model.card.purpose["certainty"] < 1
    assert model.card.uncertainty == calibration_of_package(PDD).to_dict()
    torch.testing.assert_close(model.network.organs.unet.state_dict(), network.organs.unet.state_dict())
    # Both organs are of one size, so they count alike.
    torch.testing.assert_close(model.network.organs.factors.data, torch.ones(2))
    both = load(tmp_path / "pdd-descent")
    assert both.name == "pdd-descent"
    assert both.pdd.card == model.card
    assert both.uncertainty == calibration_of_package(DESCENT).to_dict()
    # It refuses what it does not recognise.
    network.organs.unet.heads[0].weight.mul_(0.2)
    unsure = PddModel(network, replace(model.card, spacing=2.0))
    with pytest.raises(RegistrationError, match=r"is not recognised: the model is .* certain where it sees bright"):
        register_volumes(image, image, model=unsure)


def test_command_wants_neighbours(network: PddNetwork, tmp_path) -> None:
    arguments = ["organs", str(segmentation(network, tmp_path / "organs")), "-o", str(tmp_path / "pdd")]
    result = CliRunner().invoke(train, [*arguments, "--descent", str(tmp_path / "other" / "model")])
    assert result.exit_code == 1
    assert "expected a folder beside" in result.output
    assert not (tmp_path / "pdd").exists()


@pytest.mark.parametrize("search", ["", ".", "..", "../model", "a/b", "c:model", 3])
def test_combined_card_names_a_neighbour_alone(search) -> None:
    with pytest.raises(RegistrationError, match="beside this one"):
        CombinedCard("both", "", search)


def test_combined_model_needs_organs(tmp_path) -> None:
    settings = PddSettings(features="mind-ssc", warps=(Warp(0.4, 5, 4),))
    PddModel(PddNetwork(settings), PddCard("plain", "", settings, Intensity())).write(tmp_path / "plain")
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "card.json").write_text(CombinedCard("both", "", "plain").to_json())
    with pytest.raises(RegistrationError, match="does not compare them"):
        load(tmp_path / "both")


def test_unknown_images_are_refused(network: PddNetwork) -> None:
    card = PddCard("organs", "", SETTINGS, Intensity("range", -1, 1), 2.0, classes=CLASSES)
    empty = Volume(np.full(GRID.shape, -0.5, np.float32) * (np.indices(GRID.shape)[0] % 2), GRID)
    network.organs.unet.heads[0].bias[0] = 40.0
    with pytest.raises(RegistrationError, match="not made for these images: fixed"):
        register_volumes(empty, empty, model=PddModel(network, card))
