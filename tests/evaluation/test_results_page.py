"""The tables of the results page, from what a comparison writes."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import results_page

    return results_page


def test_means_failures_and_methods_that_failed_everywhere(page, tmp_path):
    rows = {
        "results.csv": [
            {"method": "ours", "label": "all", "status": "ok"},
            {"method": "ours", "label": "1", "status": "ok"},
            {"method": "theirs", "label": "all", "status": "failed"},
        ],
        "summary.csv": [
            {"method": "ours", "label": "all", "measure": "dice", "n": "1", "mean": "0.6049", "p_holm": ""},
            {"method": "ours", "label": "all", "measure": "cpu_seconds", "n": "1", "mean": "14.96", "p_holm": ""},
            {"method": "ours", "label": "1", "measure": "dice", "n": "1", "mean": "0.1", "p_holm": ""},
        ],
    }
    for name, content in rows.items():
        with (tmp_path / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(content[0]))
            writer.writeheader()
            writer.writerows(content)
    assert page.table(tmp_path) == [
        "| method | pairs | Dice | p | processor s |",
        "|---|---|---|---|---|",
        "| ours | 1 | 0.605 |  | 15 |",
        "| theirs | 0 (1 failed) |  |  |  |",
    ]
    page.copy(tmp_path, tmp_path / "copy" / "results.csv")
    kept = (tmp_path / "copy" / "results.csv").read_text().splitlines()
    assert kept == ["method,label,status", "ours,all,ok", "theirs,all,failed"]
