"""Training of the PDD network: the losses are those of their definitions, it learns, and it goes on where it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import rotation

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.resampling import resample
from itk_pdd.io.volume import Volume
from itk_pdd.models.pddmodel import PddModel
from itk_pdd.network.card import PddCard
from itk_pdd.network.pddnet import PddNetwork
from itk_pdd.network.preparation import Intensity
from itk_pdd.network.settings import PddSettings, Warp
from itk_pdd.solver.settings import MAX_WORKING_VOXELS
from itk_pdd.training.augmentation import IGNORED, Augmentation, soft_targets
from itk_pdd.training.cases import of_split
from itk_pdd.training.dataset import Sample, Survey, load_samples
from itk_pdd.training.losses import label_weights, squared_label_loss
from itk_pdd.training.objective import LOSSES, Objective, ObjectiveSettings
from itk_pdd.training.pairs import ScanPairs, SyntheticPairs, TrainingPair
from itk_pdd.training.pdd_recipe import PddRecipe, train_pdd
from itk_pdd.training.pdd_trainer import PddTrainer, registered_dice
from itk_pdd.training.pulling import compose, pull, pull_labels, remaining
from itk_pdd.training.recipe import default_spacing
from itk_pdd.training.schedule import TrainingSettings
from itk_pdd.training.segmentation import dice_per_class
from training.conftest import GRID, balls, write_scan

SETTINGS = TrainingSettings(iterations=6, batch=1, rate=1e-2, decay=0.0, average=0.5, validate_every=3)
SHAPE = (16, 20, 24)
NAMES, VALUES = ("background", "left", "right"), (0, 1, 2)
NETWORK = PddSettings(channels=4, warps=(Warp(0.5, 5, 6),), stride=2, extent=SHAPE)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def pairs(scans):
    options = {"spacing": 2.0, "intensity": Intensity("percentiles"), "values": (0, 1, 2)}
    samples = [load_samples(of_split(scans, split), **options) for split in ("train", "validation")]
    return ScanPairs(
        *samples, NAMES, VALUES, SHAPE, augmentation=Augmentation(rotation=5, scale=0.05, shear=0, elastic=0)
    )


def trainer(folder, pairs, settings=SETTINGS, network=NETWORK, **objective):
    folder.mkdir(exist_ok=True)
    return PddTrainer(
        folder, network, pairs, objective=ObjectiveSettings(**objective), settings=settings, source={"scans": ["a"]}
    )


def weights(module):
    return torch.cat([p.flatten() for p in module.parameters()])


def test_the_weights_of_the_paper():
    counts = torch.tensor([900, 0, 100, 25])
    found = label_weights(counts)
    assert found[0] == pytest.approx(0.15) and found[1] == 0
    assert float(found[3] / found[2]) == pytest.approx(2.0)
    # 1 / sqrt(n), divided by the mean over the classes that occur (background included, before it gets its own).
    raw = torch.tensor([1 / 30, 1 / 10, 1 / 5])
    assert float(found[2]) == pytest.approx(float(0.1 / raw.mean()))


def test_the_label_loss_is_a_weighted_mean_of_squares():
    generator = torch.Generator().manual_seed(0)
    found, wanted = (torch.softmax(torch.randn(3, 4, 5, 6, generator=generator), 0) for _ in range(2))
    weight = torch.tensor([0.15, 1.0, 2.0])
    expected = ((found - wanted) ** 2 * weight[:, None, None, None]).mean()
    torch.testing.assert_close(squared_label_loss(found, wanted, weight), expected)
    unknown, other = wanted.clone(), found.clone()
    unknown[:, :2], other[:, :2] = 0, 7.0
    torch.testing.assert_close(
        squared_label_loss(other, unknown, weight), squared_label_loss(found[:, 2:], wanted[:, 2:], weight)
    )


def test_fields_are_composed_and_taken_apart():
    voxels = [torch.arange(n, dtype=torch.float64) for n in (14, 12, 16)]
    z, y, x = torch.meshgrid(*voxels, indexing="ij")
    first = torch.stack([torch.sin(y / 5), 0.8 * torch.cos(x / 6), 0.5 * torch.sin(z / 4)], dim=-1)
    second = torch.stack([0.6 * torch.cos(z / 5), torch.sin(x / 5), 0.7 * torch.sin(y / 6)], dim=-1)
    whole = compose(first, second, voxels)
    # What is left of both after the first is the second, away from the border.
    left = remaining(whole, first, voxels)
    assert (left - second)[3:-3, 3:-3, 3:-3].abs().max() < 0.02
    # Warped twice is warped by the composition.
    image = torch.stack([torch.sin(x / 3) + torch.cos(y / 4) * torch.sin(z / 5)])
    twice = pull(pull(image, first, voxels), second, voxels)
    assert (twice - pull(image, whole, voxels))[:, 3:-3, 3:-3, 3:-3].abs().max() < 0.05
    labels = (x > 8).to(torch.uint8)
    shift = torch.tensor([2.0, 0, 0]).double().expand(14, 12, 16, 3)
    assert torch.equal(pull_labels(labels, shift, voxels), (x > 6).to(torch.uint8))


def test_shares_of_blocks():
    labels = torch.randint(0, 3, (1, 8, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    labels[0, :2, :2, :4] = IGNORED
    found = soft_targets(labels, 3, fold=4)
    for value in range(3):
        block = (labels[0, :4, :4, :4] == value).float().mean()
        assert float(found[0, value, 0, 0, 0]) == pytest.approx(float(block))
    assert float(found[0, :, 0, 0, 0].sum()) == pytest.approx(1 - 16 / 64)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_is_least_where_the_images_meet(pairs, loss):
    """With features that know the answer the loss is small; with the moving image displaced it is not."""
    made = SyntheticPairs(SHAPE).draw(np.random.default_rng(2))
    network = replace(NETWORK, features="mind-ssc", warps=(Warp(0.5, 7, 6),))
    objective = Objective(network, ObjectiveSettings(loss=loss, diffusion=0.0), len(made.weights))
    objective.network.searches[0].regularisation.log_temperature.data.fill_(np.log(3000.0))
    zero = torch.zeros_like(made.truth)
    met = replace(made, moving=made.fixed, moving_labels=made.fixed_labels, truth=zero)
    wrong = replace(
        met, moving_labels=met.moving_labels.roll(6, 2), truth=zero + 3,
        moving=met.moving.flip(3) if loss == "self-similarity" else met.moving,
    )  # fmt: skip
    with torch.no_grad():
        values = [float(objective([pair], naming=False, rng=np.random.default_rng(0))) for pair in (met, wrong)]
    assert values[0] < 0.5 * values[1]


def test_a_shift_of_image_and_labels_is_no_loss():
    made = SyntheticPairs((24, 24, 24)).draw(np.random.default_rng(2))
    network = replace(NETWORK, features="mind-ssc", warps=(Warp(0.5, 7, 6),), extent=(24, 24, 24))
    for loss in ("non-local", "warped", "truth"):
        objective = Objective(network, ObjectiveSettings(loss=loss, diffusion=0.0), len(made.weights))
        objective.network.searches[0].regularisation.log_temperature.data.fill_(np.log(3000.0))
        moved = replace(
            made, moving=made.fixed.roll(4, 3), moving_labels=made.fixed_labels.roll(4, 2),
            truth=torch.tensor([4.0, 0.0, 0.0]).expand(24, 24, 24, 3),
        )  # fmt: skip
        still = replace(moved, moving_labels=made.fixed_labels, truth=0 * moved.truth)
        with torch.no_grad():
            found, missed = (float(objective([p], naming=False, rng=np.random.default_rng(0))) for p in (moved, still))
        assert found < 0.7 * missed, loss


def scattered_balls(seed: int, shape: tuple[int, int, int]) -> Sample:
    """Two balls, farther from where they are in another scan than they overlap."""
    rng = np.random.default_rng(seed)
    points = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    labels = np.zeros(shape, np.uint8)
    for value, x in ((1, 11), (2, 29)):
        centre = np.array([11.5, 13.5, x]) + rng.uniform(-4, 4, 3)
        labels[np.linalg.norm(points - centre, axis=-1) < 6] = value
    image = (labels == 1) + 0.4 * (labels == 2) - 0.6 + 0.1 * rng.normal(size=shape)
    return Sample(str(seed), torch.from_numpy(image).half(), torch.from_numpy(labels), torch.eye(4).double())


@pytest.mark.parametrize(("features", "loss", "reached"), [
    ("obelisk", "non-local", 0.82), ("obelisk", "warped", 0.8), ("mind-ssc", "non-local", 0.78),
])  # fmt: skip
def test_it_learns_to_align_the_balls(tmp_path, features, loss, reached):
    shape = (24, 28, 40)
    samples = [scattered_balls(seed, shape) for seed in range(8)]
    weak = Augmentation(rotation=5, scale=0.05, shear=0, elastic=0)
    pairs = ScanPairs(samples[:5], samples[5:], NAMES, VALUES, shape, augmentation=weak, pairs=4)
    network = replace(NETWORK, features=features, extent=shape, warps=(Warp(0.5, 7, 10),))
    # Two numbers have farther to go than 120,000 weights.
    rate = 0.1 if features == "mind-ssc" else 0.01
    settings = replace(SETTINGS, iterations=20, validate_every=10, average=0.8, rate=rate)
    loop = trainer(tmp_path, pairs, settings, network, loss=loss, diffusion=0.5)
    before = float(np.nanmean(registered_dice(loop.average.network, pairs.validation(), 3, torch.device("cpu"))))
    assert loop.run() is loop.average
    assert loop.rows[-1]["dice"] > max(before + 0.08, reached)
    assert loop.rows[-1]["loss"] < 0.9 * loop.rows[0]["loss"]
    unmoved = [dice_per_class(p.moving_labels, p.fixed_labels, 3).mean() for p in pairs.validation()]
    assert np.mean(unmoved) < 0.5


def test_features_learn_to_name_classes_first(tmp_path, pairs):
    settings = replace(SETTINGS, iterations=12, validate_every=6)
    loop = trainer(tmp_path, pairs, settings, pretrain=12)
    loop.run()
    assert loop.rows[1]["loss"] < 0.8 * loop.rows[0]["loss"]
    # The temperature has not been asked for yet; the head is no part of the network.
    assert loop.network.network.searches[0].regularisation.temperature.item() == pytest.approx(16)
    assert not any("head" in name for name in loop.network.network.state_dict())


@pytest.mark.parametrize("warps", [1, 2])
def test_interrupted_and_resumed_is_the_same_as_in_one_go(tmp_path, pairs, warps):
    class Interruption(Exception):
        pass

    def stop(iteration, loss):
        if iteration == 5:
            raise Interruption

    network = replace(NETWORK, warps=(Warp(0.5, 5, 4), Warp(0.2, 3, 6))[:warps])
    options = {"network": network, "pretrain": 2, "auxiliary": 0.1, "block": 3}
    whole = trainer(tmp_path / "whole", pairs, **options)
    whole.run()
    with pytest.raises(Interruption):
        trainer(tmp_path / "parts", pairs, **options).run(on_step=stop)
    resumed = trainer(tmp_path / "parts", pairs, **options)
    resumed.run()
    assert resumed.iteration == 6
    assert torch.equal(weights(whole.network), weights(resumed.network))
    assert torch.equal(weights(whole.average), weights(resumed.average))
    assert [row["dice"] for row in whole.rows] == [row["dice"] for row in resumed.rows]
    with pytest.raises(RegistrationError, match=r"other objective \(loss is warped, was non-local\)"):
        trainer(tmp_path / "parts", pairs, **{**options, "loss": "warped"}).run()


def test_the_averaged_network_has_the_statistics_of_its_norms(tmp_path, pairs):
    network = replace(NETWORK, norm="batch")
    last, mean = (trainer(tmp_path, pairs, replace(SETTINGS, average=average), network) for average in (0.0, 0.9))
    for loop in (last, mean):
        before = {name: value.clone() for name, value in loop.network.state_dict().items()}
        loop.step()
        # With no memory the average is the network; else it is as far on the way as for the weights.
        now = loop.network.state_dict()
        for name, value in loop.average.state_dict().items():
            if value.is_floating_point():
                share = 0.1 if loop is mean else 0.0
                torch.testing.assert_close(value, share * before[name] + (1 - share) * now[name])
        assert not torch.equal(
            now["network.obelisk.batch1.running_mean"], before["network.obelisk.batch1.running_mean"]
        )


@pytest.mark.parametrize("geometry", ["shifted", "turned"])
def test_pairs_lie_as_a_registration_finds_them(tmp_path, geometry):
    """Training and validation show the moving scan where the fixed one lies, whatever their centres."""
    turned = rotation(4, -6, 8) if geometry == "turned" else np.eye(3)
    grids = [GRID, Grid.create((28, 22, 14), (2.0, 2.0, 2.0), (-3.5, 6.4, -4.6), turned)]
    volumes = [balls(grid, seed) for seed, grid in enumerate(grids)]
    listed = [write_scan(tmp_path, str(n), *volumes[n]) for n in range(2)]
    intensity = Intensity("range", 0, 100)
    samples = load_samples(listed, spacing=2.0, intensity=intensity, values=VALUES)
    still = Augmentation(rotation=0, scale=0, shear=0, elastic=0, intensity=0)
    pairs = ScanPairs(samples, samples, NAMES, VALUES, GRID.shape, augmentation=still, pairs=2)
    drawn = [pairs.draw(np.random.default_rng(seed)) for seed in range(8)]
    for fixed, moving, pair in ((0, 1, pairs.validation()[0]), (1, 0, pairs.validation()[1])):
        image, labels = volumes[moving]
        # As in PddModel.displacements, on the fixed grid, cut or continued to the shape of the pairs.
        there = Volume(intensity.normalise(image.array), image.grid)
        margin = [(m - n) // 2 for n, m in zip(grids[fixed].size, GRID.size, strict=True)]
        grid = grids[fixed].padded(margin, margin)
        expected = resample(there, grid).array
        assert np.abs(pair.moving[0].numpy() - expected).max() < 5e-3
        known = pair.moving_labels != IGNORED
        inside = ((at := image.grid.to_index(grid.points())) > -0.5) & (at < np.asarray(image.grid.size) - 0.5)
        assert np.array_equal(known.numpy(), inside.all(-1))
        nearest = resample(labels, grid, interpolation="nearest").array
        assert (pair.moving_labels.numpy() == nearest)[known.numpy()].mean() > 0.999
        assert any(torch.equal(pair.moving, other.moving) for other in drawn)


def test_scans_that_do_not_overlap_are_named():
    near, far = scattered_balls(0, SHAPE), scattered_balls(1, SHAPE)
    far = replace(far, affine=torch.tensor([[1.0, 0, 0, 30], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]).double())
    with pytest.raises(RegistrationError, match="data: 0 and 1 do not overlap in physical space"):
        ScanPairs([near, far], [], NAMES, VALUES, SHAPE, augmentation=Augmentation())


def test_hand_made_features_learn_their_temperature(tmp_path, pairs):
    network = replace(NETWORK, features="mind-ssc")
    loop = trainer(tmp_path, pairs, replace(SETTINGS, iterations=3), network=network)
    before = weights(loop.network).clone()
    loop.run()
    assert len(before) == 2 and (weights(loop.network) != before).all()


@pytest.mark.parametrize("options", [{"pretrain": 3}, {"auxiliary": 0.1}], ids=str)
def test_hand_made_features_cannot_be_taught_to_name_classes(tmp_path, pairs, options):
    """Steps meant to name classes would reward rough fields instead: their diffusion counts less than none."""
    network = replace(NETWORK, features="mind-ssc")
    with pytest.raises(RegistrationError, match="mind-ssc features are not learned and cannot be taught"):
        trainer(tmp_path, pairs, network=network, **options)


def test_synthetic_pairs_are_always_the_same_and_true():
    source = SyntheticPairs((24, 28, 32), pairs=2)
    one, again = (source.draw(np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(one.fixed, again.fixed) and torch.equal(one.truth, again.truth)
    assert not torch.equal(one.fixed, source.draw(np.random.default_rng(6)).fixed)
    voxels = [torch.arange(n, dtype=torch.float64) for n in source.shape]
    found = pull_labels(one.moving_labels, one.truth, voxels)
    assert (
        float((found == one.fixed_labels).float().mean())
        > 0.85
        > float((one.moving_labels == one.fixed_labels).float().mean())
    )
    assert [torch.equal(a.fixed, b.fixed) for a, b in zip(source.validation(), source.validation(), strict=True)] == [
        True, True
    ]  # fmt: skip


def test_synthetic_pairs_are_normalised_as_asked():
    """What the card says of intensities is what the network saw."""
    one, other = (
        SyntheticPairs((24, 28, 32), intensity=Intensity("percentiles", low, 100 - low)).draw(np.random.default_rng(5))
        for low in (0.0, 20.0)
    )
    inside = other.fixed.abs() < 1
    assert 0.55 < float(inside.float().mean()) < 0.65  # 60 % of the voxels lie between the percentiles
    # The same image but for a factor and an offset, where neither is clipped.
    fit = np.polyfit(one.fixed[inside], other.fixed[inside], 1)
    assert np.abs(np.polyval(fit, one.fixed[inside]) - other.fixed[inside].numpy()).max() < 1e-4
    with pytest.raises(RegistrationError, match="have no units: give percentiles"):
        SyntheticPairs(SHAPE, intensity=Intensity("range", -125, 275))


@pytest.mark.parametrize("option", [
    {"spacing": 2.0}, {"class_names": {1: "liver"}}, {"augmentation": Augmentation()}, {"cache": "cache"},
], ids=str)  # fmt: skip
def test_a_recipe_of_synthetic_pairs_says_nothing_about_scans(tmp_path, option):
    with pytest.raises(RegistrationError, match=f"{next(iter(option))} has no meaning with synthetic pairs"):
        train_pdd([], tmp_path, PddRecipe("general", synthetic=(24, 24, 24), **option))


@pytest.mark.parametrize("size", [(180, 200, 220), (208, 208, 208), (220, 200, 230), (201, 200, 200)], ids=str)
def test_a_scan_is_learned_from_at_the_spacing_it_is_registered_at(size):
    """Scans around the largest working grid: what training chooses, the registration does not make coarser."""
    grid = Grid.create(size, 1.0)
    spacing = default_spacing(Survey({0: 1.0, 1: 1.0}, 1.0, tuple(grid.extent)), MAX_WORKING_VOXELS)
    card = PddCard("model", "", NETWORK, Intensity(), spacing)
    assert PddModel(PddNetwork(NETWORK), card).working_grid(grid).spacing == pytest.approx((spacing,) * 3)
    assert spacing == (1.0 if grid.voxels <= 8_000_000 else 1.5)


def test_what_cannot_be_trained_is_told(tmp_path, pairs):
    with pytest.raises(RegistrationError, match="bfloat16 is asked for"):
        trainer(tmp_path, pairs, replace(SETTINGS, bfloat16=True))
    with pytest.raises(RegistrationError, match="expected two or more to make pairs of"):
        ScanPairs(pairs.train[:1], [], NAMES, VALUES, SHAPE, augmentation=Augmentation())
    with pytest.raises(RegistrationError, match="loss is 'dice', expected one of"):
        ObjectiveSettings(loss="dice")
    objective = Objective(NETWORK, ObjectiveSettings(loss="truth"), 3)
    pair = pairs.draw(np.random.default_rng(0))
    assert isinstance(pair, TrainingPair)
    with pytest.raises(RegistrationError, match="true displacements of scans are not known"):
        objective([pair], naming=False, rng=np.random.default_rng(0))
