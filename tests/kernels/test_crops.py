"""Crops, intensities and class shares of the compiled kernels against torch's own operations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from itk_pdd.kernels.crops import cpu
from itk_pdd.training.augmentation import IGNORED


def test_a_crop_is_what_grid_sample_finds():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(9, 11, 13)).astype(np.float32)
    labels = rng.integers(0, 5, image.shape, dtype=np.uint8)
    shape, step, begin = (12, 10, 14), (4.0, 3.0, 13.0), (1.0, 0.0, 0.0)
    coarse = (5, 4, 2)
    places = (rng.uniform(-4, 1, (*coarse, 3)) + np.array([6, 5, 4]) * rng.uniform(0, 3, (*coarse, 3))).astype("f")
    found, classes = cpu.crop(image, labels, places, shape, step=step, begin=begin, ignored=IGNORED)
    # Linear interpolation of the places, along one axis after the other.
    fine = places.astype(float)
    for axis in range(3):
        at = (np.arange(shape[axis]) + begin[axis]) / step[axis]
        low = np.minimum(at.astype(int), coarse[axis] - 2)
        share = (at - low).reshape([-1 if a == axis else 1 for a in range(4)])
        fine = np.take(fine, low, axis) * (1 - share) + np.take(fine, low + 1, axis) * share
    grid = torch.from_numpy(fine / (np.array(image.shape[::-1]) - 1) * 2 - 1)[None]
    options = {"align_corners": True}
    expected = functional.grid_sample(
        torch.from_numpy(image)[None, None].double(), grid, padding_mode="border", **options
    )
    np.testing.assert_allclose(found, expected[0, 0].numpy(), atol=1e-4)
    nearest = functional.grid_sample(
        torch.from_numpy(labels)[None, None].double() + 1, grid, mode="nearest", padding_mode="zeros", **options
    )[0, 0].numpy()
    wanted = np.where(nearest == 0, IGNORED, nearest - 1)
    assert (classes == wanted).mean() > 0.999 and 0.01 < (classes == IGNORED).mean() < 0.95


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_class_shares_are_counts(fold):
    rng = np.random.default_rng(1)
    labels = rng.choice(np.array([0, 1, 2, IGNORED], np.uint8), (2 * fold, 3 * fold, 4 * fold))
    found = cpu.class_shares(labels, 3, fold)
    for z, y, x in np.ndindex(2, 3, 4):
        block = labels[z * fold :, y * fold :, x * fold :][:fold, :fold, :fold]
        np.testing.assert_allclose(found[:, z, y, x], [(block == k).mean() for k in range(3)], atol=1e-6)


def test_intensities_are_looked_up():
    values = np.random.default_rng(2).uniform(-1, 1, (3, 4, 5)).astype(np.float32)
    found = cpu.recoloured(values, np.linspace(2, 4, 100, dtype=np.float32), -1.0, 1.0)
    np.testing.assert_allclose(found, values + 3, atol=1e-5)
    turned = values.transpose(2, 0, 1)
    found = cpu.recoloured(turned, np.linspace(2, 4, 100, dtype=np.float32), -1.0, 1.0)
    np.testing.assert_allclose(found, turned + 3, atol=1e-5)
    assert cpu.recoloured(np.float32([[[-5, 5]]]), np.float32([1, 2]), -1.0, 1.0).tolist() == [[[1.0, 2.0]]]
