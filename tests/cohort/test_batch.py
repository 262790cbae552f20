"""A cohort on two worker processes: results as by pdd-register, resumed, changed inputs, rows that fail."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from itk_pdd.cli.batch import main

import itk_pdd
from itk_pdd.cohort.cluster import Place, connected
from itk_pdd.cohort.listing import Item, read_items
from itk_pdd.cohort.pair import failure, perform
from itk_pdd.cohort.records import changed, key_of, read_record
from itk_pdd.cohort.work import Work, work_off
from itk_pdd.commands.register import register_files
from itk_pdd.errors import RegistrationError
from itk_pdd.io.files import write_image
from itk_pdd.synthesis import make_pair

pytest.importorskip("distributed")
OPTIONS = {"model": "auto", "smoothness": 1.0, "device": "auto", "force": False}


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """Three synthetic slices with labels, and a list of five rows, two of which cannot be used."""
    folder = tmp_path_factory.mktemp("scans")
    for seed in range(2):
        made = make_pair((48, 40), 3.0, seed=seed, kind="abdomen", displacement=9)
        for name, image in (("fixed", made.fixed), ("moving", made.moving), ("labels", made.moving_labels)):
            write_image(image.to_simpleitk(), folder / f"{name}{seed}.nii.gz")
    rows = ["fixed,moving,name,moving_labels,fixed_labels"]
    rows += [f"fixed{s}.nii.gz,moving{s}.nii.gz,pair{s},labels{s}.nii.gz,labels{s}.nii.gz" for s in range(2)]
    rows += ["fixed0.nii.gz,absent.nii.gz,lost,,", "fixed0.nii.gz,moving1.nii.gz,pair0,,"]
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def done(scans, tmp_path_factory):
    """What pdd-batch says, and the folder that it wrote."""
    out = tmp_path_factory.mktemp("cohort") / "out"
    found = CliRunner().invoke(main, [str(scans / "pairs.csv"), "-o", str(out), "--workers", "2", "--threads", "1"])
    return found, out


def order(scans: Path, out: Path, name: str = "pair0", **more):
    item = next(item for item in read_items(scans / "pairs.csv") if item.name == name)
    return item, {
        "name": item.name, "files": item.files, "model": None, "targets": {}, "key": key_of(item, OPTIONS, ["field"]),
        "folder": str(out), "outputs": ["field"], "options": OPTIONS, "run": "r", "time_limit": None,
        **more,
    }  # fmt: skip


def prepared(folder: Path) -> Path:
    for part in ("records", "views", ".work"):
        (folder / part).mkdir()
    return folder


def test_a_cohort(done, scans, tmp_path):
    found, out = done
    assert found.exit_code == 1 and "2 pairs done (2 of them now), 2 failed" in found.output, found.output
    assert "lost: there is no file moving" in found.output and "name 'pair0' of line 2" in found.output
    assert "[4/4]" in found.output and " left" in found.output
    with (out / "summary.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["status"] for row in rows] == ["done", "done", "failed", "failed"]
    assert float(rows[0]["dice"]) > 0.3 and rows[0]["verdict"] and float(rows[0]["peak_memory_gb"]) > 0.1
    page = (out / "report.html").read_text()
    assert page.index("lost") < page.index("pair1") and page.count("data:image/jpeg;base64") == 2
    assert not (out / ".work").exists() and str(scans) not in page
    names = {name: tmp_path / f"{name}.nii.gz" for name in ("output", "warped", "warped_labels")}
    register_files(scans / "fixed0.nii.gz", scans / "moving0.nii.gz", moving_labels=scans / "labels0.nii.gz", **names)
    for name, path in zip(("field", "warped", "labels"), names.values(), strict=True):
        assert (out / "pair0" / f"{name}.nii.gz").read_bytes() == path.read_bytes()


def test_what_is_done_is_not_done_again(done, scans, tmp_path):
    _, out = done
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")}
    found = CliRunner().invoke(
        main, [str(scans / "pairs.csv"), "-o", str(out), "-q", "--scheduler", "tcp://127.0.0.1:9"]
    )
    assert found.exit_code == 1 and "pairs done" not in found.output
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")} == before
    item = read_items(scans / "pairs.csv")[0]
    outputs = ["field", "warped", "labels"]
    key, record = key_of(item, OPTIONS, outputs), read_record(out, item.name)
    assert changed(record, item, key, out) == ""
    assert "options" in changed(record, item, key_of(item, {**OPTIONS, "smoothness": 2.0}, outputs), out)
    assert key_of(item, {**OPTIONS, "threads": 3, "memory": 1.0}, outputs) == key
    path = scans / "moving0.nii.gz"
    content, times = path.read_bytes(), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    os.utime(path)
    assert changed(record, item, key, out) == "", "written again with the same content"
    path.write_bytes(content + b"\0")
    assert changed(record, item, key, out) == "moving has changed"
    path.write_bytes(content)
    os.utime(path, ns=times)
    (out / "pair0" / "field.nii.gz").rename(tmp_path / "field.nii.gz")
    assert changed(record, item, key, out) == "its field is not there"
    (tmp_path / "field.nii.gz").rename(out / "pair0" / "field.nii.gz")


def test_a_worker_writes_all_or_nothing(scans, tmp_path, monkeypatch):
    out = prepared(tmp_path)
    item, work = order(scans, out, time_limit=1e-9)
    late = perform(work)
    assert late["status"] == "failed" and "took longer" in late["reason"] and not late["again"]
    assert [path.name for path in out.rglob("*") if path.is_file()] == ["pair0.r.begun"]
    full = OSError(28, "No space left on device")
    monkeypatch.setattr("itk_pdd.cohort.pair.os.replace", lambda *_: (_ for _ in ()).throw(full))
    found = perform(order(scans, out)[1])
    assert found["status"] == "failed" and "no space left on device" in found["reason"]
    assert read_record(out, item.name) is None and not [*out.rglob("*.nii.gz")]
    monkeypatch.undo()
    monkeypatch.setattr("itk_pdd.cohort.pair.register_files", lambda *_, **__: (_ for _ in ()).throw(MemoryError()))
    assert perform(order(scans, out)[1])["again"]


def test_a_pair_is_begun_three_times_at_most(scans, tmp_path):
    out = prepared(tmp_path)
    (out / ".work" / "pair0.r.begun").write_text("host 1\nhost 2\nhost 3\n")
    found = perform(order(scans, out)[1])
    assert found["status"] == "failed" and "ended 3 times without a word" in found["reason"] and not found["again"]


def dying(order):
    """Stand for a registration: one kills its worker always, one the first time, one is slow, the others are quick."""
    name, tries = order["name"], Path(order["folder"]) / ".work" / f"{order['name']}.{order['run']}.begun"
    with tries.open("a") as stream:
        stream.write("begun\n")
    attempts = len(tries.read_text().splitlines())
    if name == "deadly" or (name == "once" and attempts == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "slow":
        time.sleep(1)
    return {"status": "done", "attempts": attempts}


def test_a_worker_that_dies_costs_its_pair_alone(tmp_path):
    found, out = {}, prepared(tmp_path)
    names = ["a", "deadly", "once", "slow", *(f"p{n}" for n in range(4))]
    works = [Work(Item(name, {}), {"name": name, "folder": str(out), "run": "r"}, 10**8) for name in names]
    with connected(Place(workers=2, memory=2.0), need=10**8, pairs=len(names)) as (client, _):
        work_off(client, works, lambda item, record: found.update({item.name: record}), register=dying)
    assert found.keys() == set(names)
    assert {name for name, record in found.items() if record["status"] == "failed"} == {"deadly"}
    assert "3 times its worker ended without a word" in found["deadly"]["reason"]
    assert [found[name]["attempts"] for name in names] == [1, 3, 2, 1, 1, 1, 1, 1]


def test_workers_import_nothing_from_the_folder_at_hand(tmp_path):
    for name in ("distributed.py", "itk_pdd.py"):
        (tmp_path / name).write_text("raise SystemExit('imported from the folder at hand')\n")
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "run.py").write_text(
        "from itk_pdd.cohort.cluster import Place, connected\n"
        "if __name__ == '__main__':\n"
        "    with connected(Place(workers=1, memory=1.0), need=10**8, pairs=1) as (client, _):\n"
        "        print(client.submit(max, 1, 2).result())\n"
    )
    # Not with -P, which would protect the workers as well.
    words = [sys.executable, str(tmp_path / "scripts" / "run.py")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    found = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "2\n"), found.stderr


def test_what_cannot_be_begun(tmp_path, scans):
    run = CliRunner().invoke
    assert run(main, ["-o", str(tmp_path)]).exit_code == 2
    assert run(main, ["-o", str(tmp_path), "--moving", "*.nii"]).exit_code == 2
    assert run(main, [str(scans / "pairs.csv"), "-o", str(tmp_path), "--chunk", "3/2"]).exit_code == 2
    file = tmp_path / "file"
    file.touch()
    found = run(main, [str(scans / "pairs.csv"), "-o", str(file / "out")])
    assert found.exit_code == 3 and "cannot be made" in found.output
    with pytest.raises(RegistrationError, match="expected one of pairs, moving, bids"):
        itk_pdd.register_batch(output=tmp_path / "x")
    with pytest.raises(RegistrationError, match="outputs are shape"):
        itk_pdd.register_batch([("a", "b")], tmp_path / "x", outputs=["shape"])
    assert failure(Item("n", {"fixed": "/home/me/a.nii"}), "why")["inputs"] == {"fixed": {"name": "a.nii"}}
    json.dumps(failure(Item("n", {}), "why"))


def test_a_scheduler_that_is_not_there(tmp_path, scans, monkeypatch):
    monkeypatch.setattr("itk_pdd.cohort.cluster._SECONDS", 1)
    with pytest.raises(RegistrationError, match=r"no scheduler at tcp://127\.0\.0\.1:9"):
        itk_pdd.register_batch(scans / "pairs.csv", tmp_path / "out", scheduler="tcp://127.0.0.1:9")
