"""Whether the search reached far enough: who is asked, and where."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK

import itk_pdd
from itk_pdd.io.volume import Volume
from itk_pdd.solver import search
from itk_pdd.solver.capture import edge_share
from itk_pdd.synthesis import make_pair

SHAPE = (1, 40, 60)
REACH, STEP = 12.0, 2.0


def stripes(first: int, last: int) -> np.ndarray:
    """Structure in some columns, nothing elsewhere."""
    image = np.zeros(SHAPE, np.float32)
    image[..., first:last] = np.arange(SHAPE[1])[:, None] % 4
    return image


def outermost(first: int, last: int) -> np.ndarray:
    """A field at the edge of the range in some columns, zero elsewhere."""
    field = np.zeros((*SHAPE, 3), np.float32)
    field[:, :, first:last, 0] = -REACH
    return field


def test_share_of_what_has_structure() -> None:
    image = stripes(10, 50)[None]
    assert edge_share(outermost(0, 0), image, REACH, STEP) == 0
    assert edge_share(outermost(0, 60), image, REACH, STEP) == 1
    assert edge_share(outermost(0, 30), image, REACH, STEP) == pytest.approx(0.5, abs=0.05)
    assert edge_share(0.9 * outermost(0, 60), image, REACH, STEP) == 0, "more than half a step inside"
    assert edge_share(outermost(0, 60), 0 * image, REACH, STEP) == 0, "nothing to see"


def test_all_channels_show_structure() -> None:
    empty, left, right = 0 * stripes(0, 0), stripes(0, 30), stripes(30, 60)
    far = outermost(30, 60)
    assert edge_share(far, np.stack([left, empty]), REACH, STEP) == pytest.approx(0, abs=0.05)
    assert edge_share(far, np.stack([empty, right]), REACH, STEP) == pytest.approx(1, abs=0.05)
    assert edge_share(far, np.stack([left, right]), REACH, STEP) == pytest.approx(0.5, abs=0.05)
    assert edge_share(far, np.stack([right, -right]), REACH, STEP) == pytest.approx(1, abs=0.05), (
        "opposite contrasts do not cancel"
    )
    assert edge_share(far, np.stack([left, 0.01 * right]), REACH, STEP) < 0.05, "a channel of little weight"


def test_only_the_mask_counts() -> None:
    image = (stripes(0, 30) + 10 * stripes(30, 60))[None]
    mask = np.zeros(SHAPE, bool)
    mask[..., :30] = True
    for first, expected in ((30, 0), (0, 1)):
        assert edge_share(outermost(first, 60), image, REACH, STEP, mask=mask) == expected
    assert edge_share(outermost(0, 60), image, REACH, STEP, mask=np.zeros(SHAPE, bool)) == 0


def test_the_search_tells_of_all_channels_and_the_fixed_mask(monkeypatch) -> None:
    told = []
    monkeypatch.setattr(search, "edge_share", lambda *given, mask: told.append((*given, mask)) or 0.0)
    made = make_pair((120, 130), 2.0, seed=2)
    pair = made.fixed, made.moving
    mask = np.zeros(pair[0].array.shape, np.uint8)
    mask[:, :60] = 1
    channels = [[volume.to_simpleitk(), SimpleITK.Sqrt(volume.to_simpleitk() + 2000.0)] for volume in pair]
    itk_pdd.register(*channels, channel_weights=(1, 0.5), fixed_mask=Volume(mask, pair[0].grid).to_simpleitk())
    ((field, contrasts, reach, step, inside),) = told
    assert field.shape == (*inside.shape, 3) and contrasts.shape == (2, *inside.shape)
    assert contrasts[1].std() / contrasts[0].std() == pytest.approx(0.5, rel=0.1), "scaled alike, and weighted"
    assert inside.mean() == pytest.approx(mask.mean(), abs=0.05) and inside[:, :, 0].all()
    assert (reach, step) == (28, 4)
