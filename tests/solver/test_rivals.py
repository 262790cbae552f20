"""Registrations of the same pair from other starts: what chance gives, and which start is right."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace

import numpy as np
import pytest

from itk_pdd import Volume, models
from itk_pdd.evaluation.verdict import DOUBT, FAILED, Rivals, judge, risk
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.mapping import AffineMapping
from itk_pdd.solver.problem import Problem
from itk_pdd.solver.rivals import rivals
from itk_pdd.synthesis import make_pair


@pytest.fixture(scope="module")
def pair():
    return make_pair((96, 88), 2.0, seed=5, kind="abdomen", displacement=12)


@pytest.fixture(scope="module")
def found(pair) -> Rivals:
    return rivals(Problem((pair.fixed,), (pair.moving,)), models.DEFAULT)


def half_turn(grid: Grid) -> AffineMapping:
    """Turn a 2-D grid by 180 degrees about its centre."""
    matrix = np.diag([-1.0, -1.0, 1.0])
    matrix[:2, 2] = 2 * np.asarray(grid.centre)
    return AffineMapping(matrix)


def test_the_right_start_is_better_than_chance(found) -> None:
    assert found.again > found.chance + 0.2 and found.start > found.chance_start + 0.05
    assert found.again > found.best and found.figures(0.9)["behind"] == 0


def test_a_wrong_start_is_no_better_and_the_right_one_is_named(pair) -> None:
    turned = rivals(Problem((pair.fixed,), (pair.moving,), half_turn(pair.fixed.grid)), models.DEFAULT)
    assert turned.again < turned.chance + 0.1
    assert turned.best > turned.again + 0.2 and any(way in turned.way for way in ("180 degrees", "centres"))


def test_noise_matches_by_chance_alone(pair) -> None:
    noise = Volume(np.random.default_rng(0).normal(size=pair.moving.grid.shape).astype(np.float32), pair.moving.grid)
    blind = rivals(Problem((pair.fixed,), (noise,)), models.DEFAULT)
    assert blind.again == pytest.approx(blind.chance, abs=0.05) and blind.best == pytest.approx(blind.again, abs=0.1)


def test_it_says_nothing_and_is_the_same_each_time(pair, found, caplog) -> None:
    caplog.set_level(logging.INFO, logger="itk_pdd")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rivals(Problem((pair.fixed,), (pair.moving,)), models.DEFAULT) == found
    assert caplog.records == []


def test_masks_and_channels(pair) -> None:
    mask = Volume(np.ones(pair.fixed.grid.shape, bool), pair.fixed.grid)
    problem = Problem((pair.fixed,) * 2, (pair.moving,) * 2, None, mask, replace(mask, grid=pair.moving.grid))
    doubled = rivals(problem, models.DEFAULT)
    assert doubled.again > doubled.chance + 0.2


def test_in_three_dimensions_the_axes_have_names() -> None:
    made = make_pair((28, 26, 24), 6.0, seed=4, kind="abdomen", displacement=15)
    flipped = made.moving.array[:, :, ::-1]  # x runs to the patient's left
    mirrored = Volume(np.ascontiguousarray(flipped), made.moving.grid)
    found = rivals(Problem((made.fixed,), (mirrored,)), models.DEFAULT)
    assert found.way == "mirrored along the left-right axis" and found.best > found.again


def test_only_a_doubtful_registration_is_tried_again(pair) -> None:
    tried = []

    def again() -> Rivals:
        tried.append(1)
        return Rivals(again=0.3, start=0.05, chance=0.3, chance_start=0.05, best=0.8, way="turned by 180 degrees")

    moving = pair.moving
    good = judge((pair.fixed,), (moving,), pair.truth, rivals=again)
    assert good.figures["risk"] <= DOUBT[0] and not tried and "again" not in good.figures
    # Half of the image is noise: the rest matches.
    spoiled = moving.array.copy()
    spoiled[: len(spoiled) // 2] = np.random.default_rng(0).normal(size=spoiled[: len(spoiled) // 2].shape) * 50
    other = Volume(spoiled.astype(np.float32), moving.grid)
    doubtful = judge((pair.fixed,), (other,), pair.truth)
    assert DOUBT[0] < doubtful.figures["risk"] < DOUBT[1]
    found = judge((pair.fixed,), (other,), pair.truth, rivals=again)
    assert tried == [1] and found.figures["chance"] == 0.3 and found.figures["risk"] == risk(found.figures)
    assert found.word == FAILED
    assert "0.30 by chance" in found.reasons[0] and "turned by 180 degrees they match better (0.80)" in found.reasons[0]
