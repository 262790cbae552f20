"""Training on blocks of a fixed scan against kept features of the others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from itk_pdd.errors import RegistrationError
from itk_pdd.network.pddnet import PddNetwork
from itk_pdd.network.settings import PddSettings, Warp
from itk_pdd.training.augmentation import Augmentation
from itk_pdd.training.dataset import Sample
from itk_pdd.training.kept import KeptScans, view_of
from itk_pdd.training.objective import ObjectiveSettings
from itk_pdd.training.pairs import ScanPairs, SyntheticPairs
from itk_pdd.training.pdd_trainer import PddTrainer, registered_dice
from itk_pdd.training.schedule import TrainingSettings

SHAPE = (36, 42, 48)
NETWORK = PddSettings(channels=4, warps=(Warp(0.4, 7, 8),), stride=3, extent=SHAPE, norm="running", outside="nearest")
pytestmark = pytest.mark.usefixtures("one_thread")
STILL = Augmentation(rotation=0, scale=0, shear=0, elastic=0, intensity=0)
NAMES, VALUES = ["background", "one", "two"], [0, 1, 2]


def scan(seed: int, affine: torch.Tensor | None = None) -> Sample:
    """Two balls of different grey, each somewhere else in every scan."""
    rng = np.random.default_rng(seed)
    points = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), axis=-1)
    labels = np.zeros(SHAPE, np.uint8)
    for value, x in ((1, 13), (2, 35)):
        centre = np.array([17.5, 20.5, x]) + rng.uniform(-6, 6, 3)
        labels[np.linalg.norm(points - centre, axis=-1) < 8] = value
    image = (labels == 1) + 0.4 * (labels == 2) - 0.6 + 0.1 * rng.normal(size=SHAPE)
    return Sample(
        str(seed), torch.from_numpy(image).half(), torch.from_numpy(labels),
        torch.eye(4).double() if affine is None else affine,
    )  # fmt: skip


@pytest.fixture(scope="module")
def pairs() -> ScanPairs:
    samples = [scan(seed) for seed in range(8)]
    return ScanPairs(samples[:5], samples[5:], NAMES, VALUES, SHAPE, augmentation=STILL, pairs=4)


def trainer(
    folder, pairs, *, network=NETWORK, iterations=6, keep_moving=2, block=4, validate_every=3, **objective
) -> PddTrainer:
    folder.mkdir(exist_ok=True)
    settings = TrainingSettings(
        iterations=iterations, batch=1, rate=0.01, decay=0.0, average=0.8, validate_every=validate_every
    )
    goal = ObjectiveSettings(block=block, keep_moving=keep_moving, **objective)
    return PddTrainer(folder, network, pairs, objective=goal, settings=settings, source={})


def test_a_still_view_has_the_features_and_labels_of_the_whole_scan():
    shape = (76, 72, 81)
    rng = np.random.default_rng(0)
    image, labels = rng.normal(size=shape), rng.integers(0, 3, shape)
    sample = Sample("noise", torch.from_numpy(image).half(), torch.from_numpy(labels).byte(), torch.eye(4).double())
    settings = replace(NETWORK, extent=shape)
    network = PddNetwork(settings, generator=torch.Generator().manual_seed(0)).eval()
    layout = network.lattice(shape)
    window = (slice(10, 14), slice(9, 14), slice(8, 18))
    view = view_of(
        sample, layout.features, window, 3, stride=3, margins=network.margins(layout), augmentation=STILL, rng=rng
    )
    with torch.no_grad():
        whole = network.features(sample.image.float()[None])[(slice(None), *window)]
        part = network.features_at(view.image, view.positions, view.window)
    torch.testing.assert_close(part, whole, atol=1e-4, rtol=1e-4)
    kept = KeptScans([sample, sample], 3, network, augmentation=STILL, counts=torch.ones(3), described=False)
    torch.testing.assert_close(view.shares, kept.values[0][(slice(None), *window)])
    # Shares are those of blocks of three voxels around the features.
    block = labels[
        tuple(slice(int(f[w.start]) - 1, int(f[w.start]) + 2) for f, w in zip(layout.features, window, strict=True))
    ]
    assert float(view.shares[1, 0, 0, 0]) == pytest.approx((block == 1).mean(), abs=1e-6)


def test_a_step_shows_what_the_block_reaches():
    samples = [scan(seed) for seed in range(3)]
    network = PddNetwork(NETWORK).eval()
    kept = KeptScans(samples, 3, network, augmentation=STILL, counts=torch.ones(3), described=False)
    kept.renew(network)
    step = kept.draw(np.random.default_rng(1), network, block=4, images=3)
    fixed, moving = step.windows
    assert [b.stop - b.start for b in step.block] == [4, 4, 4]
    assert step.fixed.shares.shape == (3, *(w.stop - w.start for w in fixed))
    assert len(step.moving) == len(step.values) == 2
    assert all(m.shape == (4, *(w.stop - w.start for w in moving)) for m in step.moving)
    with torch.no_grad():
        part = network.search(
            network.features_at(step.fixed.image, step.fixed.positions, step.fixed.window), step.moving[0],
            kept.layout, block=step.block, windows=step.windows,
        )  # fmt: skip
    assert part.shape == (4, 4, 4)


def test_it_learns_to_align_the_balls(tmp_path, pairs):
    loop = trainer(tmp_path, pairs, iterations=16, validate_every=16, keep_moving=5, block=8, diffusion=0.2)
    before = float(np.nanmean(registered_dice(loop.average.network, pairs.validation(), 3, torch.device("cpu"))))
    loop.run()
    assert loop.rows[-1]["dice"] > before + 0.08


@pytest.mark.parametrize("loss", ["warped", "self-similarity"])
@pytest.mark.parametrize("features", ["obelisk", "mind-ssc"])
def test_the_other_losses_and_features_learn_something(tmp_path, pairs, loss, features):
    loop = trainer(tmp_path, pairs, network=replace(NETWORK, features=features), iterations=2, loss=loss)
    weights = torch.cat([p.flatten() for p in loop.network.parameters()]).clone()
    loop.run()
    assert (torch.cat([p.flatten() for p in loop.network.parameters()]) != weights).float().mean() > 0.9


def test_later_searches_take_the_factors_of_the_first(tmp_path, pairs):
    loop = trainer(tmp_path, pairs, network=replace(NETWORK, warps=(Warp(0.4, 7, 8), Warp(0.2, 3, 10))))
    loop.run()
    first, second = (search.state_dict() for search in loop.average.network.searches)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_interrupted_and_resumed_is_the_same_as_in_one_go(tmp_path, pairs):
    class Interruption(Exception):
        pass

    def stop(iteration, loss):
        if iteration == 5:
            raise Interruption

    # Interrupted after the checkpoint of iteration 3, between two renewals of the kept features.
    options = {"pretrain": 1, "auxiliary": 0.1}
    whole = trainer(tmp_path / "whole", pairs, **options)
    whole.run()
    with pytest.raises(Interruption):
        trainer(tmp_path / "parts", pairs, **options).run(on_step=stop)
    resumed = trainer(tmp_path / "parts", pairs, **options)
    resumed.run()
    for name, value in whole.average.state_dict().items():
        assert torch.equal(value, resumed.average.state_dict()[name]), name


def test_scans_on_other_grids_and_what_does_not_fit_are_refused(tmp_path, pairs):
    moved = torch.eye(4).double()
    moved[0, 3] = 5
    samples = [scan(0), scan(1, moved)]
    other = ScanPairs(samples, [], NAMES, VALUES, SHAPE, augmentation=STILL)
    with pytest.raises(RegistrationError, match="0 and 1 lie on different grids"):
        trainer(tmp_path, other)
    with pytest.raises(RegistrationError, match="norm 'running'"):
        trainer(tmp_path, pairs, network=replace(NETWORK, norm="group"))
    with pytest.raises(RegistrationError, match="for scans"):
        trainer(tmp_path, SyntheticPairs(SHAPE))
    with pytest.raises(RegistrationError, match="keep_moving is 5 with block None"):
        ObjectiveSettings(keep_moving=5)
