"""Charts: values are where the axis says, and names cannot break the page."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from itk_pdd.report import charts

NASTY = '<script>alert("&")</script>'


def numbers(svg: str, tag: str, attribute: str) -> list[float]:
    return [
        float(element.get(attribute)) for element in ElementTree.fromstring(svg).iter(tag) if element.get(attribute)
    ]


def axis(svg: str, vertical: bool = False):
    """The map from values to pixels, from the names of the ticks."""
    at = "y" if vertical else "x"
    anchor = "end" if vertical else "middle"
    ticks = [
        (float(e.text), float(e.get(at)) - (4 if vertical else 0))
        for e in ElementTree.fromstring(svg).iter("text")
        if e.get("class") == "soft" and e.get("text-anchor") == anchor
    ]
    values, pixels = zip(*ticks, strict=True)
    return lambda v: np.interp(v, *zip(*sorted(zip(values, pixels, strict=True)), strict=True))


def test_box_of_known_values():
    values = [0.1, 0.2, 0.3, 0.4, 0.9]
    svg = charts.box_plot("Dice", {"a": values, "b": []}, limits=(0, 1), colours={"a": "#111", "b": "#222"})
    place = axis(svg)
    assert numbers(svg, "circle", "cx") == pytest.approx([place(v) for v in values], abs=0.1)
    [left], [width] = numbers(svg, "rect", "x"), numbers(svg, "rect", "width")
    assert (left, left + width) == pytest.approx((place(0.2), place(0.4)), abs=0.2)
    whisker = [float(line.get("x2")) for line in ElementTree.fromstring(svg).iter("line") if line.get("class") == ""]
    assert max(whisker) == pytest.approx(place(0.4), abs=0.1)  # 0.9 lies beyond 1.5 boxes
    assert "Medians: a 0.300" in svg and "no value" in svg


def test_scatter_is_logarithmic_and_draws_the_intervals():
    points = {"fast": {"x": 1.0, "y": 0.5, "low": 0.4, "high": 0.6}, "slow": {"x": 100.0, "y": 0.7}}
    svg = charts.scatter("t", points, colours={"fast": "#111", "slow": "#222"}, across="s", along="Dice")
    height = axis(svg, vertical=True)
    assert numbers(svg, "circle", "cy") == pytest.approx([height(0.5), height(0.7)], abs=0.2)
    ticks = {
        e.text: float(e.get("x")) for e in ElementTree.fromstring(svg).iter("text") if e.get("text-anchor") == "middle"
    }
    assert numbers(svg, "circle", "cx") == pytest.approx([ticks["1"], ticks["100"]], abs=0.2)
    ends = re.search(r'd="M[\d.]+ ([\d.]+)V([\d.]+)"', svg)
    assert [float(end) for end in ends.groups()] == pytest.approx([height(0.4), height(0.6)], abs=0.2)


def test_names_of_near_points_do_not_cover_each_other():
    points = {f"m{i}": {"x": 10.0 + i, "y": 0.5 + 0.0001 * i} for i in range(5)} | {"z": {"x": 12.0, "y": 0.9}}
    svg = charts.scatter("t", points, colours=dict.fromkeys(points, "#111"), across="s", along="Dice")
    heights = sorted(float(e.get("y")) for e in ElementTree.fromstring(svg).iter("text") if e.text in points)
    assert min(np.diff(heights)) >= 13.9


def test_nothing_from_outside_is_taken_as_html():
    for svg in (
        charts.box_plot(NASTY, {NASTY: [1.0, 2.0]}, limits=(0, 2), colours={NASTY: "#111"}),
        charts.scatter(NASTY, {NASTY: {"x": 1.0, "y": 2.0}}, colours={NASTY: "#111"}, across=NASTY, along=NASTY),
    ):
        assert "<script" not in svg
        ElementTree.fromstring(svg)


def test_ticks_are_round():
    assert charts.nice_ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert charts.nice_ticks(-3, 97) == [0, 20, 40, 60, 80]
    assert charts.nice_ticks(2, 2) == [2]
