"""The number of threads follows the user, the processors, the quotas of control groups and the environment."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from itk_pdd.kernels import threads
from itk_pdd.kernels.parallel import run


@pytest.fixture
def machine(monkeypatch):
    """A machine of 16 processors without limits."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    monkeypatch.setattr(threads, "quota", lambda: None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    for name in threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_all_processors_without_a_limit(machine):
    assert threads.allowed() == (16, "16 processors")


@pytest.mark.parametrize("name", threads.VARIABLES)
def test_the_environment_limits(machine, monkeypatch, name):
    monkeypatch.setenv(name, "3")
    assert threads.allowed() == (3, f"{name}=3")
    monkeypatch.setenv(name, "64")
    assert threads.threads() == 16
    for nothing in ("", "0", "many", "-2"):
        monkeypatch.setenv(name, nothing)
        assert threads.threads() == 16


def test_openmp_may_have_a_number_for_each_level(machine, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")
    assert threads.threads() == 4


def test_the_smallest_limit_counts(machine, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.setattr(threads, "quota", lambda: 1.5)
    assert threads.allowed() == (2, "a quota of 1.5 processors")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert threads.allowed() == (1, "torch.get_num_threads()")


def test_a_chosen_number_overrides_all_limits_in_its_own_thread(machine, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with threads.chosen(5):
        with threads.chosen(None):
            assert threads.threads() == 5
        with ThreadPoolExecutor(1) as other:
            assert other.submit(threads.threads).result() == 2
    assert threads.threads() == 2


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        # The limit of a group around the own one counts as well.
        ("0::/jobs/7\n", {"jobs/cpu.max": "400000 100000", "jobs/7/cpu.max": "max 100000"}, 4.0),
        # In a container the name of the group is that of the host.
        ("0::/docker/1f2e\n", {"cpu.max": "50000 100000"}, 0.5),
        (
            "5:memory:/a\n4:cpu,cpuacct:/a\n",
            {"cpu/a/cpu.cfs_quota_us": "300000\n", "cpu/a/cpu.cfs_period_us": "100000\n"},
            3.0,
        ),
        ("4:cpu,cpuacct:/a\n", {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, None),
        ("", {}, None),
        ("nonsense\n", {"cpu.max": "x"}, None),
    ],
)
def test_quotas_of_control_groups(tmp_path, groups, files, expected):
    (tmp_path / "group").write_text(groups)
    for name, text in files.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert threads.quota(str(tmp_path / "group"), str(tmp_path / "fs")) == expected
    assert threads.quota(str(tmp_path / "none"), str(tmp_path / "fs")) is None


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity masks are of Linux")
def test_the_affinity_of_a_process():
    program = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    program += "from itk_pdd.kernels import threads; print(*threads.allowed())"
    clean = {name: value for name, value in os.environ.items() if name not in threads.VARIABLES}
    found = subprocess.run([sys.executable, "-c", program], env=clean, capture_output=True, text=True, check=True)
    assert found.stdout.split()[0] == "1"


def test_kernels_run_in_as_many_threads():
    used: set[int] = set()
    barrier = threading.Barrier(3)

    def kernel(first: int, last: int) -> None:
        used.add(threading.get_ident())
        barrier.wait(20)

    with threads.chosen(3):
        run(kernel, 3)
    assert len(used) == 3
    used.clear()
    done = np.zeros(100)

    def alone(first: int, last: int) -> None:
        used.add(threading.get_ident())
        done[first:last] += 1

    with threads.chosen(1):
        run(alone, 100)
    assert used == {threading.get_ident()} and (done == 1).all()


def test_torch_computes_with_the_same_number_for_a_while():
    before = torch.get_num_threads()
    with threads.chosen(before + 1):
        with threads.torch_limited():
            assert torch.get_num_threads() == before + 1
        assert torch.get_num_threads() == before


def test_no_torch_for_the_number():
    program = "import sys; from itk_pdd.kernels import threads; threads.threads(); print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
