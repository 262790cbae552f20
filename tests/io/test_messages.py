"""What libraries print goes to the log, and standard error survives threads, forks, and its own absence."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest

from itk_pdd.errors import RegistrationError
from itk_pdd.io.files import read_image, read_transform
from itk_pdd.io.messages import library_messages
from itk_pdd.io.outputs import Output, OutputError, check_outputs


def run(code: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-P", "-c", textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, **options)


def test_prints_of_libraries_go_to_the_log(caplog, capfd) -> None:
    caplog.set_level("DEBUG", logger="itk_pdd")
    with library_messages():
        os.write(2, b"a trace")
    assert "a trace" in caplog.text and capfd.readouterr().err == ""


def test_standard_error_survives_threads() -> None:
    before = os.fstat(2)

    def work(_) -> None:
        for _ in range(300):
            with library_messages():
                os.stat(".")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))
    after = os.fstat(2)
    assert (before.st_dev, before.st_ino) == (after.st_dev, after.st_ino)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_has_its_standard_error() -> None:
    found = run("""
        import os
        from itk_pdd.io.messages import library_messages
        with library_messages():
            if (child := os.fork()) == 0:
                os.write(2, b"child speaks")
                os._exit(0)
            os.waitpid(child, 0)
    """)
    assert (found.returncode, found.stderr) == (0, "child speaks")


def test_no_standard_error_at_all() -> None:
    found = run("""
        import os, sys
        from itk_pdd.io.messages import library_messages
        sys.stderr = None
        with library_messages():
            print("none")
        os.close(2)
        with library_messages():
            print("closed")
    """)
    assert (found.returncode, found.stdout) == (0, "none\nclosed\n")


def test_no_temporary_folder(monkeypatch) -> None:
    def missing(*_args, **_options):
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr("tempfile.TemporaryFile", missing)
    monkeypatch.delattr("os.memfd_create", raising=False)
    with library_messages():
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="file names of other systems are text")
def test_file_names_that_are_not_utf8(tmp_path) -> None:
    """ITK ends the process over them."""
    path = os.fsdecode(os.fsencode(tmp_path) + b"/f\xfcr.nii.gz")
    open(path, "wb").close()
    for read in (read_image, read_transform):
        with pytest.raises(RegistrationError, match=r"moving: the file name '.*f.udcfcr.nii.gz' is not UTF-8"):
            read(path, name="moving")
    with pytest.raises(OutputError, match=r"output: the file name '.*f.udcfcr.nii.gz' is not UTF-8"):
        check_outputs([Output(path, "output", (".nii.gz",))])
