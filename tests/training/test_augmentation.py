"""Random crops: what is in the image is where the labels say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from itk_pdd.training.augmentation import IGNORED, Augmentation, random_crop, soft_targets

STILL = {"rotation": 0.0, "scale": 0.0, "shear": 0.0, "elastic": 0.0, "intensity": 0.0}


def scan(seed=0, size=(40, 36, 44)):
    """Smooth blobs as classes, and an image that shows each class by its number."""
    noise = torch.from_numpy(np.random.default_rng(seed).normal(size=size).astype(np.float32))
    smooth = torch.nn.functional.avg_pool3d(noise[None, None], 9, 1, 4)[0, 0]
    labels = (smooth > 0.02).to(torch.uint8) + (smooth > 0.05).to(torch.uint8)
    return labels.float() / 2, labels


def crop(image, labels, seed=0, fold=1, classes=3, **options):
    augmentation = Augmentation(**{"shape": (16, 24, 20), **options})
    return random_crop(image, labels, classes, fold=fold, augmentation=augmentation, rng=np.random.default_rng(seed))


def test_without_augmentation_a_crop_is_a_part_of_the_scan():
    labels = torch.zeros((40, 36, 44), dtype=torch.uint8)
    labels[20, 18, 22] = 1
    image = torch.from_numpy(np.random.default_rng(0).normal(size=labels.shape).astype(np.float32))
    found = crop(image, labels, shape=(16, 24, 20), foreground=1.0, classes=2, **STILL)
    # Nearest labels and linear image of the same points: the one voxel stays within half a voxel.
    assert found.image.shape == found.labels.shape == (16, 24, 20)
    assert int((found.labels == 1).sum()) == 1


def test_image_and_labels_move_together():
    image, labels = scan()
    for seed in range(4):
        found = crop(image, labels, seed, intensity=0.0, elastic=0.1)
        inside = found.labels != IGNORED
        sure = inside & ((found.image * 2 - (found.image * 2).round()).abs() < 0.02)
        assert sure.float().mean() > 0.2
        agree = (found.image * 2).round()[sure] == found.labels[sure]
        assert agree.float().mean() > 0.99


def test_left_stays_left():
    """No crop is mirrored: the image's values grow along x and go on doing so, whatever the draw."""
    size = (32, 32, 32)
    image = torch.arange(32).float().expand(size) / 32
    labels = (image > 0.5).to(torch.uint8)
    for seed in range(6):
        found = crop(image, labels, seed, classes=2, shape=(16, 16, 16), intensity=0.0)
        assert float((found.image[:, :, 12] - found.image[:, :, 4]).mean()) > 0


def test_beyond_the_field_of_view_is_ignored():
    image, labels = scan(size=(10, 12, 14))
    found = crop(image, labels, **STILL)
    known = found.labels != IGNORED
    # The crop is centred on the scan, up to half a voxel.
    assert 9 * 11 * 13 <= int(known.sum()) <= 10 * 12 * 14
    target = soft_targets(found.labels[None], 3, fold=1)
    assert torch.equal(target.sum(1)[0], known.float())


def test_crops_around_every_class():
    labels = torch.zeros((64, 64, 64), dtype=torch.uint8)
    labels[4:8, 4:8, 4:8], labels[50:60, 50:60, 50:60] = 1, 2
    seen = [crop(labels.float(), labels, seed, foreground=1.0, **STILL).labels for seed in range(100, 160)]
    shares = [np.mean([bool((s == value).any()) for s in seen]) for value in (1, 2)]
    assert min(shares) > 0.3 and sum(shares) > 0.95


def test_the_generator_determines_the_crop():
    image, labels = scan()
    a, b, c = (crop(image, labels, seed) for seed in (5, 5, 6))
    assert torch.equal(a.image, b.image) and torch.equal(a.labels, b.labels)
    assert not torch.equal(a.image, c.image)


def test_soft_targets_are_shares_of_blocks():
    labels = torch.zeros((1, 4, 4, 4), dtype=torch.uint8)
    labels[0, :2, :2, :2] = 2
    labels[0, 0, 0, 2] = 1
    labels[0, 2:, 2:, 2:] = IGNORED
    labels[0, 2, 2, 2] = 1
    target = soft_targets(labels, 3, fold=2)
    assert target.shape == (1, 3, 2, 2, 2)
    assert target[0, :, 0, 0, 0].tolist() == [0, 0, 1]
    assert target[0, :, 0, 0, 1].tolist() == [0.875, 0.125, 0]
    assert target[0, :, 1, 1, 1].tolist() == [0, 0.125, 0]


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_intensities_vary_as_much_as_asked(strength):
    image, labels = scan()
    options = {name: value for name, value in STILL.items() if name != "intensity"}
    reference = crop(image, labels, 1, intensity=0.0, **options).image
    found = crop(image, labels, 1, intensity=strength, **options).image
    assert torch.equal(found, reference) == (strength == 0)
    # Contrast changes, the anatomy does not.
    assert np.corrcoef(found.flatten(), reference.flatten())[0, 1] > 0.7
