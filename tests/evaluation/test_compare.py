"""The comparison with programs of known behaviour: rules, failures, resumption."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import itk_pdd.evaluation.compare as compare_module
from itk_pdd import RegistrationError
from itk_pdd.evaluation import tables
from itk_pdd.evaluation.compare import compare, load_result, pair_names, plan
from itk_pdd.evaluation.datasets import Pair
from itk_pdd.evaluation.methods import candidates
from itk_pdd.evaluation.run import Rules
from itk_pdd.io.fields import read_field

COPY = "import shutil, sys; shutil.copy(sys.argv[1], sys.argv[2])"
CONSTANT = """
import sys
import numpy as np
import SimpleITK as sitk
fixed = sitk.ReadImage(sys.argv[1])
shift = [float(v) for v in sys.argv[4].split(",")]
array = np.broadcast_to(shift, (*fixed.GetSize()[::-1], len(shift)))
field = sitk.GetImageFromArray(np.ascontiguousarray(array), isVector=True)
field.CopyInformation(fixed)
print(sitk.GetArrayViewFromImage(fixed).min(), sitk.GetArrayViewFromImage(fixed).max(), fixed.GetPixelIDTypeAsString())
sitk.WriteImage(field, sys.argv[3])
"""


@pytest.fixture
def constant(program):
    words = program("constant", CONSTANT)
    return lambda shift, name="constant": (
        f"{name}={words} {{fixed}} {{moving}} {{field}} {','.join(str(float(v)) for v in shift)}"
    )


def by_method(results) -> dict:
    return {run.method: result for run, result in results}


def test_the_truth_is_measured_and_kept(scene, tmp_path, program):
    truth = scene.write_truth("truth.nii")
    copy = program("copy", COPY)
    methods = candidates([], [f"truth={copy} {truth} {{field}} {{fixed}} {{moving}}"])
    [(_, before), (run, after)] = compare([scene.pair], methods, tmp_path / "out", fields=True)
    assert after["status"] == "ok", after["reason"]
    assert after["overall"]["tre_mean"] < 1e-3 < before["overall"]["tre_mean"]
    assert after["labels"]["1"]["dice"] > before["labels"]["1"]["dice"]
    kept = read_field(tmp_path / "out" / "fields" / f"{run.key}.nii.gz")
    assert kept.vectors == pytest.approx(scene.truth.vectors, abs=1e-5)
    assert not (tmp_path / "out" / "work").exists()
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["methods"][1]["name"] == "truth"


def test_rules_hold_for_every_method(scene, tmp_path, constant):
    methods = candidates([], [constant([0, 0, 0])])
    rules = Rules(clamp=(10.0, 60.0), threads=1)
    results = compare([scene.pair], methods, tmp_path, rules=rules)
    log = (tmp_path / "logs" / f"{results[1][0].key}.txt").read_text()
    assert log.split() == ["10.0", "60.0", "32-bit", "float"]


def test_centres_are_put_on_each_other_where_asked(scene, tmp_path, constant):
    from itk_pdd.evaluation.scoring import load_case
    from itk_pdd.io.files import read_image, write_image

    # The same moving image with its header, landmarks and labels moved far away.
    away = np.array([100.0, -50.0, 30.0])
    files = {}
    for role in ("moving", "moving_labels"):
        image = read_image(scene.pair.files()[role])
        image.SetOrigin([float(v) for v in np.array(image.GetOrigin()) + away])
        files[role] = tmp_path / f"away_{role}.nii.gz"
        write_image(image, files[role])
    points = load_case(scene.pair).moving_points + away
    files["moving_points"] = tmp_path / "away.csv"
    np.savetxt(files["moving_points"], points, delimiter=",", header="x,y,z", comments="")
    pair = replace(scene.pair, moving_mask=None, **files)
    methods = candidates([], [constant(scene.shift)])
    results = by_method(compare([pair], methods, tmp_path / "out", rules=Rules(start="centre")))
    # Both grids are centred at 0, so the start takes the header's shift and the program has to find the anatomy's.
    assert results["initial"]["overall"]["tre_mean"] == pytest.approx(np.linalg.norm(scene.shift), abs=1e-3)
    assert results["constant"]["overall"]["tre_mean"] < 1e-3
    assert by_method(compare([pair], methods, tmp_path / "none"))["constant"]["overall"]["tre_mean"] > 100


def test_failures_are_results_and_the_rest_goes_on(scene, tmp_path, program, constant):
    commands = [
        f"crash={program('crash', 'raise ValueError(chr(110) + str(1))')} {{fixed}} {{moving}} {{field}}",
        f"idle={program('idle', 'pass')} {{fixed}} {{moving}} {{field}}",
        f"slow={program('slow', 'import time; time.sleep(60)')} {{fixed}} {{moving}} {{field}}",
        f"big={program('big', 'x = bytearray(600 << 20); import time; time.sleep(9)')} {{fixed}} {{moving}} {{field}}",
        f"text={program('text', 'open(__import__(chr(115) + chr(121) + chr(115)).argv[1], chr(119)).write(chr(97))')} "
        "{field} {fixed} {moving}",
        "none=no-such-program {fixed} {moving} {field}",
        constant([0, 0, 0], "fine"),
    ]
    rules = Rules(time_limit=8, memory_limit=0.4)
    results = by_method(compare([scene.pair], candidates([], commands), tmp_path, rules=rules, jobs=2))
    reasons = {name: result["reason"] for name, result in results.items()}
    assert reasons["crash"] == "ended with exit code 1: ValueError: n1"
    assert "wrote no field" in reasons["idle"]
    assert reasons["slow"] == "out of time: not done after 8 s"
    assert reasons["big"].startswith("out of memory") and "limit is 0.4 GiB" in reasons["big"]
    assert "cannot be read as an image" in reasons["text"] or "not a readable" in reasons["text"]
    assert reasons["none"] == "program no-such-program is not found"
    assert {name for name, result in results.items() if result["status"] == "ok"} == {"initial", "fine"}


def test_pairs_with_problems_are_named(scene, tmp_path):
    gone = replace(scene.pair, moving=scene.folder / "gone.nii.gz")
    results = compare([scene.pair, gone, scene.pair], candidates([]), tmp_path)
    assert [r["status"] for _, r in results] == ["ok", "skipped", "skipped"]
    assert "gone.nii.gz" in results[1][1]["reason"]
    assert results[2][1]["reason"] == "pair 3 is the same as pair 1"
    assert [run.pair for run, _ in results] == ["fixed_moving", "fixed_gone", "fixed_moving_row3"]


def test_labels_absent_from_one_image_have_a_row(scene, tmp_path):
    from itk_pdd.io.files import read_image, write_image

    labels = read_image(scene.pair.fixed_labels)
    write_image(labels * (labels != 2), tmp_path / "less.nii.gz")
    pair = replace(scene.pair, fixed_labels=tmp_path / "less.nii.gz")
    table = tables.rows(compare([pair], candidates([]), tmp_path / "out"), groups={"both": [1, 2]})
    assert [(row["label"], row["status"]) for row in table] == [
        ("1", "ok"), ("2", "skipped"), ("both", "ok"), ("all", "ok")
    ]  # fmt: skip
    assert table[1]["reason"] == "label 2 is absent from the fixed image"
    assert table[2]["dice"] == table[3]["dice"] == table[0]["dice"]


def test_inverse_consistency_of_a_pair_and_its_swap(scene, tmp_path, constant):
    # The same constant both ways: there and back is twice the way.
    methods = candidates([], [constant([1.0, 2.0, 2.0])])
    results = compare([scene.pair], methods, tmp_path, inverse_consistency=True)
    assert [run.pair for run, _ in results] == ["fixed_moving"] * 2  # the swapped pair is no row
    found = by_method(results)["constant"]["overall"]
    assert found["inverse_mean"] == pytest.approx(6, abs=1e-3) and found["inverse_p95"] == pytest.approx(6, abs=1e-3)
    assert not (tmp_path / "fields").exists()
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "runs").iterdir()}
    assert compare([scene.pair], methods, tmp_path, inverse_consistency=True) == results
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "runs").iterdir()} == before


def test_what_is_done_is_done_again_only_if_something_changed(scene, tmp_path, program):
    note = tmp_path / "calls.txt"
    source = f"open({str(note)!r}, 'a').write('x'); raise SystemExit('no')"
    command = f"tool={program('tool', source)} {{fixed}} {{moving}} {{field}}"

    pair = scene.pair

    def calls(**options) -> int:
        compare([pair], candidates([], [command]), tmp_path / "out", **options)
        return len(note.read_text())

    assert calls() == 1
    assert calls() == 1
    assert calls(rules=Rules(time_limit=50)) == 1
    assert calls(retry_failed=True) == 2
    assert calls(rules=Rules(clamp=(0.0, 50.0))) == 3
    os.utime(scene.pair.moving)
    assert calls() == 3, "what counts is what is in the files"
    sitk.WriteImage(sitk.ReadImage(scene.pair.moving) + 1, scene.pair.moving)
    assert calls() == 4
    detached = scene.pair.moving.with_name("detached.mhd")
    sitk.WriteImage(sitk.ReadImage(scene.pair.moving), detached)
    pair = replace(pair, moving=detached)
    assert calls() == 5
    assert calls() == 5
    sitk.WriteImage(sitk.ReadImage(detached) + 1, detached)
    assert calls() == 6
    command += " --more"
    assert calls() == 7


def test_a_file_that_cannot_be_read_is_a_row(scene, tmp_path, constant, monkeypatch):
    plain, broken = compare_module._digest, tmp_path / "broken.nii.gz"
    broken.write_bytes(scene.pair.moving.read_bytes())

    def digest(path, *rest):
        if path == broken:
            raise OSError(5, "Input/output error", str(path))
        return plain(path, *rest)

    monkeypatch.setattr(compare_module, "_digest", digest)
    pairs = [replace(scene.pair, moving=broken), scene.pair]
    results = compare(pairs, candidates([], [constant(scene.shift)]), tmp_path / "out")
    ours = [result for run, result in results if run.method == "constant"]
    assert [result["status"] for result in ours] == ["skipped", "ok"]
    assert "broken.nii.gz cannot be read (Input/output error)" in ours[0]["reason"]


@pytest.mark.slow
def test_killing_the_comparison_changes_nothing(scene, pairs_csv, tmp_path, program, constant):
    slow = program("slow", "import time; time.sleep(0.5)\n" + CONSTANT)
    commands = [
        constant(scene.shift),
        f"slow={slow} {{fixed}} {{moving}} {{field}} 1,1,1",
    ]
    words = [sys.executable, "-m", "itk_pdd.cli.compare", str(pairs_csv), "--methods", "", "--inverse-consistency"]
    words += ["--no-report"]
    words += [word for command in commands for word in ("--command", command)]
    subprocess.run([*words, "-o", str(tmp_path / "whole")], check=True, capture_output=True)
    broken = tmp_path / "broken"
    kills = 0
    for wanted in (1, 3):
        process = subprocess.Popen([*words, "-o", str(broken)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if len(list((broken / "runs").glob("[!.]*.json"))) >= wanted:
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.02)
        process.wait()
    assert kills == 2
    done = {path: path.stat().st_mtime_ns for path in (broken / "runs").glob("*__constant__*.json")}
    subprocess.run([*words, "-o", str(broken)], check=True, capture_output=True)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in done.items())
    assert without_times(broken / "results.csv") == without_times(tmp_path / "whole" / "results.csv")
    assert len(without_times(broken / "results.csv")) == 2 * 3 * 3


def without_times(path: Path) -> list[dict]:
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [{k: v for k, v in row.items() if k not in ("seconds", "cpu_seconds", "memory_gib")} for row in rows]


def test_planning_needs_no_process(scene, tmp_path):
    runs = plan([scene.pair], candidates(["pdd", "demons"]), Rules(), tmp_path)
    assert [run.method for run in runs] == ["initial", "pdd", "demons"]
    assert len({run.key for run in runs}) == 3
    assert load_result(runs[0], tmp_path) is None
    other = plan([scene.pair], candidates(["pdd", "demons"]), Rules(threads=2), tmp_path)
    assert {run.key for run in other}.isdisjoint(run.key for run in runs)


def test_pixels_of_a_mask_are_passed_where_asked(scene, tmp_path, program, constant):
    source = CONSTANT.replace("sys.argv[1]", "sys.argv[1] if 'mask' in sys.argv[1] else 1 / 0")
    words = program("masked", source)
    command = f"masked={words} {{fixed_mask}} {{fixed}}{{moving}} {{field}} 0,0,0"
    result = by_method(compare([scene.pair], candidates([], [command]), tmp_path / "a"))["masked"]
    assert result["status"] == "ok", result["reason"]
    bare = replace(scene.pair, fixed_mask=None)
    result = by_method(compare([bare], candidates([], [command]), tmp_path / "b"))["masked"]
    assert "{fixed_mask}" in result["reason"]


def test_settings_that_are_not_there(tmp_path):
    with pytest.raises(RegistrationError, match="neither a folder nor"):
        candidates(["demons"], settings=tmp_path / "none")


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 1, 0), (1, 0, 2)])
def test_every_pair_has_a_name_of_its_own(order):
    """A numbered name is not that of another pair."""
    three = [Pair(Path(a), Path(b)) for a, b in (("a.nii", "b.nii"), ("x/a.nii", "b.nii"), ("a.nii", "b_row2.nii"))]
    pairs = [three[i] for i in order]
    assert len(set(pair_names(pairs))) == 3
    assert set(pair_names(pairs)) >= {pair.name for pair in pairs}
