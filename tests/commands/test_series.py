"""A series of phases: fields, the series at rest, and points over time, against a known motion."""

from __future__ import annotations

import csv

import nibabel
import numpy as np
import pytest
import SimpleITK
from click.testing import CliRunner
from conftest import blobs
from itk_pdd.cli.register import main

from itk_pdd.commands.series import register_series
from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid

GRID = Grid.create((30, 28, 26), (2.0, 2.0, 2.0), (-30.0, 10.0, 5.0))
SHIFTS = (0.0, 4.0, 2.0)  # mm along x, of each phase


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """A 4-D image whose phases are one body that moves along x, and points in its first phase."""
    folder = tmp_path_factory.mktemp("series")
    image = blobs(GRID).to_simpleitk()
    phases = [
        SimpleITK.Resample(image, image, SimpleITK.TranslationTransform(3, (-shift, 0, 0)), SimpleITK.sitkLinear)
        for shift in SHIFTS
    ]
    SimpleITK.WriteImage(SimpleITK.JoinSeries(phases, 0.0, 0.5), str(folder / "series.nii.gz"))
    (folder / "points.csv").write_text("x,y,z\n-1,37,30\n3,35,33\n")
    return folder


@pytest.fixture(scope="module")
def done(series):
    words = ["--series", "-o", series / "fields.nii.gz", "--warped", series / "still.nii.gz", "--points",
             series / "points.csv", "--motion", series / "motion.csv"]  # fmt: skip
    found = CliRunner().invoke(main, [str(word) for word in (series / "series.nii.gz", *words)])
    assert found.exit_code == 0, found.output
    return series


def test_fields_of_all_phases_are_one_file(done):
    found = nibabel.load(done / "fields.nii.gz")
    assert found.shape == (*GRID.size, 3, 3) and found.header["intent_code"] == 1007
    read = SimpleITK.ReadImage(str(done / "fields.nii.gz"))
    vectors = SimpleITK.GetArrayFromImage(read)
    middle = (slice(8, -8),) * 3
    for phase, shift in enumerate(SHIFTS):
        assert np.abs(vectors[phase][middle].mean(axis=(0, 1, 2)) - (shift, 0, 0)).max() < 0.5
    assert (vectors[0] == 0).all() and read.GetSpacing()[3] == 0.5


def test_the_series_comes_to_rest(done):
    before, after = (
        SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(done / f"{name}.nii.gz"))) for name in ("series", "still")
    )
    middle = (slice(None), *[slice(6, -6)] * 3)
    assert after.shape == before.shape and after[middle].std(axis=0).mean() < 0.3 * before[middle].std(axis=0).mean()


def test_points_are_followed(done):
    with (done / "motion.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 6 and [row["phase"] for row in rows] == list("001122")
    for row in rows:
        shift = SHIFTS[int(row["phase"])]
        assert float(row["distance"]) == pytest.approx(shift, abs=0.7)
        assert float(row["x"]) == pytest.approx((-1, 3)[int(row["point"])] + shift, abs=0.7)


def test_a_file_for_each_phase_smooth_in_time(done, tmp_path):
    fields = register_series(done / "series.nii.gz", output=tmp_path / "f_{}.nii.gz", smooth_time=1.0, reference=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"f_{n}.nii.gz" for n in range(3)]
    middle = (slice(8, -8),) * 3
    means = [float(field.vectors[middle][..., 0].mean()) for field in fields]
    assert means[0] == 0 and means[1] < 0.85 * SHIFTS[1], "drawn to its neighbours in time"


def test_what_makes_no_sense(done, tmp_path):
    def run(*words):
        return CliRunner().invoke(main, [str(word) for word in words])

    series = done / "series.nii.gz"
    assert run(series, "--series").exit_code == 2
    assert run(series, series, "--series", "-o", tmp_path / "f.nii.gz").exit_code == 2
    assert run(series, "--series", "-o", tmp_path / "f.nii.gz", "--initialise", "affine").exit_code == 2
    assert run(series, series, "-o", tmp_path / "f.nii.gz", "--smooth-time", 1).exit_code == 2
    assert run(series, "--series", "-o", tmp_path / "f.nii.gz", "--reference-phase", 3).exit_code == 1
    SimpleITK.WriteImage(blobs(GRID).to_simpleitk(), str(tmp_path / "one.nii.gz"))
    with pytest.raises(RegistrationError, match="expected a 4-D image"):
        register_series(tmp_path / "one.nii.gz", output=tmp_path / "f.nii")
