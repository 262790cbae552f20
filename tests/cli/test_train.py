"""pdd-train and pdd-evaluate as a user meets them."""

from __future__ import annotations

import csv
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from itk_pdd.cli.evaluate import main as evaluate
from itk_pdd.cli.train import main as train
from training.conftest import GRID, balls, listed, scans, write_scan  # noqa: F401

import itk_pdd
from itk_pdd.io.volume import Volume
from itk_pdd.models.pddmodel import PddModel
from itk_pdd.network.card import DescriptorCard, ModelCard, PddCard
from itk_pdd.network.semantic import SemanticNetwork
from itk_pdd.network.settings import Warp
from itk_pdd.synthesis import make_pair
from itk_pdd.training.loop import mean_over_scans
from itk_pdd.training.pairs import SyntheticPairs
from itk_pdd.training.pdd_trainer import registered_dice
from itk_pdd.training.views import ViewSource

SMALL = ("--widths", "8,16", "--rate", "0.005", "--crop", "16", "16", "16", "--elastic", "0", "--threads", "1")


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(command, *words: object):
    return CliRunner().invoke(command, [str(word) for word in words])


@pytest.fixture(scope="module")
def model(listed, tmp_path_factory):  # noqa: F811
    """A model folder, and what the command said."""
    folder = tmp_path_factory.mktemp("models") / "balls"
    result = run(
        train, listed, "-o", folder, *SMALL, "--iterations", 40, "--validate-every", 20, "--class", "1=left",
        "--class", "2=right", "--licence", "made up", "-v",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return folder, result


def test_a_training_gives_a_model(model):
    folder, result = model
    network = SemanticNetwork.from_folder(folder)
    card = network.card
    assert [c.name for c in card.classes] == ["background", "left", "right"]
    assert card.spacing == pytest.approx(2.0) and card.network.fold == 1 and card.name == "balls"
    assert card.training["licence"] == "made up" and card.training["scans"] == [f"image_{n}" for n in range(4)]
    assert card.validation["scans"] == ["image_4", "image_5"]
    assert card.validation["segmentation_dice"]["mean"] > 0.7
    assert "iteration 40: loss" in result.stderr and result.stdout.startswith("mean")
    assert {file.name for file in (folder / "training").iterdir()} == {"checkpoint.safetensors", "log.csv", "curve.png"}


def test_evaluation_reports_the_figures_of_the_card(model, listed, tmp_path):  # noqa: F811
    folder, _ = model
    table = tmp_path / "table.csv"
    result = run(evaluate, listed, "-m", folder, "--segmentation", "--split", "validation", "-o", table)
    assert result.exit_code == 0, result.output
    figures = json.loads((folder / "card.json").read_text())["validation"]["segmentation_dice"]
    assert f"{figures['mean']:.4f}" in result.stdout and f"{figures['right']:.4f}" in result.stdout
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {(row["scan"], row["name"]) for row in rows} == {
        (f"image_{n}", side) for n in (4, 5) for side in ("left", "right")
    }


def test_evaluation_by_registration(listed, tmp_path):  # noqa: F811
    table = tmp_path / "pairs.csv"
    result = run(evaluate, listed, "-m", "mind-ssc", "--split", "validation", "-o", table, "--threads", 1)
    assert result.exit_code == 0, result.output
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {(row["fixed"], row["moving"]) for row in rows} == {("image_4", "image_5"), ("image_5", "image_4")}
    dice = sum(float(row["dice"]) for row in rows) / len(rows)
    assert f"Dice mean {'':24s} {dice:.4f}" in result.stdout and dice > 0.6
    assert "folded voxels" in result.stdout and "SD of log(J + 3)" in result.stdout


def test_the_same_command_with_more_iterations_extends_a_training(listed, tmp_path):  # noqa: F811
    words = (train, listed, "-o", tmp_path / "m", *SMALL, "-v", "--iterations")
    for count in (1, 3):
        result = run(*words, count)
        assert result.exit_code == 0, result.output
    assert "extended: its learning rate rises and falls once more over iterations 2 to 3" in result.stderr
    training = SemanticNetwork.from_folder(tmp_path / "m").card.training
    assert training["iterations"] == 3 and training["extended_at"] == [1]


def test_scans_without_a_common_label_cannot_be_measured(tmp_path):
    for number, keep in enumerate((1, 2)):
        image, labels = balls(GRID, number)
        write_scan(tmp_path, str(number), image, Volume(labels.array * (labels.array == keep), GRID))
    result = run(evaluate, tmp_path, "-m", "mind-ssc", "--threads", 1)
    assert result.exit_code == 1 and "show no label that can be measured" in result.stderr


def test_cross_validation(listed, tmp_path):  # noqa: F811
    result = run(train, listed, "-o", tmp_path / "cv", *SMALL, "--iterations", 2, "--folds", 2)
    assert result.exit_code == 0, result.output
    with (tmp_path / "cv" / "cross-validation.csv").open(newline="") as stream:
        held = {row["scan"] for row in csv.DictReader(stream)}
    assert held == {f"image_{n}" for n in range(6)}
    parts = [SemanticNetwork.from_folder(tmp_path / "cv" / f"fold-{k}").card for k in (1, 2)]
    assert set(parts[0].training["scans"]) == set(parts[1].validation["scans"])


PDD = ("--method", "pdd", "--channels", "4", "--warp", "0.5", "5", "6", "--stride", "2", "--threads", "1",
       "--optimisation", "5", "--pairs", "2")  # fmt: skip


def test_a_pdd_network_is_trained_registered_with_and_measured(listed, tmp_path):  # noqa: F811
    folder, table = tmp_path / "pdd", tmp_path / "pairs.csv"
    words = (train, listed, "-o", folder, *PDD, "--iterations", 4, "--validate-every", 2, "--no-mean-field")
    result = run(*words, "-v")
    assert result.exit_code == 0, result.output
    card = PddCard.from_folder(folder)
    assert card.network.warps == (Warp(0.5, 5, 6),) and not card.network.mean_field
    assert card.network.extent == (16.0, 20.0, 24.0) and card.spacing == pytest.approx(2.0)
    assert card.training["scans"] == [f"image_{n}" for n in range(4)] and card.training["iterations"] == 4
    assert "control points 6 x 6 x 6" in result.stderr
    assert {file.name for file in (folder / "training").iterdir()} == {"checkpoint.safetensors", "log.csv", "curve.png"}

    measured = run(evaluate, listed, "-m", folder, "--split", "validation", "-o", table, "--threads", 1)
    assert measured.exit_code == 0, measured.output
    figures = card.validation
    with table.open(newline="") as stream:
        dice = [float(row["dice"]) for row in csv.DictReader(stream)]
    assert sum(dice) / len(dice) == pytest.approx(figures["registration_dice"]["mean"], abs=2e-4)
    assert figures["pairs"] == 2 and f"{figures['sd_log_j3']:.4f}" in measured.stdout

    other = run(evaluate, listed, "-m", folder, "--segmentation")
    assert other.exit_code == 1 and "has no network that names organs" in other.stderr
    # The same again goes on from the end; another temperature of the loss does not.
    assert run(*words).exit_code == 0
    assert "other objective (diffusion is 2.0, was 1.5)" in run(*words, "--diffusion", 2.0).stderr


def test_a_model_of_synthetic_pairs_needs_no_scan(tmp_path):
    result = run(
        train,
        "--synthetic",
        "-o",
        tmp_path / "general",
        *PDD[2:],
        "--size",
        24,
        24,
        24,
        "--iterations",
        2,
        "--loss",
        "truth",
    )
    assert result.exit_code == 0, result.output
    card = PddCard.from_folder(tmp_path / "general")
    assert card.spacing is None and card.network.extent is None and card.training["scans"] == []
    # What the card says is what the model does on the two pairs of this seed, which no other pairs would give.
    network = PddModel.from_folder(tmp_path / "general").network
    dice = []
    for seed in (0, 1):
        pairs = SyntheticPairs((24, 24, 24), pairs=2, seed=seed)
        found = registered_dice(network, pairs.validation(), len(pairs.names), torch.device("cpu"))
        dice.append(float(np.nanmean(mean_over_scans(found))))
    assert card.validation["registration_dice"]["mean"] == pytest.approx(dice[0], abs=2e-3)
    assert abs(dice[0] - dice[1]) > 0.02


def test_a_descriptor_needs_no_scan(tmp_path, monkeypatch):
    from itk_pdd.training import descriptor_recipe

    draw = descriptor_recipe.label_maps
    monkeypatch.setattr(descriptor_recipe, "label_maps", lambda count, **options: draw(2, **options))
    monkeypatch.setattr(descriptor_recipe, "ViewSource", lambda maps: ViewSource(maps, size=32))
    words = (train, "--method", "descriptor", "-o", tmp_path / "any", "--iterations", 2, "--validate-every", 1)
    result = run(*words, "--cache", tmp_path / "cache", "--threads", 1, "-v")
    assert result.exit_code == 0, result.output
    assert "validation loss" in result.stderr
    card = DescriptorCard.from_folder(tmp_path / "any")
    assert card.training["scans"] == [] and card.training["iterations"] == 2
    log = (tmp_path / "any" / "training" / "log.csv").read_text().splitlines()
    assert log[0] == "iteration,rate,loss,validation loss,seconds" and len(log) == 3
    assert len(list((tmp_path / "cache").iterdir())) == 2
    pair = make_pair((32, 28, 24), 3.0, seed=1)
    assert itk_pdd.register(pair.fixed.to_simpleitk(), pair.moving.to_simpleitk(), model=tmp_path / "any")


@pytest.mark.parametrize("options", [("--spacing", 2), ("--loss", "warped"), ("--folds", 2), ("--patience", 3)])
def test_what_a_descriptor_does_not_have_is_refused(listed, tmp_path, options):  # noqa: F811
    words = (train, "--method", "descriptor", "-o", tmp_path / "any", "--iterations", 1)
    result = run(*words, *options)
    assert result.exit_code == 2 and f"{options[0]} has no meaning with --method descriptor" in result.stderr
    given = run(train, listed, *words[1:])
    assert given.exit_code == 2 and "a descriptor learns from random shapes" in " ".join(given.stderr.split())


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--loss", "warped"), "--loss has no meaning with --method segmentation: add --method pdd"),
        (("--method", "pdd", "--crop", 8, 8, 8), "--crop has no meaning with --method pdd: leave it out"),
        (("--method", "pdd", "--folds", 2), "--folds has no meaning with --method pdd"),
        (("--method", "pdd", "--bfloat16"), "--bfloat16 has no meaning with --method pdd: leave it out"),
        (("--method", "pdd", "--synthetic"), "DATA and --synthetic are both given"),
        (("--method", "pdd", "--loss", "truth"), "loss is 'truth', but the true displacements of scans are not known"),
        (("--method", "pdd", "--warp", "0.4", "4", "8"), "displacements is 4, expected an odd number"),
    ],
)
def test_options_of_the_other_method_are_refused(listed, tmp_path, options, complaint):  # noqa: F811
    result = run(train, listed, "-o", tmp_path / "m", "--iterations", 1, *options)
    assert result.exit_code in (1, 2) and complaint in " ".join(result.stderr.split())
    assert "Missing argument 'DATA'" in run(train, "-o", tmp_path / "m").stderr


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--intensity", -125, 275), "--intensity has no meaning with --synthetic: leave it out"),
        (("--spacing", 2), "--spacing has no meaning with --synthetic"),
        (("--class", "1=liver"), "--class has no meaning with --synthetic"),
        (("--elastic", 0.1), "--elastic has no meaning with --synthetic"),
        (("--cache", "cache"), "--cache has no meaning with --synthetic"),
        (("--features", "mind-ssc", "--channels", 8), "--channels has no meaning with --features mind-ssc"),
    ],
)
def test_what_synthetic_pairs_do_not_have_is_refused(tmp_path, options, complaint):
    result = run(
        train, "--synthetic", "-o", tmp_path / "m", "--iterations", 1, *PDD[2:], "--size", 24, 24, 24, *options
    )
    assert result.exit_code == 2 and complaint in " ".join(result.stderr.split())


def test_a_size_belongs_to_synthetic_pairs(listed, tmp_path):  # noqa: F811
    result = run(train, listed, "-o", tmp_path / "m", *PDD, "--iterations", 1, "--size", 24, 24, 24)
    assert result.exit_code == 2 and "--size has no meaning without --synthetic" in " ".join(result.stderr.split())


@pytest.mark.parametrize("method", ["segmentation", "pdd"])
def test_a_training_is_not_resumed_for_other_classes(listed, tmp_path, method):  # noqa: F811
    """As many classes of the same scans, but others."""
    small = SMALL if method == "segmentation" else PDD
    words = (train, listed, "-o", tmp_path / "m", *small, "--iterations", 1)
    result = run(*words, "--class", "1=left")
    assert result.exit_code == 0, result.output
    other = run(*words, "--class", "2=left")
    assert other.exit_code == 1 and "other source (classes is [0, 2], was [0, 1])" in other.stderr
    # Another name is no other class; another normalisation is another image.
    assert run(*words, "--class", "1=here").exit_code == 0
    assert "other source (intensity is" in run(*words, "--class", "1=left", "--percentiles", 2, 98).stderr


@pytest.mark.parametrize("method", ["segmentation", "pdd"])
def test_a_full_disk_and_a_damaged_checkpoint_are_one_sentence(listed, tmp_path, monkeypatch, method):  # noqa: F811
    from itk_pdd.training import checkpoint

    folder, small = tmp_path / "m", SMALL if method == "segmentation" else PDD
    words = (train, listed, "-o", folder, *small, "--iterations", 3, "--validate-every", 1)
    write, written = checkpoint.write_bytes, []

    def full(path, content):
        if len(written) == 2:
            path.write_bytes(content[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(path)
        write(path, content)

    monkeypatch.setattr(checkpoint, "write_bytes", full)
    result = run(*words)
    assert result.exit_code != 0 and result.stderr.count("Error") == 1
    assert "could not be written (no space left on device)" in result.stderr
    monkeypatch.setattr(checkpoint, "write_bytes", write)
    # The checkpoint of the second iteration is there, and the training goes on from it.
    again = run(*words, "-v")
    assert again.exit_code == 0 and "resumed at iteration 2" in again.stderr
    path = folder / "training" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    damaged = run(*words)
    assert damaged.exit_code == 1 and damaged.stderr.count("\n") == 1 and "is damaged" in damaged.stderr
    assert (folder / "card.json").is_file()


@pytest.mark.parametrize(
    ("options", "code", "complaint"),
    [
        (("--class", "7=liver"), 1, "Error: data: no training scan shows the class 7 (liver)"),
        (("--class", "liver"), 2, "expected VALUE=NAME"),
        (("--crop", "15", "16", "16"), 1, "Error: crop has shape (16, 16, 15)"),
        (("--widths", "8,x"), 2, "expected whole numbers"),
        (("--intensity", "5", "1"), 1, "expected low below high"),
        (("--device", "cuda"), 1, "this machine has no CUDA device that torch can use: use 'auto' or 'cpu'"),
    ],
)
def test_options_that_cannot_be_used(listed, tmp_path, monkeypatch, options, code, complaint):  # noqa: F811
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = run(train, listed, "-o", tmp_path / "m", *SMALL, "--iterations", 1, *options)
    assert result.exit_code == code and complaint in result.stderr
    assert not (tmp_path / "m" / "card.json").exists()


def test_bad_input_is_one_sentence(tmp_path):
    (tmp_path / "data.csv").write_text("image,labels\na.nii.gz,b.nii.gz\n")
    for command, more in ((train, ("-o", tmp_path / "m")), (evaluate, ())):
        result = run(command, tmp_path / "data.csv", *more)
        assert result.exit_code == 1 and result.stderr.count("\n") == 1
        assert "row 2, column image: there is no file" in result.stderr


def test_help_is_quick_to_load():
    """Neither command needs torch to say what it does."""
    for name in ("train", "evaluate"):
        loaded = "[m for m in ('torch', 'itk', 'numba') if m in sys.modules]"
        code = f"import sys; from itk_pdd.cli.{name} import main; print({loaded})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"


METHODS = {
    "segmentation": ("--widths", "8,16", "--class", "1=left", "--crop", 8, 8, 8, "--intensity", -5, 5),
    "pdd": ("--channels", 4, "--warp", 0.5, 5, 6, "--elastic", 0.1),
    "descriptor": ("--rate", 0.1, "--validate-every", 3),
}


@pytest.mark.parametrize("method", METHODS)
def test_a_command_and_the_option_of_that_name_are_the_same(tmp_path, monkeypatch, method):
    calls = []
    monkeypatch.setattr("itk_pdd.commands.train.train", lambda *words, **options: calls.append((words, options)) or {})
    words = ("-o", tmp_path / "m", *METHODS[method], "-v")
    given = () if method == "descriptor" else (tmp_path,)
    for command in (
        (method, *given, *words),
        (*given, "--method", method, *words),
        (*words, "--method", method, *given),
    ):
        result = run(train, *command)
        assert result.exit_code == 0, result.output
    assert calls[0][0] == (method,) and "verbose" not in calls[0][1] and calls[0][1]["output"] == tmp_path / "m"
    told = [{name: value for name, value in options.items() if name != "command"} for _, options in calls]
    assert told[0] == told[1] == told[2]


def test_synthetic_pairs_are_for_the_pdd_network(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("itk_pdd.commands.train.train", lambda method, **options: calls.append(method) or {})
    for words in (("pdd", "--synthetic"), ("--synthetic",)):
        assert run(train, *words, "-o", tmp_path / "m").exit_code == 0
    assert calls == ["pdd", "pdd"]


def test_each_command_has_its_own_options_alone(listed, tmp_path):  # noqa: F811
    told = run(train, "--help").stdout
    assert all(f"\n  {method} " in told for method in METHODS) and "--warp" not in told.split("Options:")[1]
    for method, mine, other in (("segmentation", "--folds", "--warp"), ("pdd", "--warp", "--folds"),
                                ("descriptor", "--minutes", "--licence")):  # fmt: skip
        options = run(train, method, "-h").stdout.split("Options:")[1]
        assert mine in options and other not in options
        result = run(train, method, "-o", tmp_path / "m", other, "1")
        assert result.exit_code == 2 and "no such option" in result.stderr.lower()
    missing = run(train, "segmentation", "-o", tmp_path / "m")
    assert missing.exit_code == 2 and "Missing argument 'DATA'" in missing.stderr
    assert run(train, "descriptor", listed, "-o", tmp_path / "m").exit_code == 2


@pytest.mark.slow
@pytest.mark.parametrize("method", ["segmentation", "pdd"])
def test_two_processes_train_one_network(listed, tmp_path, method):  # noqa: F811
    """What torchrun starts agrees on one set of weights and writes one model."""
    options = SMALL if method == "segmentation" else (*PDD, "--pretrain", "2", "--batch", "2")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29617",
            "-m", "itk_pdd.cli.train", str(listed), "-o", str(tmp_path / "m"), *options, "--iterations", "4",
            "--validate-every", "2", "--device", "cpu",
        ],
        capture_output=True, text=True, env=environment, cwd=Path(listed).parent, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    card = (ModelCard if method == "segmentation" else PddCard).from_folder(tmp_path / "m")
    assert card.training["batch"] == 4 and card.training["iterations"] == 4
    assert done.stdout.count("mean") == 1
