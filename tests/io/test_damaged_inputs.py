"""A small slice of the fuzz run (``benchmarks/fuzz.py``), and the faults it found in what is read as text."""

from __future__ import annotations

import json

import numpy as np
import pytest
import specimens
from benchmarks.fuzz import run

from itk_pdd.errors import RegistrationError
from itk_pdd.io.points import read_points
from itk_pdd.io.transforms import as_mapping
from itk_pdd.network.card import ModelCard
from itk_pdd.network.semantic import SemanticNetwork


@pytest.mark.slow
def test_damaged_files_end_in_one_sentence_or_a_valid_result() -> None:
    found = run(120, seed=11)
    assert [answer for answer in found if answer["wrong"]] == []
    outcomes = {answer["outcome"] for answer in found}
    assert outcomes == {"error", "result"}, "some are refused, and some damage does no harm"
    assert len({answer["kind"] for answer in found}) > 30


@pytest.mark.parametrize(
    "name, old, new, words",
    [
        ("p.vtk", b"POINTS 5", b"POINTS 99999999999999999999", "does not hold the"),
        ("p.csv", b"x,y,z", b"x,y,z\r,", "is no table|has the columns|coordinates"),
        ("p.fcsv", b"0,0,0,1,1\n", b'0,0,0,1,"1\x00\r\n', ""),
    ],
)
def test_point_files(tmp_path, name: str, old: bytes, new: bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(specimens._points(name).replace(old, new))
    if not words:
        read_points(path)  # odd, but a table
        return
    with pytest.raises(RegistrationError, match=words):
        read_points(path)


def test_numbers_of_elastix_that_are_none(tmp_path) -> None:
    specimens._transform(tmp_path / "elastix.txt")
    text = (tmp_path / "elastix.txt").read_text()
    (tmp_path / "elastix.txt").write_text(text.replace("1.02", "-inf"))
    with pytest.raises(RegistrationError, match="holds numbers that are not finite"):
        as_mapping(tmp_path / "elastix.txt", dimension=3, name="initial_transform")


def test_entries_of_elastix_that_say_nothing_or_nonsense(tmp_path) -> None:
    specimens._transform(tmp_path / "bspline.txt")
    text = (tmp_path / "bspline.txt").read_text()
    point = np.array([1.0, 2.0, 3.0])
    expected = as_mapping(tmp_path / "bspline.txt")(point)
    # The order has a default, the origin has none.
    (tmp_path / "bspline.txt").write_text(text.replace("SplineOrder 3", "SplineOrder "))
    np.testing.assert_array_equal(as_mapping(tmp_path / "bspline.txt")(point), expected)
    (tmp_path / "bspline.txt").write_text(text.replace("GridOrigin -20 -10 -10", "GridOrigin "))
    with pytest.raises(RegistrationError, match=r"has no entry \(GridOrigin"):
        as_mapping(tmp_path / "bspline.txt", dimension=3, name="initial_transform")
    for old, new, words in (
        ("GridSize 5", "GridSize -5", "expected whole numbers from 1 on"),
        ("GridSize 5", "GridSize 9", "has 375 numbers, expected 675"),
        ("SplineOrder 3", "SplineOrder abc", "something other than numbers"),
    ):
        (tmp_path / "bspline.txt").write_text(text.replace(old, new))
        with pytest.raises(RegistrationError, match=words):
            as_mapping(tmp_path / "bspline.txt", dimension=3, name="initial_transform")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"network": {"blocks": 2147483647}}, "blocks and fold are 2147483647 and 1, expected 1 to 32"),
        ({"network": {"widths": [4, 10**9]}}, "widths and classes are"),
        ({"network": {"widths": [4, 60000]}}, "card and weights do not belong together"),
        ({"spacing": 1e-12}, "expected 0.001 to 1000"),
        ({"spacing": "2"}, "must be finite numbers"),
        ({"name": []}, "names must be texts"),
    ],
    ids=str,
)
def test_cards_that_ask_for_too_much(tmp_path, change: dict, words: str) -> None:
    specimens._model(tmp_path)
    card = json.loads((tmp_path / "card.json").read_text())
    for key, value in change.items():
        card[key] = {**card[key], **value} if isinstance(value, dict) else value
    (tmp_path / "card.json").write_text(json.dumps(card))
    with pytest.raises(RegistrationError, match=words):
        SemanticNetwork.from_folder(tmp_path)


@pytest.mark.parametrize("volume", [[], None, 0.0, "1", float("nan")])
def test_volumes_of_classes_are_numbers(tmp_path, volume) -> None:
    specimens._model(tmp_path)
    card = json.loads((tmp_path / "card.json").read_text())
    card["classes"][1]["volume"] = volume
    (tmp_path / "card.json").write_text(json.dumps(card))
    with pytest.raises(RegistrationError, match="volume"):
        ModelCard.from_folder(tmp_path)
