"""Training of descriptors: views show what they say, the loss is its definition, and learning makes truth probable."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from itk_pdd.errors import RegistrationError
from itk_pdd.network.descriptor import Descriptor
from itk_pdd.network.settings import DescriptorSettings
from itk_pdd.training import descriptor_trainer
from itk_pdd.training.descriptor_trainer import DescriptorTrainer, likelihood_loss, random_cells
from itk_pdd.training.schedule import TrainingSettings
from itk_pdd.training.views import ViewSource, label_maps

SETTINGS = TrainingSettings(iterations=4, batch=1, rate=2e-3, average=0.5, validate_every=2)
NETWORK = DescriptorSettings(hidden=8)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def source():
    return ViewSource(label_maps(3, seed=5), size=40)


def trainer(folder, source, settings=SETTINGS, **options):
    folder.mkdir(exist_ok=True)
    return DescriptorTrainer(folder, NETWORK, source, share=0.5, settings=settings, validation=3, **options)


def weights(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_displacements_bring_the_views_together(source, monkeypatch):
    source, met = ViewSource(source._maps, size=48), []
    monkeypatch.setattr(source, "_images", lambda labels, rng: [view[::2, ::2, ::2].astype(float) for view in labels])
    for seed in range(6):
        views = source.draw(np.random.default_rng(seed))
        assert views.fixed.shape == views.moving.shape == views.edges.shape == (24, 24, 24)
        index = np.stack(np.meshgrid(*[np.arange(24.0)] * 3, indexing="ij"))
        displaced = np.moveaxis(views.displacements.numpy()[..., ::-1], -1, 0)
        inside = ((index + displaced >= 1) & (index + displaced <= 22)).all(axis=0)
        places = (index + displaced, index, index - displaced)
        same = [ndimage.map_coordinates(views.moving, at, order=0) == views.fixed for at in places]
        met.append([each[inside].mean() for each in same])
    there, here, wrong = np.mean(met, axis=0)
    # What a view has for itself is met nowhere.
    assert there > here + 0.05 and wrong < here


def test_views_are_determined_by_their_generator(source):
    one, same, other = (source.draw(np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.fixed, same.fixed)
    np.testing.assert_array_equal(one.displacements, same.displacements)
    assert np.abs(one.fixed - other.fixed).max() > 0.1


def test_label_maps_are_kept_and_drawn_again_where_damaged(tmp_path):
    first = label_maps(2, seed=7, cache=tmp_path)
    files = sorted(tmp_path.iterdir())
    files[0].write_bytes(files[0].read_bytes()[:100])
    for one, other in zip(first, label_maps(2, seed=7, cache=tmp_path), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(np.unique(first[0])) > 3


def test_sizes_that_make_no_blocks_are_refused(source):
    with pytest.raises(RegistrationError, match="size of 41"):
        ViewSource(source._maps, size=41)


def test_likelihood_is_its_definition():
    """Brute force: every voxel of every cell at every displacement."""
    rng = np.random.default_rng(0)
    fixed, moving = (torch.from_numpy(rng.choice([-1.0, 1.0], (7, 8, 9, 5))) / 5**0.5 for _ in range(2))
    corners, bases = rng.integers(0, 5, (4, 3)), rng.integers(-2, 3, (4, 3))
    truth, cell, radius = bases + rng.uniform(-1, 1, (4, 3)), 2, 1
    expected = []
    for corner, base, true in zip(corners, bases, truth, strict=True):
        costs, wanted = [], []
        for step in np.ndindex(3, 3, 3):
            displacement = base + step - radius
            total = 0.0
            for voxel in np.ndindex(cell, cell, cell):
                at = corner + voxel
                other = np.clip(at + displacement, 0, np.array([7, 8, 9]) - 1)
                total += 0.5 - 0.5 * float(fixed[tuple(at)] @ moving[tuple(other)])
            costs.append(total / cell**3)
            wanted.append(np.clip(1 - np.abs(true - displacement), 0, None).prod())
        probable = torch.log_softmax(-10 * torch.tensor(costs), 0).numpy()
        expected.append(-(np.array(wanted) * probable).sum())
    found = likelihood_loss(fixed, moving, corners, bases, truth, cell=cell, temperature=10.0, radius=radius)
    assert float(found) == pytest.approx(np.mean(expected), rel=1e-6)


def test_the_truth_lies_among_the_displacements(source):
    views = source.draw(np.random.default_rng(3))
    corners, bases, truth = random_cells(views, 3, np.random.default_rng(0))
    assert len(corners) > 8
    assert np.abs(truth - bases).max() < 3
    corner = tuple(slice(c, c + 3) for c in corners[0])
    np.testing.assert_allclose(truth[0], views.displacements[corner].numpy()[..., ::-1].mean((0, 1, 2)), atol=1e-5)


def test_learning_makes_the_truth_more_probable(tmp_path, source):
    settings = replace(SETTINGS, iterations=30, rate=1e-2, validate_every=30)
    loop = trainer(tmp_path / "model", source, settings)
    untrained = loop.average.descriptor.state_dict()
    untrained = {name: value.clone() for name, value in untrained.items()}
    loop.run()
    assert (tmp_path / "model" / "curve.png").is_file()
    trained = loop.rows[-1]["validation loss"]
    # With the temperature that was learned, so that it is the bits that make the difference.
    loop.average.descriptor.load_state_dict(untrained)
    assert trained < loop._figures()["validation loss"] - 0.02


def test_views_without_an_edge_teach_nothing(source, monkeypatch):
    monkeypatch.setattr(descriptor_trainer, "_FLAT", -1.0)
    views = source.draw(np.random.default_rng(0))
    objective = descriptor_trainer.Objective(NETWORK, 0.5)
    loss = objective([replace(views, edges=np.zeros_like(views.edges))], np.random.default_rng(0))
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(float(p.grad.abs().max()) == 0 for p in objective.parameters())


def test_a_training_goes_on_exactly(tmp_path, source):
    whole = trainer(tmp_path / "whole", source).run()
    loop = trainer(tmp_path / "part", source)

    def stop(iteration, loss):
        if iteration == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.run(on_step=stop)
    again = trainer(tmp_path / "part", source)
    resumed = again.run()
    assert [row["iteration"] for row in again.rows] == [2, 4]
    torch.testing.assert_close(weights(resumed), weights(whole), rtol=0, atol=0)
    assert not torch.equal(weights(resumed.descriptor), weights(Descriptor(NETWORK)))


def test_other_shapes_do_not_go_on_with_it(tmp_path, source):
    trainer(tmp_path / "model", source).run()
    with pytest.raises(RegistrationError, match="maps is 1, was 3"):
        trainer(tmp_path / "model", ViewSource(source._maps[:1], size=40)).run()
