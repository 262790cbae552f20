"""Programs are run, measured and ended without fork, process groups and /proc, as on Windows."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest

from itk_pdd.evaluation import launch, process


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def test_a_program_is_measured(tmp_path) -> None:
    end = launch.watched(os.getpid(), python("x = bytearray(b'1' * (80 << 20)); import time; time.sleep(0.5)"))
    assert end["code"] == 0
    assert 80 << 20 < end["memory"] < 250 << 20
    assert 0 < end["cpu_seconds"] < 5


def test_exit_codes_and_a_program_that_is_not_there(capfd) -> None:
    assert launch.watched(os.getpid(), python("raise SystemExit(3)"))["code"] == 3
    assert launch.watched(os.getpid(), ["no-such-program"])["code"] == 127
    assert "no-such-program cannot be started" in capfd.readouterr().err


def test_a_program_ends_with_its_parent() -> None:
    parent = subprocess.Popen(python("pass"))
    parent.wait()
    assert launch.watched(parent.pid, python("import time; time.sleep(60)"))["code"] != 0


def test_all_is_killed_without_process_groups(monkeypatch) -> None:
    start = "subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)'])"
    code = f"import subprocess, sys, time; {start}; time.sleep(60)"
    leader = psutil.Popen(python(code))
    until = time.monotonic() + 20
    while not (children := leader.children()) and time.monotonic() < until:
        time.sleep(0.02)
    used, highest = process._tree_memory_elsewhere(leader.pid)
    assert 0 < highest == used
    monkeypatch.delattr(os, "killpg")
    process.kill_session(leader.pid)
    assert leader.wait(timeout=20) != 0
    assert psutil.wait_procs(children, timeout=20)[1] == []


@pytest.mark.parametrize("code", [3221225477, -11])
def test_a_trial_that_crashed_is_seen(code, tmp_path, monkeypatch) -> None:
    """Windows tells the number of the exception, others the signal."""
    from itk_pdd.errors import RegistrationError
    from itk_pdd.io.guards import trial

    (tmp_path / "t.h5").write_bytes(b"0")
    monkeypatch.setattr(trial.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, code))
    with pytest.raises(RegistrationError, match="crashed"):
        trial.check_hdf5(tmp_path / "t.h5", name="transform")
