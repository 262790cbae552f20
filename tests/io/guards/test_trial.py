"""HDF5 files are read on trial by a Python interpreter, or by a fork where the program is none."""

from __future__ import annotations

import os
import signal
import sys

import pytest
import SimpleITK

from itk_pdd.errors import RegistrationError
from itk_pdd.io.files import read_transform
from itk_pdd.io.guards.trial import check_hdf5

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


@pytest.fixture
def path(tmp_path):
    SimpleITK.WriteTransform(SimpleITK.TranslationTransform(3, (1.0, 2.0, 3.0)), str(tmp_path / "t.h5"))
    return tmp_path / "t.h5"


@pytest.mark.parametrize("kind", ["frozen", "embedding", "nothing"])
def test_other_programs_are_not_started_again(path, monkeypatch, tmp_path, kind) -> None:
    started = tmp_path / "started"
    program = tmp_path / "viewer"
    program.write_text(f"#!/bin/sh\ntouch {started}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", "" if kind == "nothing" else str(program))
    if kind == "frozen":
        monkeypatch.setattr(sys, "frozen", True, raising=False)
        monkeypatch.setattr(sys, "executable", str(program.rename(tmp_path / "python-viewer")))
    assert read_transform(path).TransformPoint((0.0, 0.0, 0.0)) == (1.0, 2.0, 3.0)
    assert not started.exists()
    # The fork finds what the process on trial finds.
    monkeypatch.setattr(SimpleITK, "ReadTransform", lambda _: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(RegistrationError, match="reading it crashed a process on trial"):
        check_hdf5(path, name="initial_transform")
    monkeypatch.setattr("itk_pdd.io.guards.trial._SECONDS", 0.3)
    monkeypatch.setattr(SimpleITK, "ReadTransform", lambda _: signal.pause())
    with pytest.raises(RegistrationError, match="could not be read within 0 s"):
        check_hdf5(path, name="initial_transform")
