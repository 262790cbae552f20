"""All measures of one registration of known truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from itk_pdd import DisplacementField, RegistrationError, Volume
from itk_pdd.evaluation.scoring import load_case, score
from itk_pdd.io.files import write_image


def test_the_truth_scores_perfectly_and_nothing_scores_worse(scene):
    case = load_case(scene.pair)
    before, after = score(case, DisplacementField.zeros(scene.fixed)), score(case, scene.truth)
    assert sorted(after.labels) == [1, 2]
    assert after.mean("dice") > 0.9 > 0.75 > before.mean("dice")
    assert after.mean("hd95") <= 2.4 < before.mean("hd95")
    assert after.overall["tre_mean"] == pytest.approx(0, abs=1e-5)
    assert before.overall["tre_mean"] == pytest.approx(np.linalg.norm(scene.shift))
    assert after.overall["folding"] == 0 and after.overall["sd_log_j3"] == pytest.approx(0, abs=1e-6)
    assert after.overall["ncc"] > 0.99 > before.overall["ncc"]
    assert after.overall["mi"] > before.overall["mi"]
    assert after.mean("dice", labels=[2]) == after.labels[2]["dice"]
    assert np.isnan(after.mean("dice", labels=[9]))


def test_a_field_on_another_grid_is_brought_to_the_fixed_one(scene):
    case = load_case(scene.pair)
    coarse = scene.fixed.with_spacing(5.0).padded([1] * 3, [1] * 3)
    field = DisplacementField(np.broadcast_to(scene.shift, (*coarse.shape, 3)).astype(np.float32), coarse)
    assert score(case, field).labels == score(case, scene.truth).labels


def test_labels_absent_from_one_image_are_named_not_scored(scene):
    case = load_case(scene.pair)
    only_fixed = np.where(case.fixed_labels.array == 2, 7, case.fixed_labels.array)
    found = score(replace(case, fixed_labels=Volume(only_fixed, scene.fixed)), scene.truth)
    assert sorted(found.labels) == [1]
    assert found.absent == {2: "fixed", 7: "moving"}
    assert score(case, scene.truth, labels=[2, 5]).absent == {5: "fixed and moving"}


def test_a_label_lost_in_warping_counts_as_zero(scene):
    away = DisplacementField(np.full((*scene.fixed.shape, 3), 500.0, np.float32), scene.fixed)
    found = score(load_case(scene.pair), away)
    assert found.labels[1]["dice"] == 0 and np.isnan(found.labels[1]["hd95"])
    assert found.mean("dice") == 0


def test_similarity_is_measured_in_the_mask(scene):
    whole = replace(scene.pair, fixed_mask=None)
    assert (
        score(load_case(whole), scene.truth).overall["ncc"] != score(load_case(scene.pair), scene.truth).overall["ncc"]
    )


def test_pairs_that_do_not_belong_together(scene, scene_2d):
    pair = scene.pair
    with pytest.raises(RegistrationError, match="fixed_labels must lie on the grid"):
        load_case(replace(pair, fixed_labels=pair.moving_labels))
    with pytest.raises(RegistrationError, match="fixed_labels and moving_labels must be given together"):
        load_case(replace(pair, moving_labels=None))
    with pytest.raises(RegistrationError, match="same dimension"):
        load_case(replace(scene_2d.pair, moving=pair.moving, moving_labels=None, fixed_labels=None, moving_mask=None))
    with pytest.raises(RegistrationError, match="there is no file"):
        load_case(replace(pair, moving=scene.folder / "none.nii"))
    short = scene.folder / "short.csv"
    short.write_text("x,y,z\n1,2,3\n")
    with pytest.raises(RegistrationError, match="equally many points"):
        load_case(replace(pair, moving_points=short))


def test_labels_stored_as_floats(scene):
    case = load_case(scene.pair)
    path = scene.folder / "float.nii.gz"
    write_image(Volume(case.fixed_labels.array.astype(np.float32), scene.fixed).to_simpleitk(), path)
    found = load_case(replace(scene.pair, fixed_labels=path))
    assert np.issubdtype(found.fixed_labels.array.dtype, np.integer)
    assert score(found, scene.truth).labels == score(case, scene.truth).labels


def test_two_dimensions(scene_2d):
    found = score(load_case(scene_2d.pair), scene_2d.truth)
    assert found.mean("dice") > 0.9 and found.overall["tre_mean"] < 1e-5
