"""The verdict of a registration: known successes and failures, known faults of a field."""

from __future__ import annotations

import numpy as np
import pytest

from itk_pdd import DisplacementField, Volume
from itk_pdd.evaluation import signs, verdict
from itk_pdd.evaluation.verdict import FAILED, GOOD, LOOK, judge
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.mapping import AffineMapping
from itk_pdd.synthesis import make_pair


@pytest.fixture(scope="module")
def pair():
    return make_pair((56, 52, 48), 3.0, seed=4, kind="abdomen", displacement=20)


def judged(pair, field=None, moving=None, **options) -> verdict.Verdict:
    return judge((pair.fixed,), (moving or pair.moving,), field or pair.truth, **options)


def noise(volume: Volume) -> Volume:
    return Volume(np.random.default_rng(0).normal(size=volume.grid.shape).astype(np.float32), volume.grid)


def test_the_truth_is_good_and_noise_is_not(pair) -> None:
    good = judged(pair)
    assert good.word == GOOD and not good.failed and good.figures["risk"] < 0.1
    assert good.figures["likeness"] > 0.8 > good.figures["start"]
    bad = judged(pair, moving=noise(pair.moving))
    assert bad.word == FAILED and bad.failed and "hardly match" in bad.reasons[0]
    assert str(bad).startswith("Verdict: probably failed. The images hardly match")


def test_another_contrast_is_no_failure(pair) -> None:
    for other in (-pair.moving.array, np.square(pair.moving.array - float(np.median(pair.moving.array)))):
        assert judged(pair, moving=Volume(other.astype(np.float32), pair.moving.grid)).word != FAILED


def test_scale_and_offset_of_intensities_do_not_matter(pair) -> None:
    other = Volume((5e3 + 40 * pair.moving.array).astype(np.float32), pair.moving.grid)
    assert judged(pair, moving=other).figures == pytest.approx(judged(pair).figures, rel=1e-2, abs=1e-3)


def test_turning_both_images_changes_nothing(pair) -> None:
    """An initial transform that is a rotation is no strain, no fold and no change of volume."""
    grid, turn = pair.fixed.grid, np.eye(4)
    turn[:2, :2] = [[0, -1], [1, 0]]
    field = DisplacementField.from_function(AffineMapping(turn), grid)
    found = signs.field_signs(field)
    assert found == pytest.approx(dict.fromkeys(found, 0.0), abs=1e-4)


def test_a_mirror_image_does_not_fold(pair) -> None:
    mirror = np.diag([-1.0, 1, 1, 1])
    assert signs.field_signs(DisplacementField.from_function(AffineMapping(mirror), pair.fixed.grid))["folded"] == 0


def test_known_folds_and_volume_changes() -> None:
    grid = Grid.create((40, 40, 40), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    vectors = np.zeros((40, 40, 40, 3), np.float32)
    vectors[..., :20, 0] = -1.5 * np.arange(20)  # x is turned round in half of the image: x - 1.5 x
    found = signs.field_signs(DisplacementField(vectors, grid))
    assert found["folded"] == pytest.approx(0.5, abs=0.05)
    vectors = np.zeros((40, 40, 40, 3), np.float32)
    vectors[..., :12, 0] = -0.9 * np.arange(12)
    assert signs.field_signs(DisplacementField(vectors, grid))["extreme"] == pytest.approx(0.3, abs=0.05)


def test_the_mask_says_where_to_look(pair) -> None:
    half = np.zeros(pair.fixed.grid.shape, bool)
    half[:, :, : half.shape[2] // 2] = True
    spoiled = np.where(half, pair.fixed.array, noise(pair.fixed).array).astype(np.float32)
    fixed = Volume(spoiled, pair.fixed.grid)
    whole = judge((fixed,), (pair.moving,), pair.truth)
    inside = judge((fixed,), (pair.moving,), pair.truth, fixed_mask=Volume(half, pair.fixed.grid))
    assert inside.word == GOOD and inside.figures["likeness"] > whole.figures["likeness"] + 0.1


def test_a_channel_of_no_weight_does_not_count(pair) -> None:
    channels = (pair.fixed, noise(pair.fixed)), (pair.moving, noise(pair.moving))
    alone = judged(pair).figures
    assert judge(*channels, pair.truth, weights=(1, 0)).figures == pytest.approx(alone)
    assert judge(*channels, pair.truth, weights=(1, 1)).figures["likeness"] < alone["likeness"] - 0.1


@pytest.mark.parametrize(("edge", "word"), [(0.02, GOOD), (0.3, LOOK)])
def test_the_edge_of_the_search(pair, edge, word) -> None:
    found = judged(pair, edge=edge)
    assert found.word == word
    assert (word == LOOK) == any("start closer" in reason for reason in found.reasons)


def test_what_left_the_image_is_told(pair) -> None:
    away = DisplacementField(pair.truth.vectors + np.float32(120), pair.fixed.grid)
    found = judged(pair, away)
    assert found.word == FAILED and any("no counterpart" in reason for reason in found.reasons)


def test_a_doubt_of_the_model_is_a_reason_to_look(pair) -> None:
    found = judged(pair, doubts=["model x is not made for these images"])
    assert found.word == LOOK and found.reasons == ("model x is not made for these images",)


def test_it_is_the_same_each_time_and_fits_into_json(pair) -> None:
    first, second = judged(pair), judged(pair)
    assert first == second and first.to_dict()["word"] == "good"
    assert all(type(value) is float for value in first.to_dict()["figures"].values())


def test_two_dimensions() -> None:
    flat = make_pair((120, 110), 2.0, seed=5, kind="abdomen", displacement=20)
    assert judged(flat).word == GOOD
    assert judged(flat, moving=noise(flat.moving)).word == FAILED


def test_doubts_of_a_model_are_one_sign(pair) -> None:
    doubts = [
        "model x is not made for these images: fixed is small",
        "model x is not made for these images: it is dark",
    ]
    found = [sign for sign in judged(pair, doubts=doubts).signs if sign.name == "Model"]
    assert [sign.found for sign in found] == ["model x is not made for these images: fixed is small; it is dark"]


def test_tissue_is_compared_at_the_scale_of_its_structures() -> None:
    """Neighbouring sections share structures, but not their cells: a large image is full of unlike cells."""
    flat = make_pair((640, 600), 1.0, seed=6, kind="abdomen", displacement=20)
    random = np.random.default_rng(0)
    cells = [random.normal(0, float(v.array.std()), v.grid.shape) for v in (flat.fixed, flat.moving)]
    images = [
        Volume((v.array + c).astype(np.float32), v.grid) for v, c in zip((flat.fixed, flat.moving), cells, strict=True)
    ]
    found = judge((images[0],), (images[1],), flat.truth)
    assert found.figures["likeness"] > 0.3 and found.word != FAILED


@pytest.mark.parametrize(("name", "worse"), [("chance", 0.6), ("best", 0.9), ("chance_start", 0.3), ("outside", 0.6)])
def test_what_makes_a_pair_that_was_registered_again_less_certain(name, worse) -> None:
    figures = {
        "likeness": 0.6, "start": 0.3, "unlike": 0.1, "outside": 0.0,
        "again": 0.6, "chance": 0.2, "chance_start": 0.1, "best": 0.6,
    }  # fmt: skip
    assert verdict.risk(figures) < verdict.risk({**figures, name: worse})
    assert verdict.risk(figures) < verdict.risk({**figures, "likeness": 0.4})  # the default model is better


def test_a_model_that_the_default_beats_has_failed(pair) -> None:
    doubt = "model x is not made for these images"
    for again, word in ((0.5, LOOK), (0.9, FAILED)):
        sign = verdict.model_sign({"short": max(again - 0.5, 0.0), "again": again}, doubt)
        assert sign.word == word and sign.found.startswith(doubt)
        assert ("the default model matches them better (0.90)" in sign.found) == (word == FAILED)
