"""The tables of the results page, from what a comparison writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from itk_pdd.evaluation import tables

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import results_page

    return results_page


def written(path, rows):
    path.parent.mkdir(parents=True)
    tables.write_csv(rows, path)


def test_means_failures_and_methods_that_failed_everywhere(page, tmp_path):
    rows = [
        {"pair": "a", "method": "pdd", "label": "all", "status": "ok", "dice": 0.6, "cpu_seconds": 14.9},
        {"pair": "b", "method": "pdd", "label": "all", "status": "ok", "dice": 0.61, "cpu_seconds": 15.1},
        {"pair": "a", "method": "pdd", "label": "large", "status": "ok", "dice": 0.7},
        {"pair": "a", "method": "pdd", "label": "1", "status": "ok", "dice": 0.1},
        {"pair": "a", "method": "theirs", "label": "all", "status": "failed"},
    ]
    written(tmp_path / "data" / "results.csv", rows)
    found = page.rows_of(tmp_path, "data")
    assert [row["label"] for row in found] == ["all", "all", "large", "all"]
    assert page.table(found) == [
        "| method | pairs | Dice | p | large, Dice | processor s |",
        "|---|---|---|---|---|---|",
        "| pdd | 2 | 0.605 |  | 0.700 | 15 |",
        "| theirs | 0 (1 failed) |  |  |  |  |",
    ]


def test_methods_that_were_not_run_again_are_those_of_the_last_time(page, tmp_path):
    row = {"pair": "a", "label": "all", "status": "ok"}
    earlier = [{**row, "method": m, "dice": d} for m, d in (("pdd", 0.5), ("greedy", 0.4), ("other", 0.2))]
    written(tmp_path / "old" / "data.csv", earlier)
    written(
        tmp_path / "data" / "results.csv", [{**row, "method": m, "dice": d} for m, d in (("syn", 0.3), ("pdd", 0.6))]
    )
    found = page.rows_of(tmp_path, "data", tmp_path / "old")
    assert [(r["method"], r["dice"]) for r in found] == [
        ("pdd", "0.6"), ("syn", "0.3"), ("greedy", "0.4"), ("other", "0.2")
    ]  # fmt: skip
