"""Limits of time and memory, kept on programs that break them."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from itk_pdd.evaluation.process import run_limited

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is watched through /proc")


def python(source: str) -> list[str]:
    return [sys.executable, "-c", source]


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_program_that_ends_well(tmp_path):
    log = tmp_path / "log.txt"
    outcome = run_limited(python("x = bytearray(200 << 20); print('done', flush=True)"), log=log)
    assert outcome.reason is None
    assert log.read_text() == "done\n"
    assert 200 << 20 < outcome.peak_memory < 260 << 20
    assert 0 < outcome.cpu_seconds < outcome.seconds + 1


def test_memory_counts_from_zero_not_from_our_own_size(tmp_path):
    ballast = bytearray(400 << 20)
    outcome = run_limited(python("import time; time.sleep(0.3)"), log=tmp_path / "log.txt")
    assert outcome.peak_memory < 100 << 20
    del ballast


def test_memory_of_children_is_counted_and_limited(tmp_path):
    source = (
        "import subprocess, sys\n"
        "child = 'import time; x = bytearray(150 << 20); time.sleep(20)'\n"
        "[subprocess.Popen([sys.executable, '-c', child]) for _ in range(2)][0].wait()"
    )
    outcome = run_limited(python(source), log=tmp_path / "log.txt", memory_limit=250 << 20, time_limit=20)
    assert outcome.reason.startswith("out of memory: used 0.") and "limit is 0.244 GiB" in outcome.reason
    assert outcome.seconds < 15


def test_time_limit_ends_the_program_and_its_children(tmp_path):
    source = (
        "import subprocess, sys, time\n"
        "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid, flush=True)\n"
        "time.sleep(60)"
    )
    outcome = run_limited(python(source), log=tmp_path / "log.txt", time_limit=1.5)
    assert outcome.reason == "out of time: not done after 1.5 s"
    assert outcome.seconds < 20
    time.sleep(0.2)
    assert not alive(int((tmp_path / "log.txt").read_text()))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import sys; print('first'); sys.exit('the last words')", "exit code 1: the last words"),
        ("raise SystemExit(3)", "exit code 3: it printed nothing"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL, perhaps because the machine ran out of memory"),
        ("import os; os.abort()", "killed by SIGABRT"),
    ],
)
def test_reasons(tmp_path, source, words):
    assert words in run_limited(python(source), log=tmp_path / "log.txt").reason


def test_a_program_that_is_not_there(tmp_path):
    assert "no-such-program cannot be started" in run_limited(["no-such-program"], log=tmp_path / "log").reason


def test_programs_end_when_the_comparison_is_killed(tmp_path):
    source = (
        "from pathlib import Path\n"
        "from itk_pdd.evaluation.process import run_limited\n"
        f"run_limited([{sys.executable!r}, '-c', 'import os, time; print(os.getpid(), flush=True); time.sleep(60)'],"
        f" log=Path({str(tmp_path / 'log.txt')!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", source], env=os.environ)
    for _ in range(300):
        time.sleep(0.1)
        if (tmp_path / "log.txt").exists() and (tmp_path / "log.txt").read_text().strip():
            break
    pid = int((tmp_path / "log.txt").read_text())
    assert alive(pid)
    process.kill()
    process.wait()
    for _ in range(50):
        time.sleep(0.1)
        if not alive(pid):
            break
    assert not alive(pid)
