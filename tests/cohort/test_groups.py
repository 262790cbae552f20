"""Templates and segmentation by atlases, on small synthetic slices whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from click.testing import CliRunner
from itk_pdd.cli.segment import main as segment
from itk_pdd.cli.template import main as template

from itk_pdd.cohort.averaging import common_grid, robust_mean, sharpness
from itk_pdd.cohort.fusion import fuse, majority
from itk_pdd.cohort.segment import read_atlases
from itk_pdd.cohort.template import read_scans
from itk_pdd.errors import RegistrationError
from itk_pdd.evaluation.metrics import dice
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.files import write_image
from itk_pdd.io.volume import Volume
from itk_pdd.synthesis import make_pair, random_deformation

pytest.importorskip("distributed")
COUNT = 4


@pytest.fixture(scope="module")
def group(tmp_path_factory) -> Path:
    """One anatomy in several shapes, with labels, and a list of them."""
    folder = tmp_path_factory.mktemp("group")
    rows = ["image,labels,name"]
    for seed in range(COUNT + 1):
        deformation = random_deformation(Grid.create((56, 48), 2.0), seed=seed, magnitude=6.0)
        made = make_pair((56, 48), 2.0, seed=1, kind="shapes", deformation=deformation)
        write_image(made.moving.to_simpleitk(), folder / f"s{seed}.nii.gz")
        write_image(made.moving_labels.to_simpleitk(), folder / f"l{seed}.nii.gz")
        rows += [f"s{seed}.nii.gz,l{seed}.nii.gz,scan{seed}"] * (seed < COUNT)
    (folder / "scans.csv").write_text("\n".join(rows) + "\n")
    (folder / "three.csv").write_text("\n".join(rows[:4]) + "\n")
    return folder


def read(path: Path) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def run(command, *words):
    found = CliRunner().invoke(command, [str(word) for word in words])
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found


@pytest.mark.slow
def test_a_template(group, tmp_path):
    out = tmp_path / "template"
    words = (group / "three.csv", "-o", out, "--iterations", 1, "--workers", 2, "--threads", 1)
    found = run(template, *words)
    assert found.exit_code == 0, found.output
    lines = (out / "sharpness.csv").read_text().splitlines()
    figures = {line.split(",")[0]: float(line.split(",")[1]) for line in lines[1:]}
    assert list(figures) == ["centres", "affine1", "affine2", "round1"]
    assert figures["round1"] > figures["affine2"], "sharper than the affine mean"
    assert (out / "rounds" / "round1" / "template.jpg").stat().st_size > 1000
    # The mean of the deformations to all scans is close to none: the template has the mean shape.
    fields = [read(out / "scans" / f"scan{n}" / "from_template.nii.gz")[14:-14, 14:-14] for n in range(3)]
    assert np.abs(np.mean(fields, axis=0)).mean() < 0.35 * np.abs(fields).mean()
    # Jacobians: a mean of no change of volume, and some spread.
    assert abs(read(out / "jacobian_mean.nii.gz").mean()) < 0.15 and read(out / "jacobian_sd.nii.gz").mean() > 0.01
    labels = read(out / "template_labels.nii.gz")
    overlaps = [dice(labels, read(out / "scans" / f"scan{n}" / "labels.nii.gz")) for n in range(3)]
    assert np.mean([list(each.values()) for each in overlaps]) > 0.8
    before = (out / "template.nii.gz").read_bytes()
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*/field.nii.gz")}
    assert run(template, *words[:-4], "-q", "--scheduler", "tcp://127.0.0.1:9").exit_code == 0, "nothing to do again"
    assert (out / "template.nii.gz").read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*/field.nii.gz")} == times


def test_segmentation(group, tmp_path):
    image, out = group / f"s{COUNT}.nii.gz", tmp_path / "labels.nii.gz"
    names = {name: tmp_path / f"{name}.nii.gz" for name in ("probabilities", "entropy")}
    more = [word for name, path in names.items() for word in (f"--{name}", path)]
    found = run(segment, image, "--atlases", group / "scans.csv", "-o", out, *more, "--count", 3, "--workers", 2)
    assert found.exit_code == 0 and "of 3 atlases" in found.output and "are more similar" in found.output, found.output
    truth, labels = read(group / f"l{COUNT}.nii.gz"), read(out)
    assert np.mean(list(dice(truth, labels).values())) > 0.8
    probabilities, entropy = read(names["probabilities"]), read(names["entropy"])
    assert np.allclose(probabilities.sum(axis=-1), 1, atol=1e-5)
    values = np.unique([0, *(v for n in range(COUNT) for v in np.unique(read(group / f"l{n}.nii.gz")))])
    assert (values[probabilities.argmax(axis=-1)] == labels).mean() > 0.999
    wrong = labels != truth
    assert entropy[wrong].mean() > 2 * entropy[~wrong].mean(), "it is larger where the labels are wrong"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".segmenting")]


def test_the_atlas_that_looks_like_the_image_counts_more():
    truth = np.zeros((24, 24), np.uint8)
    truth[6:18, 6:18] = 1
    rng = np.random.default_rng(0)
    image = 100.0 * truth + rng.normal(0, 5, truth.shape)
    wrong = np.roll(truth, 4, axis=0)
    images = [100.0 * labels + rng.normal(0, 5, truth.shape) for labels in (truth, wrong, wrong)]
    fused = fuse(image, images, [truth, wrong, wrong])
    voted = majority([truth, wrong, wrong])
    assert dice(truth, fused.labels)[1] > 0.95 > 0.8 > dice(truth, voted.labels)[1]
    assert fused.values == (0, 1) and np.allclose(fused.probabilities.sum(axis=0), 1, atol=1e-5)
    sure = fuse(image, images[:1], [truth])
    assert sure.entropy.max() < 1e-6, "one atlas without uncertainty"
    blurred = fuse(image, images[:1], [truth], [np.full(truth.shape, 3.0)])
    assert blurred.probabilities[1][12, 12] > 0.95 and 0.2 < blurred.probabilities[1][6, 12] < 0.8


def test_averages():
    grid = Grid.create((20, 18), 1.0)
    x = np.broadcast_to(np.sin(np.arange(20) / 2), grid.shape)
    sharp, dull = Volume(x.astype(np.float32), grid), Volume((0.5 * x + 3).astype(np.float32), grid)
    assert sharpness(sharp) == pytest.approx(sharpness(dull), rel=1e-4), "contrast does not count"
    flipped = Grid.create((20, 18), (1.0, 2.0), 0.0, np.diag([-1.0, 1.0]))
    assert common_grid([flipped, flipped]).direction == ((1.0, 0.0), (0.0, 1.0))
    assert np.allclose(common_grid([flipped]).centre, flipped.centre)


def test_a_robust_mean_leaves_outliers_out(tmp_path):
    grid = Grid.create((20, 18), 1.0)
    rng = np.random.default_rng(0)
    base = rng.normal(size=grid.shape).astype(np.float32)
    paths = []
    for number in range(6):
        array = base.copy()
        if number == 0:
            array[5:8, 5:8] = 40
        paths.append(tmp_path / f"{number}.nii")
        write_image(Volume(array, grid).to_simpleitk(), paths[-1])
    still = DisplacementField.zeros(grid)
    mean = robust_mean(paths, [still] * 6, grid, tmp_path).array
    assert np.abs(mean[5:8, 5:8] - mean.mean()).max() < 3 * mean.std()
    assert np.corrcoef(mean.ravel(), base.ravel())[0, 1] > 0.99


def test_lists(tmp_path, group):
    assert [scan.name for scan in read_scans(str(group / "s*.nii.gz"))] == [f"s{n}" for n in range(COUNT + 1)]
    with pytest.raises(RegistrationError, match="expected at least 2"):
        read_scans(str(group / "s0.nii.gz"))
    path = tmp_path / "atlases.csv"
    path.write_text("image,labels\na.nii,\n")
    with pytest.raises(RegistrationError, match="line 2: image and labels"):
        read_atlases(path)
    assert run(segment, group / "s0.nii.gz", "--atlases", path, "-o", tmp_path / "l.nii.gz").exit_code == 1
