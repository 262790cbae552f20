"""What no label names: body, outline, bones; on images whose overlap is known."""

from __future__ import annotations

import numpy as np
import pytest

from itk_pdd.evaluation.whole_image import body_of, whole_image


def scan(shift: int) -> np.ndarray:
    """A body of 20 x 20 x 10 voxels of 40 HU with texture, a bone of 4 x 4 x 10, air around; moved along x."""
    image = np.full((10, 40, 40), -1000.0, np.float32)
    texture = np.random.default_rng(0).normal(40, 10, (10, 20, 20))
    image[:, 10:30, 10 + shift : 30 + shift] = texture
    image[:, 18:22, 12 + shift : 16 + shift] = 700
    return image


def test_the_body_is_the_largest_part() -> None:
    image = scan(0)
    image[:, 2:5, 2:5] = 300  # a table
    body = body_of(image)
    # Single voxels at its edges are left out.
    assert body.sum() == pytest.approx(20 * 20 * 10, rel=0.05) and not body[:, :8].any()
    assert not body[image < 0].any()


def test_known_overlaps() -> None:
    labels = np.zeros((10, 40, 40), np.uint8)
    same = whole_image(scan(0), scan(0), labels, labels)
    assert same == pytest.approx({"outline": 1, "body": 1, "unlabelled": 1, "bones": 1})
    moved = whole_image(scan(0), scan(2), labels, labels)
    assert moved["outline"] == pytest.approx(18 / 20, abs=0.01) and moved["bones"] == pytest.approx(2 / 4)
    assert moved["body"] < 0.5


def test_labels_are_left_out() -> None:
    labels = np.zeros((10, 40, 40), np.uint8)
    labels[:, 18:22, 12:20] = 1  # the bone of both
    found = whole_image(scan(0), scan(2), labels, labels)
    assert np.isnan(found["bones"]), "nothing bright is left"
    everything = np.ones_like(labels)
    assert np.isnan(whole_image(scan(0), scan(2), everything, everything)["unlabelled"])


def test_bones_in_ct_alone_and_labels_of_both() -> None:
    labels = np.zeros((10, 40, 40), np.uint8)
    assert "bones" not in whole_image(scan(0) + 1000, scan(0) + 1000, labels, labels)
    assert set(whole_image(scan(0), scan(0), None, None)) == {"outline", "body"}
    assert set(whole_image(np.zeros((5, 5)), np.zeros((5, 5)), None, None)) == {"outline", "body"}
