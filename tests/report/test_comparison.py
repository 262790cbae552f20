"""The report of a comparison: everything that happened stands in it, and it needs nothing from outside."""

from __future__ import annotations

import base64
import csv
import gzip
import json
import re
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from itk_pdd.evaluation import tables
from itk_pdd.evaluation.compare import compare, pair_names
from itk_pdd.evaluation.datasets import Pair
from itk_pdd.evaluation.methods import candidates
from itk_pdd.io.fields import write_field
from itk_pdd.io.files import write_image
from itk_pdd.report import comparison, selection
from itk_pdd.report.comparison import comparison_page, write_comparison_report


@pytest.fixture(scope="module")
def results(tmp_path_factory, scene):
    """A pair with everything, one whose file is missing, a method that knows the truth, and one that fails."""
    folder = tmp_path_factory.mktemp("comparison")
    files = {}
    for name in ("fixed", "moving", "fixed_labels", "moving_labels"):
        files[name] = folder / f"{name}.nii.gz"
        write_image(getattr(scene, name).to_simpleitk(), files[name])
    write_field(scene.truth, folder / "truth.nii")
    (folder / "copy.py").write_text("import shutil, sys; shutil.copy(sys.argv[1], sys.argv[2])")
    pairs = [Pair(**files), Pair(files["moving"], folder / "none.nii.gz")]
    program = f"{sys.executable} {folder / 'copy.py'} {folder / 'truth.nii'} {{field}} {{fixed}} {{moving}}"
    methods = candidates([], [f"truth={program}", "bad=false {fixed} {moving} {field} '<script>x</script>'"])
    found = compare(pairs, methods, folder / "out", views=True)
    table = tables.rows(found, groups={"<b>": [1]})
    return pairs, found, table, tables.summary(table), folder / "out"


@pytest.fixture(scope="module")
def page(results, tmp_path_factory) -> Path:
    pairs, found, table, summary, folder = results
    path = tmp_path_factory.mktemp("page") / "report.html"
    named = list(zip(pair_names(pairs), pairs, strict=True))
    write_comparison_report(path, named, found, table, summary, folder, title="A <i>title</i>")
    return path


def visible(path: Path) -> str:
    return re.sub(r"<script.*?</script>|<style.*?</style>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_everything_that_happened_stands_in_it(page):
    text = visible(page)
    assert "ended with exit code 1" in text and "there is no file" in text and "none.nii.gz" in text
    assert "Dice against time" in text and "Dice, label 1" in text and "Group &lt;b&gt;" in text
    assert text.count('data-viewer="pair-1"') == 1 and "pair-2" not in text
    assert "1 of the pairs have no page" in text


def test_nothing_comes_from_the_network_and_nothing_foreign_is_taken_as_html(page):
    text = page.read_text(encoding="utf-8")
    assert "<i>title" not in text and "<script>x" not in text and "{{" not in text
    assert not re.search(r"""(?:src|href|action)=["']?(?:https?:|//|file:)""", text)
    assert "http" not in re.sub(r"http-equiv|<script type=\"text/plain\".*?</script>", "", text)
    assert "default-src 'none'" in text


def test_the_figures_are_those_of_the_table(results, page):
    table = results[2]
    [row] = [row for row in table if row["method"] == "truth" and row["label"] == "all" and row["status"] == "ok"]
    assert row["dice"] > 0.95
    assert f'data-value="{row["dice"]:.9g}"' in page.read_text(encoding="utf-8")


def test_it_is_the_same_every_time(results):
    pairs, found, table, summary, folder = results
    named = list(zip(pair_names(pairs), pairs, strict=True))
    first, second = (comparison_page(named, found, table, summary, folder) for _ in range(2))
    assert first == second


def test_views_are_kept_only_where_asked_for(results, tmp_path):
    pairs, found, *_, folder = results
    assert len(list((folder / "views").iterdir())) == sum(result["status"] == "ok" for _, result in found) == 2
    compare(pairs[:1], candidates([], []), tmp_path)
    assert not (tmp_path / "views").exists()


def test_a_damaged_view_is_named_and_the_rest_is_shown(results):
    pairs, found, table, summary, folder = results
    [path] = (folder / "views").glob("*truth*")
    content = path.read_bytes()
    try:
        path.write_bytes(content[:100])
        named = list(zip(pair_names(pairs), pairs, strict=True))
        assert "No pictures of truth" in comparison_page(named, found, table, summary, folder)
    finally:
        path.write_bytes(content)


def test_pairs_from_the_worst_to_the_best_where_not_all_fit():
    able = [(f"p{i}", None) for i in range(30)]
    wanted, ranking = dict.fromkeys([n for n, _ in able], 14.0), {f"p{i}": (7 * i) % 30 for i in range(30)}
    assert selection._spread(able, wanted, 90, ranking) == able
    chosen = [ranking[name] for name, _ in selection._spread(able, wanted, 15, ranking)]
    assert len(chosen) == 5 and chosen[0] == 0 and chosen[-1] == 29 and np.ptp(np.diff(chosen)) <= 1
    assert selection._spread(able, dict.fromkeys(wanted, 0.1), 15, ranking) == able


def test_a_page_without_pairs_or_times(tmp_path, results):
    pairs, *_ = results
    found = compare(pairs[1:], candidates([], []), tmp_path, views=True)
    table = tables.rows(found)
    text = comparison_page([("x", pairs[1])], found, table, tables.summary(table), tmp_path)
    assert "there is no file" in text and comparison._trade_off([], []) == ""


def test_rows_of_the_summary_are_in_the_csv_too(results, tmp_path):
    *_, summary, _ = results
    tables.write_csv(summary, tmp_path / "summary.csv", tables.SUMMARY_COLUMNS)
    with (tmp_path / "summary.csv").open(newline="") as stream:
        assert {row["method"] for row in csv.DictReader(stream)} >= {"initial", "truth"}


def test_the_page_carries_its_scripts_and_arrays_as_they_are(page):
    text = page.read_text(encoding="utf-8")
    template = resources.files("itk_pdd.report") / "template"
    for name in ("style.css", "volume.js", "drawing.js", "share.js", "viewer.js", "page.js"):
        assert (template / name).read_text(encoding="utf-8").strip() in text
    [data] = re.findall(r'<script type="application/json" id="report-data">(.*?)</script>', text)
    [pair] = json.loads(data)["pairs"]
    image = pair["fixed"]["image"]
    [packed] = re.findall(rf'id="asset-{image["id"]}">(.*?)</script>', text)
    assert len(gzip.decompress(base64.b64decode(packed))) == np.prod(image["shape"])


def test_few_pairs_have_no_interval_and_the_page_says_so(results, page):
    summary = results[3]
    assert all(row["n"] < 5 and np.isnan(row["ci_low"]) and np.isnan(row["ci_high"]) for row in summary)
    assert all(np.isnan(row["p"]) and np.isnan(row["p_holm"]) for row in summary if "p" in row)
    assert "Fewer than 5 pairs" in visible(page)
