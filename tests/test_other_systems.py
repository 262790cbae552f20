"""A registration from files to files needs nothing that only Linux, or only POSIX, has."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK
from conftest import GEOMETRIES, blobs

# Other packages, which have their own ways on each system, are imported before; ours is imported after.
PROGRAM = """
import asyncio, json, multiprocessing, os, signal, subprocess, sys, tempfile
import click, nibabel, numba, numpy, platformdirs, psutil, pydicom, scipy.ndimage, scipy.sparse, SimpleITK
for name in ("fork", "killpg", "wait4", "sched_getaffinity", "sched_setaffinity", "register_at_fork", "memfd_create",
             "getuid", "geteuid", "getpgid", "setsid", "mkfifo"):
    delattr(os, name)
for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "setitimer", "pthread_kill"):
    delattr(signal, name)
for name in ("resource", "fcntl", "pwd", "grp", "termios", "syslog"):
    sys.modules[name] = None  # importing it is an ImportError
from itk_pdd.cli.register import main as register
from itk_pdd.cli.transform import main as transform
register(["fixed.nii", "moving.nii", "-o", "field.nii.gz", "--transform", "transform.h5", "--warped", "warped.nii",
          "--record", "run.json", "--inverse", "inverse.nii"], standalone_mode=False)
transform(["image", "moving.nii", "-r", "fixed.nii", "-t", "transform.h5", "-o", "again.nii"], standalone_mode=False)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="takes away what Linux has")
def test_a_registration_without_what_windows_lacks(tmp_path) -> None:
    for seed, name in enumerate(("fixed.nii", "moving.nii")):
        SimpleITK.WriteImage(blobs(GEOMETRIES["plain 3-D"], seed=seed).to_simpleitk(), tmp_path / name)
    done = subprocess.run([sys.executable, "-P", "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    names = "warped.nii", "again.nii"
    warped, again = (SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(tmp_path / name)) for name in names)
    np.testing.assert_allclose(warped, again, atol=0.01 * float(warped.max()))
