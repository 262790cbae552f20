"""Uncertainty from the command line, and the figure that tells whether a registration failed."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from click.testing import CliRunner
from conftest import rotation
from itk_pdd.cli.register import main

from itk_pdd import models, registration
from itk_pdd.commands.register import register_files
from itk_pdd.errors import RegistrationWarning
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.mapping import AffineMapping
from itk_pdd.network.card import ModelCard
from itk_pdd.synthesis import make_pair
from itk_pdd.uncertainty.calibration import Calibration, calibration_of
from itk_pdd.uncertainty.quality import CANDIDATES, predicted


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory):
    """A small synthetic pair with labels, as files, and the pair itself."""
    made = make_pair((56, 48, 40), (3.0, 3.0, 4.0), seed=5, displacement=10.0, direction=rotation(0, 0, 10))
    folder = tmp_path_factory.mktemp("pair")
    for name in ("fixed", "moving", "moving_labels"):
        SimpleITK.WriteImage(getattr(made, name).to_simpleitk(), str(folder / f"{name}.nii.gz"))
    return made, folder


def run(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def read(path: Path) -> SimpleITK.Image:
    return SimpleITK.ReadImage(str(path))


def test_command_writes_what_was_asked_for(files, tmp_path: Path) -> None:
    made, folder = files
    names = ("uncertainty", "covariance", "entropy", "label-probabilities", "label-entropy")
    outputs = [part for name in names for part in (f"--{name}", tmp_path / f"{name}.nii.gz")]
    result = run(
        folder / "fixed.nii.gz", folder / "moving.nii.gz", "--moving-labels", folder / "moving_labels.nii.gz", *outputs
    )
    assert (result.exit_code, result.output) == (0, ""), "quiet in a pipe"
    images = {name: read(tmp_path / f"{name}.nii.gz") for name in names}
    for image in images.values():
        assert image.GetSize() == made.fixed.grid.size
        assert image.GetOrigin() == pytest.approx(made.fixed.grid.origin, abs=1e-4)
        assert image.GetDirection() == pytest.approx(np.asarray(made.fixed.grid.direction).ravel(), abs=1e-5)
    arrays = {name: SimpleITK.GetArrayFromImage(image) for name, image in images.items()}
    assert images["uncertainty"].GetPixelID() == SimpleITK.sitkFloat32
    expected = registration.register_volumes(made.fixed, made.moving, uncertainty=True).uncertainty
    assert arrays["uncertainty"] == pytest.approx(expected.standard_deviation().array, rel=1e-3)
    # xx, xy, xz, yy, yz, zz
    assert arrays["covariance"].shape[-1] == 6
    assert arrays["covariance"][..., [0, 3, 5]].sum(axis=-1) == pytest.approx(arrays["uncertainty"] ** 2, rel=1e-3)
    labels = np.unique(made.moving_labels.array)
    assert arrays["label-probabilities"].shape[-1] == len(labels)
    assert arrays["label-probabilities"].sum(axis=-1) == pytest.approx(1, abs=1e-5)
    share = arrays["label-probabilities"]
    entropy = -np.sum(share * np.log(np.maximum(share, 1e-12)), axis=-1)
    assert arrays["label-entropy"] == pytest.approx(entropy, abs=1e-4)
    assert np.isfinite(arrays["entropy"]).all()


def test_labels_are_needed_for_their_probabilities(files, tmp_path: Path) -> None:
    _, folder = files
    result = run(folder / "fixed.nii.gz", folder / "moving.nii.gz", "--label-entropy", tmp_path / "e.nii.gz")
    assert result.exit_code == 2
    assert "--moving-labels" in result.output


def test_log_tells_the_verdict(files, tmp_path: Path) -> None:
    _, folder = files
    pair = folder / "fixed.nii.gz", folder / "moving.nii.gz"
    assert "Verdict: good." in run(*pair, "-o", tmp_path / "u.mha", "-v").output
    assert "Verdict" not in run(*pair, "-o", tmp_path / "u.mha", "-v", "--no-quality").output


def test_uncertainty_has_a_headline(files, tmp_path: Path) -> None:
    _, folder = files
    told = run(folder / "fixed.nii.gz", folder / "moving.nii.gz", "--uncertainty", tmp_path / "u.mha", "-v").output
    half, most = (float(v) for v in re.search(r"located within ([\d.]+) mm, 95 % within ([\d.]+) mm", told).groups())
    assert 0 < half < most


def test_nothing_is_judged_where_that_was_declined(files, tmp_path: Path) -> None:
    _, folder = files
    pair = folder / "fixed.nii.gz", folder / "moving.nii.gz"
    assert register_files(*pair, output=tmp_path / "u.mha", quality=False).verdict is None


def test_wrong_start_is_told_as_a_failure(files, caplog: pytest.LogCaptureFixture) -> None:
    made, _ = files
    grid = made.fixed.grid
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(60, 0, 70)
    matrix[:3, 3] = grid.centre - matrix[:3, :3] @ grid.centre + [30, 10, 40]
    with caplog.at_level(logging.INFO, logger="itk_pdd"):
        good = registration.register_volumes(made.fixed, made.moving, uncertainty=True)
        assert not any(r.levelno >= logging.WARNING for r in caplog.records)
        with pytest.warns(RegistrationWarning, match="edge of the range"):
            bad = registration.register_volumes(
                made.fixed, made.moving, initial=AffineMapping(matrix), uncertainty=True
            )
        assert any(r.levelno == logging.WARNING and "probably failed" in r.message for r in caplog.records)
    assert not good.verdict.failed
    assert bad.verdict.failed
    assert bad.uncertainty.verdict is bad.verdict
    assert bad.uncertainty.quality.figure < good.uncertainty.quality.figure - 0.2


def test_quality_falls_with_worse_evidence() -> None:
    learned = calibration_of(models.DEFAULT.name).quality
    assert set(learned["weights"]) <= set(CANDIDATES)
    means = dict.fromkeys(CANDIDATES, 0.3)
    base = predicted(means, learned["intercept"], learned["weights"])
    for name in learned["weights"]:
        assert predicted({**means, name: 0.6}, learned["intercept"], learned["weights"]) < base
    assert 0 < learned["threshold"] < 1


def test_trained_model_brings_its_own_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(models.__file__).parent / "hippocampus-mr" / "card.json"
    card = json.loads(source.read_text())
    own = Calibration(0.1, {"strain": 0.5}, {"strain": 0.1}, 5.0)
    (tmp_path / "card.json").write_text(json.dumps({**card, "uncertainty": own.to_dict()}))
    assert ModelCard.from_folder(tmp_path).uncertainty == own.to_dict()
    assert calibration_of(tmp_path.name, str(tmp_path)) == own


def test_grids_of_other_dimensions_are_fine() -> None:
    made = make_pair((72, 64), 2.0, seed=1)
    found = registration.register_volumes(made.fixed, made.moving, uncertainty=True).uncertainty
    assert found.covariance().shape == (64, 72, 3)
    assert found.grid == Grid.create((72, 64), 2.0)
    assert [field.vectors.shape for field in found.sample(2)] == [(64, 72, 2)] * 2
    assert found.label_entropy(made.moving_labels).array.shape == (64, 72)
