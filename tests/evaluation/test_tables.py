"""Tables from results written by hand."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from itk_pdd.evaluation import tables
from itk_pdd.evaluation.compare import Run
from itk_pdd.evaluation.statistics import wilcoxon


def result(dice: dict[int, float], seconds: float = 1.0) -> dict:
    labels = {str(n): {"dice": d, "jaccard": d / (2 - d), "hd95": None, "asd": 1.0} for n, d in dice.items()}
    return {
        "status": "ok", "reason": "", "labels": labels, "absent": {},
        "overall": {"folding": 0.5, "ncc": 0.9}, "seconds": seconds, "cpu_seconds": seconds, "memory": 2**30,
    }  # fmt: skip


def make_results(shift: float = 0.1) -> list:
    rng = np.random.default_rng(0)
    base = rng.uniform(0.4, 0.6, size=(8, 2))
    found = []
    for pair in range(8):
        for method, plus in (("initial", -0.2), ("pdd", 0.0), ("better", shift), ("same", 0.0)):
            values = dict(zip((1, 2), base[pair] + plus, strict=True))
            found.append((Run(f"p{pair}", method, f"{pair}{method}", {}), result(values)))
    failed = {"status": "failed", "reason": "out of time: not done after 5 s", "seconds": 5.0}
    found.append((Run("p8", "initial", "x", {}), result({1: 0.1, 2: 0.2})))
    found.append((Run("p8", "pdd", "y", {}), failed))
    return found


def test_rows():
    table = tables.rows(make_results(), groups={"second": [2], "none": [7]})
    first = [row for row in table if row["pair"] == "p0" and row["method"] == "pdd"]
    assert [row["label"] for row in first] == ["1", "2", "second", "none", "all"]
    assert first[4]["dice"] == pytest.approx((first[0]["dice"] + first[1]["dice"]) / 2)
    assert first[2]["dice"] == first[1]["dice"] and first[3]["dice"] is None and first[4]["hd95"] is None
    assert (first[4]["folding"], first[4]["memory_gib"]) == (0.5, 1.0) and "folding" not in first[0]
    last = table[-1]
    assert (last["method"], last["label"], last["status"], last["seconds"]) == ("pdd", "all", "failed", 5.0)


def test_summary_and_tests():
    table = tables.rows(make_results())
    cells = {(r["method"], r["label"], r["measure"]): r for r in tables.summary(table)}
    pdd, better, same, initial = (cells[m, "all", "dice"] for m in ("pdd", "better", "same", "initial"))
    values = [row["dice"] for row in table if row["method"] == "pdd" and row["label"] == "all" and row.get("dice")]
    assert pdd["n"] == 8 and pdd["failed"] == 1 and pdd["mean"] == pytest.approx(np.mean(values))
    assert "p" not in pdd
    assert initial["n"] == 9 and initial["failed"] == 0
    # Tested on the eight pairs both have, not on the ninth.
    assert better["difference"] == pytest.approx(0.1) and initial["difference"] == pytest.approx(-0.2)
    assert better["p"] == pytest.approx(wilcoxon(np.full(8, 0.1) + np.arange(8) * 1e-3, np.zeros(8)))
    assert same["p"] == 1 and same["p_holm"] == 1
    assert better["p_holm"] == pytest.approx(3 * better["p"])  # three methods against the first
    # Single labels are a family of methods times labels.
    assert cells["better", "1", "dice"]["p_holm"] == pytest.approx(6 * cells["better", "1", "dice"]["p"])
    assert ("pdd", "all", "hd95") not in cells and ("pdd", "1", "folding") not in cells
    # The five seconds of the failed run are no time of a registration.
    assert cells["pdd", "all", "seconds"]["mean"] == 1


def test_tables_in_files(tmp_path):
    table = tables.rows(make_results())
    tables.write_csv(table, tmp_path / "results.csv")
    with (tmp_path / "results.csv").open(newline="") as stream:
        read = list(csv.DictReader(stream))
    assert len(read) == len(table)
    assert read[0]["dice"] == f"{table[0]['dice']:.6g}" and read[0]["hd95"] == ""
    assert read[-1]["reason"] == "out of time: not done after 5 s"
    assert [p.name for p in tmp_path.iterdir()] == ["results.csv"]
    tables.write_csv(tables.summary(table), tmp_path / "summary.csv", tables.SUMMARY_COLUMNS)
    with (tmp_path / "summary.csv").open(newline="") as stream:
        assert next(csv.DictReader(stream))["method"] == "initial"
