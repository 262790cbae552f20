"""The training loop learns, repeats itself exactly and goes on exactly where it was."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save

import itk_pdd.training.loop
from itk_pdd.errors import RegistrationError
from itk_pdd.network.preparation import Intensity
from itk_pdd.network.settings import UNetSettings
from itk_pdd.training.augmentation import Augmentation
from itk_pdd.training.cases import of_split
from itk_pdd.training.checkpoint import CHECKPOINT, read_checkpoint
from itk_pdd.training.dataset import load_samples
from itk_pdd.training.schedule import TrainingSettings, learning_rate
from itk_pdd.training.segmentation import dice_per_class, majority
from itk_pdd.training.trainer import Trainer

SETTINGS = TrainingSettings(iterations=8, validate_every=4, rate=5e-3, average=0.8, levels=2)


@pytest.fixture(scope="module")
def samples(scans):
    options = {"spacing": 2.0, "intensity": Intensity("percentiles"), "values": (0, 1, 2)}
    return [load_samples(of_split(scans, split), **options) for split in ("train", "validation")]


pytestmark = pytest.mark.usefixtures("one_thread")


def trainer(folder, samples, settings=SETTINGS, **options):
    return Trainer(
        folder, UNetSettings(3, (8, 16), 1, 1), *samples, settings=settings,
        augmentation=Augmentation(shape=(16, 16, 16), elastic=0.0), names=("background", "left", "right"), source={},
        **options,
    )  # fmt: skip


def weights(network):
    return torch.cat([p.flatten() for p in network.parameters()])


def test_it_learns_to_tell_the_balls_apart(tmp_path, samples):
    settings = replace(SETTINGS, iterations=40, validate_every=20)
    loop = trainer(tmp_path, samples, settings)
    network = loop.run()
    assert loop.rows[-1]["dice"] > 0.8 and loop.rows[-1]["loss"] < loop.rows[0]["loss"]
    # What is returned is what was measured.
    assert np.nanmean(loop.evaluate(loop.validation)) == pytest.approx(loop.rows[-1]["dice"])
    assert network is loop.average
    with (tmp_path / "log.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["iteration"] for row in rows] == ["20", "40"]
    mean = (float(rows[1]["dice left"]) + float(rows[1]["dice right"])) / 2
    assert float(rows[1]["dice"]) == pytest.approx(mean, abs=1e-5)
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_interrupted_and_resumed_is_the_same_as_in_one_go(tmp_path, samples):
    class Interruption(Exception):
        pass

    def stop(iteration, loss):
        if iteration == 6:
            raise Interruption

    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = trainer(tmp_path / "whole", samples)
    whole.run()
    with pytest.raises(Interruption):
        trainer(tmp_path / "parts", samples).run(on_step=stop)
    resumed = trainer(tmp_path / "parts", samples)
    resumed.run()
    assert resumed.iteration == 8
    assert torch.equal(weights(whole.network), weights(resumed.network))
    assert torch.equal(weights(whole.average), weights(resumed.average))
    assert [r["loss"] for r in whole.rows] == [r["loss"] for r in resumed.rows]


def test_a_training_goes_on_from_between_validations(tmp_path, samples, monkeypatch):
    """Where validations are rare, checkpoints are not: little is lost, and the log is that of one go."""

    class Interruption(Exception):
        pass

    def stop(iteration, loss):
        if iteration == 7:
            raise Interruption

    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = trainer(tmp_path / "whole", samples)
    whole.run()
    monkeypatch.setattr(itk_pdd.training.loop, "_UNSAVED", 0.0)
    with pytest.raises(Interruption):
        trainer(tmp_path / "parts", samples).run(on_step=stop)
    seen = []
    resumed = trainer(tmp_path / "parts", samples)
    resumed.run(on_step=lambda iteration, loss: seen.append(iteration))
    assert seen == [7, 8]
    assert torch.equal(weights(whole.average), weights(resumed.average))
    assert [r["loss"] for r in whole.rows] == [r["loss"] for r in resumed.rows]


def test_a_finished_training_is_extended(tmp_path, samples):
    """The learning rate rises and falls once more; an extension that was interrupted goes on exactly."""

    class Interruption(Exception):
        pass

    def stop(iteration, loss):
        if iteration == 6:
            raise Interruption

    settings = replace(SETTINGS, iterations=4, validate_every=2)
    longer = replace(settings, iterations=8)
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
        trainer(tmp_path / name, samples, settings).run()
    finished = trainer(tmp_path / "whole", samples, settings)
    finished.run()
    whole = trainer(tmp_path / "whole", samples, longer)
    whole.run()
    assert (whole.iteration, whole.starts) == (8, [0, 4])
    assert [row["iteration"] for row in whole.rows] == [2, 4, 6, 8]
    assert not torch.equal(weights(whole.network), weights(finished.network))
    rates = [row["rate"] for row in whole.rows]
    assert rates[:2] == rates[2:] == pytest.approx([learning_rate(n, settings) for n in (1, 3)])
    with pytest.raises(Interruption):
        trainer(tmp_path / "parts", samples, longer).run(on_step=stop)
    parts = trainer(tmp_path / "parts", samples, longer)
    parts.run()
    assert parts.starts == [0, 4]
    assert torch.equal(weights(whole.average), weights(parts.average))


def test_a_training_is_extended_only_when_it_is_finished(tmp_path, samples):
    class Interruption(Exception):
        pass

    def stop(iteration, loss):
        if iteration == 3:
            raise Interruption

    settings = replace(SETTINGS, iterations=4, validate_every=2)
    with pytest.raises(Interruption):
        trainer(tmp_path, samples, settings).run(on_step=stop)
    with pytest.raises(RegistrationError, match=r"iterations is 8, was 4.*more iterations once it is finished"):
        trainer(tmp_path, samples, replace(settings, iterations=8)).run()
    trainer(tmp_path, samples, settings).run()
    with pytest.raises(RegistrationError, match=r"iterations is 2, was 4"):
        trainer(tmp_path, samples, replace(settings, iterations=2)).run()
    with pytest.raises(RegistrationError, match=r"rate is 0\.001, was 0\.005"):
        trainer(tmp_path, samples, replace(settings, iterations=8, rate=1e-3)).run()


def test_a_checkpoint_of_other_settings_is_refused(tmp_path, samples):
    settings = replace(SETTINGS, iterations=2, validate_every=2)
    trainer(tmp_path, samples, settings).run()
    with pytest.raises(RegistrationError, match=r"other settings \(rate is 0\.001, was 0\.005\)"):
        trainer(tmp_path, samples, replace(settings, rate=1e-3)).run()
    with pytest.raises(RegistrationError, match="other scans"):
        trainer(tmp_path, (samples[0][:3], samples[1]), settings).run()
    content = (tmp_path / CHECKPOINT).read_bytes()
    (tmp_path / CHECKPOINT).write_bytes(content[: len(content) // 2])
    with pytest.raises(RegistrationError, match="is damaged"):
        trainer(tmp_path, samples, settings).run()


@pytest.mark.parametrize(
    "change",
    [
        {"iteration": None},
        {"best": []},
        {"rows": 3},
        {"rows": [{"loss": {}}]},
        {"since_best": "a"},
        {"losses": None},
        {"seconds": [1]},
        "list",
        {"network.heads.0.bias": None},
        {"optimizer.0.exp_avg": None},
        {"optimizer.x.step": torch.ones(1)},
    ],
    ids=str,
)
def test_a_checkpoint_without_a_whole_state_is_refused(tmp_path, samples, change):
    settings = replace(SETTINGS, iterations=1, validate_every=1)
    trainer(tmp_path, samples, settings).run()
    tensors, state = read_checkpoint(tmp_path)
    for key, value in change.items() if isinstance(change, dict) else ():
        where = tensors if "." in key else state
        where[key] = value
        if value is None:
            del where[key]
    content = json.dumps([state] if change == "list" else state)
    (tmp_path / CHECKPOINT).write_bytes(save(tensors, metadata={"state": content}))
    with pytest.raises(RegistrationError, match=r"holds no (complete )?state.*remove it to start anew"):
        trainer(tmp_path, samples, settings).run()


@pytest.mark.parametrize("settings", [None, {}, [3], {"iterations": None}, {"iterations": "many"}], ids=str)
def test_a_length_that_a_checkpoint_does_not_tell(tmp_path, samples, settings):
    """With --minutes the checkpoint is asked first for how many iterations were planned."""
    loop = trainer(tmp_path, samples)
    assert loop.planned() is None
    for state in ({"settings": settings}, {}):
        (tmp_path / CHECKPOINT).write_bytes(save({}, metadata={"state": json.dumps(state)}))
        with pytest.raises(RegistrationError, match=r"checkpoint\.safetensors holds no complete state.*remove it"):
            loop.planned()


def test_what_differs_is_named_though_one_side_does_not_know_it(tmp_path, samples):
    settings = replace(SETTINGS, iterations=1, validate_every=1)
    loop = trainer(tmp_path, samples, settings)
    loop.run()
    tensors, state = read_checkpoint(tmp_path)
    state["settings"]["momentum"] = None
    (tmp_path / CHECKPOINT).write_bytes(save(tensors, metadata={"state": json.dumps(state)}))
    with pytest.raises(RegistrationError, match=r"other settings \(momentum is not there, was None\)"):
        trainer(tmp_path, samples, settings).run()


def test_patience_keeps_the_best(tmp_path, samples):
    settings = replace(SETTINGS, iterations=12, validate_every=2, patience=2)
    loop = trainer(tmp_path, samples, settings)
    dice = iter([0.3, 0.5, 0.4, 0.45, 0.9])
    kept = {}

    def evaluate(_):
        value = next(dice)
        kept[value] = weights(loop.average).clone()
        return np.full((1, 2), value)

    loop.evaluate = evaluate
    network = loop.run()
    assert loop.iteration == 8 and torch.equal(weights(network), kept[0.5])
    shutil.rmtree(tmp_path)


def test_a_diverged_training_stops(tmp_path, samples):
    loop = trainer(tmp_path, samples)
    with torch.no_grad():
        next(loop.network.parameters()).fill_(float("nan"))
    with pytest.raises(RegistrationError, match="the loss is nan at iteration 0: choose a smaller rate"):
        loop.run()


def test_the_learning_rate_rises_and_falls():
    settings = TrainingSettings(iterations=100, rate=1.0)
    rates = [learning_rate(i, settings) for i in range(100)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert np.all(np.diff(rates[5:]) < 0) and rates[-1] < 1e-3
    assert learning_rate(52, settings) == pytest.approx(0.5, abs=0.02)
    with pytest.raises(RegistrationError, match="iterations is 0"):
        TrainingSettings(iterations=0)


def test_majority_and_dice():
    labels = torch.zeros((5, 4, 4), dtype=torch.uint8)
    labels[:2, :2, :2] = 1
    labels[0, 0, 0] = 2
    coarse = majority(labels, 4, 2)
    assert coarse.shape == (3, 2, 2) and int(coarse[0, 0, 0]) == 1 and int(coarse.sum()) == 1
    found = coarse.clone()
    found[1, 1, 1] = 1
    dice = dice_per_class(found, coarse, 3)
    assert dice[0] == pytest.approx(2 / 3) and np.isnan(dice[1])
