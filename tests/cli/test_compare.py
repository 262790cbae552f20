"""pdd-compare as a user meets it."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from itk_pdd.cli.compare import main

from itk_pdd.evaluation.datasets import Pair, write_pairs
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.files import write_image
from itk_pdd.io.volume import Volume


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    grid = Grid.create((14, 13, 12), (1.0, 1.0, 2.0))
    rng = np.random.default_rng(0)
    files = []
    for name, start in (("a", 2), ("b", 4)):
        labels = np.zeros(grid.shape, np.uint8)
        labels[3:8, 3:9, start : start + 6] = 3
        write_image(Volume(labels, grid).to_simpleitk(), tmp_path / f"{name}_labels.nii.gz")
        noisy = 50 * labels + rng.normal(size=grid.shape)
        write_image(Volume(noisy.astype(np.float32), grid).to_simpleitk(), tmp_path / f"{name}.nii.gz")
        files.append((tmp_path / f"{name}.nii.gz", tmp_path / f"{name}_labels.nii.gz"))
    write_pairs(tmp_path / "pairs.csv", [Pair(files[0][0], files[1][0], files[0][1], files[1][1])])
    return tmp_path / "pairs.csv"


def run(*words: object):
    return CliRunner().invoke(main, [str(word) for word in words])


def test_a_comparison(pairs, tmp_path):
    out = tmp_path / "out"
    result = run(pairs, "-o", out, "--methods", "demons", "--group", "box=3", "--time-limit", 100)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert any(line.startswith("[2/2] a_b demons: Dice ") for line in lines)
    with (out / "results.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(r["method"], r["label"]) for r in rows] == [
        (m, label) for m in ("initial", "demons") for label in ("3", "box", "all")
    ]
    assert float(rows[5]["dice"]) > float(rows[2]["dice"]) and float(rows[5]["seconds"]) > 0
    with (out / "summary.csv").open(newline="") as stream:
        summary = {(r["method"], r["label"], r["measure"]): r for r in csv.DictReader(stream)}
    assert summary["demons", "box", "dice"]["mean"] == rows[4]["dice"]
    assert all(row[column] == "" for row in summary.values() for column in ("p", "p_holm", "ci_low", "ci_high"))
    assert "Fewer than 5 pairs" in result.output
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "demons" in report and 'data-viewer="pair-1"' in report
    again = run(pairs, "-o", out, "--methods", "demons", "--quiet")
    assert again.exit_code == 0 and again.output == ""


def test_the_command_itself_is_a_method_and_the_report_can_be_left_out(pairs, tmp_path):
    out = tmp_path / "out"
    result = run(pairs, "-o", out, "--methods", "pdd", "--no-report", "--time-limit", 200)
    assert result.exit_code == 0, result.output
    assert "[2/2] a_b pdd: Dice " in result.output
    assert not (out / "report.html").exists() and not (out / "views").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "demon"], "found 'demon'"),
        (["--clamp", 5, 1], "lower value first"),
        (["--group", "large"], "expected NAME=LABEL"),
        (["--group", "all=1"], "expected NAME=LABEL"),
        (["--group", "box=1", "--group", "box=2"], "'box' is given twice"),
        (["--settings", "nowhere"], "neither a folder nor"),
        (["--command", "tool {fixed}"], "lacks {moving}, {field}"),
        (["--jobs", 0], "0 is not in the range"),
        (["--memory-limit", 0], "0 is not in the range"),
    ],
)
def test_wrong_options(pairs, tmp_path, words, message):
    result = run(pairs, "-o", tmp_path / "out", *words)
    assert result.exit_code != 0 and message in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_wrong_files(pairs, tmp_path):
    result = run(tmp_path / "none.csv", "-o", tmp_path / "out")
    assert result.exit_code == 1 and "none.csv does not exist" in result.output
    assert result.output.endswith(".\n") and not result.output.endswith("..\n")
    (tmp_path / "file").write_text("")
    result = run(pairs, "-o", tmp_path / "file", "--methods", "demons")
    assert result.exit_code == 1 and result.output.startswith("Error: ")


def test_a_missing_file_is_named_and_gives_the_exit_code_of_an_input(pairs, tmp_path):
    with pairs.open("a") as stream:
        stream.write("a.nii.gz,gone.nii.gz,,\n")
    result = run(pairs, "-o", tmp_path / "out", "--methods", "demons", "--no-report", "--quiet")
    assert result.exit_code == 1
    assert "Error: pair a_gone was skipped: there is no file moving" in result.output
    assert "gone.nii.gz" in result.output and "Traceback" not in result.output
    with (tmp_path / "out" / "results.csv").open(newline="") as stream:
        assert {row["status"] for row in csv.DictReader(stream)} == {"ok", "skipped"}, "the other pair is registered"


def test_the_exit_code_tells_that_every_registration_failed(pairs, tmp_path):
    failing = ["--methods", "", "--command", "bad=false {fixed} {moving} {field}"]
    result = run(pairs, "-o", tmp_path / "out", *failing, "--no-report")
    assert result.exit_code == 1 and "Error: every registration failed" in result.output
    one_fails = run(pairs, "-o", tmp_path / "out", "--methods", "demons", *failing[2:], "--no-report")
    assert one_fails.exit_code == 0 and "Error" not in one_fails.output


def test_methods_are_listed():
    result = run("--list-methods")
    assert result.exit_code == 0
    assert {line.split()[0] for line in result.output.splitlines()} >= {"pdd", "demons", "greedy", "syn-cc"}


def test_help_is_quick_and_loads_nothing_heavy():
    code = (
        "import sys; from itk_pdd.cli.compare import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'itk', 'SimpleITK', 'numba', 'scipy', 'ants', 'pandas'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "PAIRS is a CSV file" in result.stdout
