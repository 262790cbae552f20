"""A trained model refuses images that it is not made for, before it spends minutes on them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from itk_pdd import RegistrationError, RegistrationWarning, models, registration
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.volume import Volume
from itk_pdd.network.card import ModelCard
from itk_pdd.network.purpose import certainty, unlike_training, unsure
from itk_pdd.network.semantic import SemanticNetwork

FOLDER = Path(models.__file__).parent
ABDOMEN, HIPPOCAMPUS = (ModelCard.from_folder(FOLDER / name) for name in ("abdomen-ct", "hippocampus-mr"))


def noise(size: tuple[int, ...], spacing: float, *, low: float = 0.0, high: float = 200.0) -> Volume:
    values = np.random.default_rng(0).uniform(low, high, size[::-1]).astype(np.float32)
    return Volume(values, Grid.create(size, spacing))


def test_shipped_cards_know_the_volume_of_their_scans():
    """From their data: 192 x 160 x 256 voxels of 2 mm, and crops of about 36 x 50 x 36 voxels of 1 mm."""
    assert unlike_training(ABDOMEN, noise((48, 40, 64), 8.0)) is None
    assert unlike_training(HIPPOCAMPUS, noise((36, 50, 36), 1.0)) is None


@pytest.mark.parametrize(
    ("card", "image", "words"),
    [
        (ABDOMEN, noise((36, 50, 36), 1.0), r"covers 64\.8 ml, .* covered 62\.9 litres"),
        (HIPPOCAMPUS, noise((48, 40, 64), 8.0), r"covers 62\.9 litres, .* covered 63\.4 ml"),
        (ABDOMEN, noise((34, 34, 34), 9.0), "voxels of 9 mm"),
        (ABDOMEN, noise((48, 40, 64), 8.0, low=900, high=1300), r"0\.0% of its intensities between -125 and 275"),
    ],
)
def test_the_card_is_enough_for_many_images(card, image, words):
    assert re.search(words, str(unlike_training(card, image)))


def test_certainty_is_that_of_what_wins():
    share = np.asarray([[0.9, 0.05, 0.05], [0.2, 0.7, 0.1], [0.1, 0.0, 0.9], [0.5, 0.3, 0.2]]).T[:, :, None, None]
    assert certainty(share) == pytest.approx(0.8)
    assert certainty(np.asarray([1.0, 0.0]).reshape(2, 1, 1, 1)) == 0


@pytest.mark.parametrize(("sure", "words"), [(0.98, None), (0.6, "60% certain"), (0.0, "shows 0.0% of the volume")])
def test_an_unsure_network_says_so(sure, words):
    grid = Grid.create((30, 50, 40), 1.0)
    share = np.zeros((3, *grid.shape), np.float32)
    share[1, :10, :20, :16], share[2, :10, :20, :16] = sure, (1 - sure if sure else 0)
    share[0] = 1 - share[1:].sum(axis=0)
    problem = unsure(HIPPOCAMPUS, share, grid)
    assert problem is None if words is None else words in problem
    if sure == 0.6:
        assert unsure(replace(HIPPOCAMPUS, purpose={}), share, grid) is None, "its usual certainty is not known"


def test_nothing_is_computed_for_images_of_another_size(monkeypatch):
    """Once, a network for crops of one hippocampus worked for minutes on an abdomen, and the result was "fine"."""
    monkeypatch.setattr(SemanticNetwork, "probabilities", lambda *_: pytest.fail("the network looked at the image"))
    image = noise((48, 40, 64), 8.0)
    with pytest.raises(RegistrationError, match=r"hippocampus-mr is not made for these images: fixed covers.*'auto'"):
        registration.register_volumes(image, image, model="hippocampus-mr", spacing=16.0)


def test_an_image_that_is_not_recognised_is_refused_or_forced():
    image = noise((36, 50, 36), 1.0)
    with pytest.raises(RegistrationError, match=r"not made for these images: fixed .*force=True"):
        registration.register_volumes(image, image, model="hippocampus-mr")
    with pytest.warns(RegistrationWarning, match="not made for these images: fixed"):
        registration.register_volumes(image, image, model="hippocampus-mr", force=True)
