"""Compiled kernels are cached in the user's folder, announced once, and survive what can happen to a cache."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROGRAM = """
import logging
import torch
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
from itk_pdd import kernels
costs = torch.arange(36.0).reshape(2, 2, 3, 3).square()
print(float(kernels.mean_field(costs, 2).sum()))
"""


def start(folder: Path, **variables: str) -> subprocess.Popen:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_CACHE")}
    # Every platform's idea of the user's cache folder.
    environment |= {"HOME": str(folder), "XDG_CACHE_HOME": str(folder), "LOCALAPPDATA": str(folder), **variables}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen) -> tuple[float, str]:
    output, log = process.communicate(timeout=300)
    assert process.returncode == 0, log
    return float(output), log


def compiled_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*weigh_axis*.nbc"))


def test_compiled_once_and_announced(tmp_path):
    value, log = finish(start(tmp_path))
    assert value == pytest.approx(sum(i * i for i in range(36)))
    assert log.count("compiling kernels (once per machine)") == 1
    assert len(compiled_files(tmp_path)) == 1
    again, log = finish(start(tmp_path))
    assert again == value and "compiling" not in log


def test_two_processes_at_once(tmp_path):
    results = [finish(p) for p in [start(tmp_path), start(tmp_path)]]
    assert results[0][0] == results[1][0]
    again, log = finish(start(tmp_path))
    assert again == results[0][0] and "compiling" not in log


def test_damaged_cache(tmp_path):
    value, _ = finish(start(tmp_path))
    (file,) = compiled_files(tmp_path)
    file.write_bytes(file.read_bytes()[:100])
    again, log = finish(start(tmp_path))
    assert again == value and "compiling again" in log
    assert finish(start(tmp_path)) == (value, "")


def test_no_folder_can_be_written(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    # Of numba's own places only the one that needs a writable folder is left.
    value, log = finish(start(blocked, NUMBA_CACHE_LOCATOR_CLASSES="UserProvidedCacheLocator"))
    assert value == pytest.approx(sum(i * i for i in range(36)))
    assert "compiled kernels are not kept" in log and "compiling kernels" in log
    assert blocked.read_text() == "not a folder"
