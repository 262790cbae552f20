"""Scans on the working grid."""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest
import torch
from conftest import GEOMETRIES

from itk_pdd.errors import RegistrationError, RegistrationWarning
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.files import write_image
from itk_pdd.io.volume import Volume
from itk_pdd.network.preparation import Intensity, canonical_volume, prepare_labels
from itk_pdd.training.cases import LabelledScan
from itk_pdd.training.dataset import load_samples, survey
from training.conftest import GRID, balls, write_scan

RANGE = Intensity("range", 0.0, 100.0)


def load(scans, **options):
    return load_samples(scans, spacing=2.0, intensity=RANGE, values=(0, 1, 2), **options)


def test_voxels_of_the_working_grid_are_kept_as_they_are(scans):
    sample = load(scans[:1])[0]
    image, labels = balls(GRID, 0)
    assert np.array_equal(sample.labels.numpy(), labels.array)
    expected = np.clip(image.array / 50 - 1, -1, 1)
    assert np.abs(sample.image.numpy() - expected).max() < 1e-3


@pytest.mark.parametrize("name", ["oblique", "left-handed", "flipped and permuted", "anisotropic"])
def test_canonical_voxels_stay_where_they_are(name):
    grid = GEOMETRIES[name]
    array = np.arange(grid.voxels, dtype=np.float32).reshape(grid.shape)
    canonical = canonical_volume(Volume(array, grid))
    # Every voxel is found again at its physical place.
    index = np.rint(grid.to_index(canonical.grid.points())).astype(int)
    assert np.array_equal(canonical.array, array[index[..., 2], index[..., 1], index[..., 0]])
    assert all(np.asarray(canonical.grid.direction)[i, i] > 0.5 for i in range(3))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.5, 1.5, 4.0)])
def test_the_same_anatomy_on_other_grids_gives_the_same_labels(spacing):
    flip = np.diag([1.0, -1.0, 1.0])
    size = np.ceil(GRID.extent / spacing).astype(int)
    start = GRID.to_physical([0, 0, 0]) + np.array([0, (size[1] - 1) * spacing[1], 0])
    _, there = balls(Grid.create(size, spacing, start, flip), 3)
    found = prepare_labels(there, 2.0, (0, 1, 2))
    _, expected = balls(found.grid, 3)
    for value in (1, 2):
        a, b = found.array == value, expected.array == value
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.9


def test_labels_on_another_grid_are_refused(tmp_path):
    image, _ = balls(GRID, 0)
    _, labels = balls(Grid.create(GRID.size, GRID.spacing, (0, 0, 1.0)), 0)
    scan = write_scan(tmp_path, "moved", image, labels)
    with pytest.raises(RegistrationError, match="labels of image_moved lie on another grid than the image"):
        load([scan])


def test_a_scan_that_lacks_a_class_is_named(tmp_path, scans):
    scan = write_scan(tmp_path, "one", *balls(GRID, 0, right=False))
    with pytest.warns(RegistrationWarning, match="labels of image_one lack the class 2"):
        load([scan])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(scans[:1])


def test_survey(scans, tmp_path):
    found = survey(scans[:2])
    volumes = [float((balls(GRID, n)[1].array == 1).sum()) * 8 for n in range(2)]
    assert found.volumes[1] == pytest.approx(np.mean(volumes)) and found.spacing == pytest.approx(2.0)
    assert found.extent == pytest.approx((48.0, 40.0, 32.0))
    image, labels = balls(GRID, 0)
    empty = write_scan(tmp_path, "empty", image, Volume(np.zeros_like(labels.array), GRID))
    with pytest.raises(RegistrationError, match="labels of all scans are empty"):
        survey([empty])


def test_the_cache_is_used_and_follows_the_files(tmp_path):
    scan = write_scan(tmp_path, "a", *balls(GRID, 0))
    cache = tmp_path / "cache"
    first = load([scan], cache=cache)[0]
    (kept,) = cache.iterdir()
    time = kept.stat().st_mtime_ns
    again = load([scan], cache=cache)[0]
    assert torch.equal(first.image, again.image) and kept.stat().st_mtime_ns == time
    kept.write_bytes(kept.read_bytes()[:1000])
    assert torch.equal(load([scan], cache=cache)[0].labels, first.labels)
    # Another image in the same file is not mistaken for the old one.
    write_image(balls(GRID, 7)[0].to_simpleitk(), scan.image)
    os.utime(scan.image, ns=(1, 1))
    assert not torch.equal(load([scan], cache=cache)[0].image, first.image)


def test_two_dimensional_scans_are_refused(tmp_path):
    grid = Grid.create((20, 16), 1.0)
    image = Volume(np.random.default_rng(0).normal(size=grid.shape).astype(np.float32), grid)
    scan = write_scan(tmp_path, "flat", image, Volume((image.array > 0).astype(np.uint8), grid))
    with pytest.raises(RegistrationError, match="image of image_flat is 2-D, expected a 3-D scan"):
        load([LabelledScan(scan.image, scan.labels)])


def test_percentiles_do_not_depend_on_the_units():
    array = np.random.default_rng(0).gamma(2.0, size=(20, 20, 20))
    found = [Intensity("percentiles", 1, 99).normalise(array * unit) for unit in (1.0, 1.7e6)]
    assert np.abs(found[0] - found[1]).max() < 1e-5
    assert found[0].min() == -1 and found[0].max() == 1
    with pytest.raises(RegistrationError, match="expected low below high"):
        Intensity("range", 5.0, 5.0)
