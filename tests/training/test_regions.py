"""A part of two images, computed alone, is what it is in the whole; images that pairs share are computed once."""

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
from itk_pdd.training.objective import Objective, ObjectiveSettings
from itk_pdd.training.pairs import ScanPairs, SyntheticPairs, on_device
from itk_pdd.training.pdd_trainer import PddTrainer
from itk_pdd.training.pulling import searched
from itk_pdd.training.regions import random_block, searched_window, windows_of
from itk_pdd.training.schedule import TrainingSettings

SIZE = (34, 40, 46)
NETWORK = PddSettings(channels=4, warps=(Warp(0.3, 5, 8), Warp(0.15, 3, 9)), stride=2, extent=SIZE, norm="running")
pytestmark = pytest.mark.usefixtures("one_thread")


def learning_network() -> PddNetwork:
    """A network whose running statistics have seen an image."""
    network = PddNetwork(NETWORK, generator=torch.Generator().manual_seed(1)).train()
    network.features(image(0))
    network.obelisk.update_statistics()
    return network


def image(seed: int) -> torch.Tensor:
    return torch.randn(1, *SIZE, generator=torch.Generator().manual_seed(seed))


def gradients(network: PddNetwork) -> torch.Tensor:
    found = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
    network.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("begin", [(0, 0, 0), (5, 3, 7), (12, 15, 17)], ids=str)
def test_features_of_a_window_are_those_of_the_whole_image(training, begin):
    network = learning_network().train(training)
    window = tuple(slice(b, b + 5) for b in begin)
    results, slopes = [], []
    for part in (None, window):
        found = network.features(image(2), part)
        results.append(found[(slice(None), *window)] if part is None else found)
        results[-1].square().sum().backward()
        slopes.append(gradients(network))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-3, atol=1e-4 * float(slopes[0].abs().max()))


def test_running_statistics_change_between_steps_only():
    network = learning_network()
    before = network.features(image(3)).detach()
    network.features(5 * image(4))
    assert torch.equal(network.features(image(3)), before)
    norm = network.obelisk.batch1
    old, seen = norm.running_mean.clone(), torch.stack([mean for mean, _ in norm._seen]).mean(0)
    network.obelisk.update_statistics()
    torch.testing.assert_close(norm.running_mean, old + (seen - old) / 2)
    assert not torch.equal(network.features(image(3)), before)
    # In use it is the same network.
    torch.testing.assert_close(network.eval().features(image(3)), network.train().features(image(3)))


@pytest.mark.parametrize("warp", [0, 1])
def test_a_search_needs_its_windows_only(warp):
    network = learning_network()
    layout = network.lattice(SIZE, warp=warp)
    for seed in range(4):
        windows = windows_of(layout, random_block(layout, 3, np.random.default_rng(seed)))
        costs, slopes = [], []
        for parts in (None, (windows.fixed, windows.moving)):
            maps = [network.features(image(n), part) for n, part in zip((2, 3), parts or (None, None), strict=True)]
            found = network.search(*maps, layout, warp=warp, block=windows.block, windows=parts)
            costs.append(found.costs)
            found.mean().square().sum().backward()
            slopes.append(gradients(network))
        assert costs[0].shape[:3] == (3, 3, 3)
        torch.testing.assert_close(costs[1], costs[0], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-2, atol=1e-3 * float(slopes[0].abs().max()))


def test_windows_of_all_control_points_are_the_whole_image():
    network = learning_network()
    layout = network.lattice(SIZE)
    windows = windows_of(layout, random_block(layout, None, np.random.default_rng(0)))
    assert windows.block == tuple(slice(0, n) for n in layout.control.shape)
    assert windows.moving == tuple(slice(0, n) for n in layout.shape)


def test_the_field_of_the_searches_before_is_that_of_the_whole_image_where_it_is_wanted():
    network = learning_network().eval()
    fixed, moving = image(2), image(3)
    with torch.no_grad():
        whole = searched(network, network.features(fixed), moving, 1, features=network.features)
        everything = random_block(network.lattice(SIZE, warp=1), None, np.random.default_rng(0))
        field, window = searched_window(network, fixed, moving, 1, everything, features=network.features)
        torch.testing.assert_close(field, whole[window], rtol=1e-3, atol=1e-3)
        assert [w.stop - w.start for w in window] == list(SIZE)
        field, window = searched_window(network, fixed, moving, 1, (slice(0, 2),) * 3, features=network.features)
    assert any(w.stop < n for w, n in zip(window, SIZE, strict=True))
    # Farther away from the features it goes on as at their border, where the averages lack neighbours.
    inside = tuple(slice(0, max(4, w.stop - 20)) for w in window)
    assert float((field[inside] - whole[inside]).abs().mean()) < 0.1 * float(whole.abs().mean())


def source() -> ScanPairs:
    rng = np.random.default_rng(0)
    samples = [
        Sample(str(n), torch.from_numpy(rng.normal(size=SIZE)).half(),
               torch.from_numpy(rng.integers(0, 3, SIZE, dtype=np.uint8)), torch.eye(4).double())
        for n in range(4)
    ]  # fmt: skip
    weak = Augmentation(rotation=5, scale=0.05, shear=0, elastic=0.02)
    return ScanPairs(samples, samples[:2], ("background", "a", "b"), (0, 1, 2), SIZE, augmentation=weak)


def test_pairs_of_three_images_share_their_features(monkeypatch):
    pairs = source().draw_several(np.random.default_rng(3), 3)
    assert len(pairs) == 6
    assert len({id(p.fixed) for p in pairs}) == len({id(p.moving) for p in pairs}) == 3
    objective = Objective(replace(NETWORK, warps=NETWORK.warps[:1]), ObjectiveSettings(block=3), 3).eval()
    asked, features = [], objective.network.features
    monkeypatch.setattr(objective.network, "features", lambda *a: asked.append(a) or features(*a))

    def loss(part):
        asked.clear()
        with torch.no_grad():
            return float(objective(part, naming=False, rng=np.random.default_rng(0)))

    together = loss(pairs)
    assert len(asked) == 3
    alone = [loss([pair]) for pair in pairs]
    assert len(asked) == 2
    assert together == pytest.approx(np.mean(alone), rel=1e-4)
    # On another device they would still be shared.
    moved = on_device(pairs, torch.device("meta"))
    assert len({id(p.fixed) for p in moved} | {id(p.moving) for p in moved}) == 3
    with pytest.raises(RegistrationError, match="images is 5, expected 2 to 4"):
        source().draw_several(np.random.default_rng(0), 5)
    with pytest.raises(RegistrationError, match="synthetic images come in pairs"):
        SyntheticPairs((24, 24, 24)).draw_several(np.random.default_rng(0), 3)
    with pytest.raises(RegistrationError, match="ramp and images are 2"):
        ObjectiveSettings(ramp=2.0)


@pytest.mark.parametrize("loss", ["non-local", "warped", "self-similarity"])
def test_local_features_lose_what_whole_ones_lose(loss, monkeypatch):
    """The loss of a block does not depend on whether the rest of the features is there, in the first search."""
    pair = source().draw(np.random.default_rng(1))
    objective = Objective(replace(NETWORK, warps=NETWORK.warps[:1]), ObjectiveSettings(loss=loss, block=4), 3).eval()
    values = []
    for local in (True, False):
        monkeypatch.setattr(PddNetwork, "local", local)
        with torch.no_grad():
            values.append(float(objective([pair], naming=False, rng=np.random.default_rng(2))))
    assert values[0] == pytest.approx(values[1], rel=1e-4)


def test_a_training_of_parts_goes_on_where_it_was(tmp_path):
    class Interruption(Exception):
        pass

    def stop(iteration, loss):
        if iteration == 3:
            raise Interruption

    def trainer(name):
        (tmp_path / name).mkdir(exist_ok=True)
        return PddTrainer(
            tmp_path / name, NETWORK, source(), objective=ObjectiveSettings(block=3, images=3, pretrain=1),
            settings=TrainingSettings(iterations=4, batch=1, decay=0.0, validate_every=2), source={},
        )  # fmt: skip

    whole = trainer("whole").run()
    with pytest.raises(Interruption):
        trainer("parts").run(on_step=stop)
    resumed = trainer("parts").run()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
