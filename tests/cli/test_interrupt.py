"""Ctrl-C while a library does not return to Python, and memory, disk and folders that are not to be had."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import SimpleITK
from conftest import GEOMETRIES, blobs

_BUSY = """
    import hashlib, os, sys
    from pathlib import Path
    from itk_pdd.io import outputs
    import itk_pdd.commands.register

    def register_files(fixed, moving, *, output, **rest):
        def write(path):
            path.write_bytes(b"half")
            print("busy", flush=True)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # as while the file libraries write
            # One call that takes a minute and does not look at signals.
            hashlib.pbkdf2_hmac("sha256", b"", b"", 120_000_000)
        outputs.write_all([(outputs.Output(output, "output", (".nii",)), write)])

    itk_pdd.commands.register.register_files = register_files
    from itk_pdd.cli.register import main
    main(sys.argv[1:])
"""


def interrupted(code: str, folder: Path, number: int = signal.SIGINT) -> subprocess.Popen:
    """A process that was told of Ctrl-C (or another signal) once it had said that it is busy."""
    command = [sys.executable, "-P", "-c", textwrap.dedent(code), "f.nii", "m.nii", "-o", str(folder / "u.nii")]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests are a job in the background of a shell, Ctrl-C would not be for them.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    assert process.stdout.readline() == "busy\n"
    process.send_signal(number)
    return process


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_while_a_library_is_busy(tmp_path) -> None:
    process = interrupted(_BUSY, tmp_path)
    sent = time.perf_counter()
    _, stderr = process.communicate(timeout=50)
    # Half a second of grace, and what a busy machine adds.
    assert time.perf_counter() - sent < 5
    assert (process.returncode, stderr) == (130, "Interrupted; nothing was written.\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
@pytest.mark.parametrize("busy", ["library", "python"])
def test_other_signals_end_like_ctrl_c(tmp_path, name, code, busy) -> None:
    """While a library computes and while Python can be told: nothing half written stays, and the code tells which."""
    program = (
        _BUSY if busy == "library" else _BUSY.replace('hashlib.pbkdf2_hmac("sha256", b"", b"", 120_000_000)', _NAP)
    )
    process = interrupted(program, tmp_path, getattr(signal, name))
    sent = time.perf_counter()
    _, stderr = process.communicate(timeout=50)
    assert time.perf_counter() - sent < 5
    assert process.returncode == code
    if busy == "library":  # else standard error is turned away when Python writes the sentence
        assert stderr == "Interrupted; nothing was written.\n"
    assert list(tmp_path.iterdir()) == []


_HASH = 'hashlib.pbkdf2_hmac("sha256", b"", b"", 120_000_000)'
_NAP = "import time; time.sleep(60)"
_BETWEEN = """
    import sys, threading, time
    import itk_pdd.commands.register

    def register_files(*files, **options):
        # Another thread computes on, and the exception passes through code made from text.
        threading.Thread(target=time.sleep, args=(60,)).start()
        print("busy", flush=True)
        exec("import time\\nwhile True: time.sleep(0.01)")

    itk_pdd.commands.register.register_files = register_files
    from itk_pdd.cli.register import main
    main(sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_between_two_steps(tmp_path) -> None:
    process = interrupted(_BETWEEN, tmp_path)
    sent = time.perf_counter()
    _, stderr = process.communicate(timeout=50)
    assert time.perf_counter() - sent < 5
    assert (process.returncode, stderr) == (130, "Interrupted; nothing was written.\n")


_READING = """
    import hashlib, sys, time
    import {module}

    def read(path):
        print("busy", flush=True)
        {busy}

    {module}.{function} = read
    from itk_pdd.cli.{command} import main
    main(["list.csv", "-o", "out.csv"])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("busy", ['hashlib.pbkdf2_hmac("sha256", b"", b"", 120_000_000)', "time.sleep(60)"])
@pytest.mark.parametrize(
    ("command", "module", "function", "told"),
    [
        ("train", "itk_pdd.training.cases", "read_scans", "the same command goes on from what is done"),
        ("evaluate", "itk_pdd.training.cases", "read_scans", "nothing was written"),
        ("compare", "itk_pdd.evaluation.datasets", "read_pairs", "the same command goes on from what is done"),
    ],
)
def test_ctrl_c_ends_the_long_commands(tmp_path, monkeypatch, command, module, function, told, busy) -> None:
    """While a library computes, and while Python can be told."""
    monkeypatch.chdir(tmp_path)
    Path("list.csv").write_text("image,labels\n")
    process = interrupted(_READING.format(command=command, module=module, function=function, busy=busy), tmp_path)
    sent = time.perf_counter()
    _, stderr = process.communicate(timeout=50)
    assert time.perf_counter() - sent < 5
    assert (process.returncode, stderr) == (130, f"Interrupted; {told}.\n")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_ends_a_registration_of_a_comparison(pair, tmp_path) -> None:
    note, program = tmp_path / "note", tmp_path / "slow.py"
    beats = f"import time\nwhile True:\n    open({str(note)!r}, 'a').write('.')\n    time.sleep(0.05)\n"
    program.write_text(beats)
    (tmp_path / "pairs.csv").write_text("fixed,moving\nfixed.nii,moving.nii\n")
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "itk_pdd.cli.compare", str(tmp_path / "pairs.csv"), "-o", str(tmp_path / "out"),
         "--methods", "", "--command", f"slow={sys.executable} {program} {{fixed}} {{moving}} {{field}}"],
        stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    while not note.is_file():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    sent = time.perf_counter()
    _, stderr = process.communicate(timeout=50)
    assert time.perf_counter() - sent < 5
    assert process.returncode == 130
    assert stderr.endswith("Interrupted; the same command goes on from what is done.\n")
    last = note.stat().st_size
    time.sleep(0.5)
    assert note.stat().st_size <= last + 1, "the program goes on"


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_nohup_keeps_its_meaning(tmp_path) -> None:
    code = """
        import os, signal, sys
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        from itk_pdd.cli._interrupt import interruptible
        with interruptible(130, "stopped"):
            os.kill(os.getpid(), signal.SIGHUP)
        print("goes on", signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
    """
    found = subprocess.run([sys.executable, "-P", "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert (found.returncode, found.stdout, found.stderr) == (0, "goes on True\n", "")


@pytest.fixture
def pair(tmp_path) -> list[str]:
    paths = [str(tmp_path / name) for name in ("fixed.nii", "moving.nii")]
    for seed, path in enumerate(paths):
        SimpleITK.WriteImage(blobs(GEOMETRIES["oblique"], seed=seed).to_simpleitk(), path)
    return paths


def run(arguments: list[str], out: Path, limit: tuple[int, int] | None = None) -> subprocess.CompletedProcess:
    out.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-P", "-m", "itk_pdd.cli.register", *arguments, "-o", str(out / "u.nii.gz")],
        capture_output=True,
        text=True,
        preexec_fn=None if limit is None else lambda: resource.setrlimit(limit[0], (limit[1], limit[1])),
    )


@pytest.mark.slow
def test_out_of_memory(pair, tmp_path) -> None:
    """Images that need more memory than there is end in one sentence."""
    SimpleITK.WriteImage(SimpleITK.Image((900, 900, 900), SimpleITK.sitkUInt8), str(tmp_path / "large.nii.gz"))
    found = run([pair[0], str(tmp_path / "large.nii.gz")], tmp_path / "out", (resource.RLIMIT_AS, 1 << 30))
    assert found.returncode == 1
    assert found.stderr.startswith("Error: ") and found.stderr.count("\n") == 1, found.stderr
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
def test_the_system_ends_writing(pair, tmp_path) -> None:
    """A limit on the size of files stands for a full disk."""
    run(pair, tmp_path / "first")  # Without the limit, so that the kernels are compiled and kept.
    found = run(pair, tmp_path / "out", (resource.RLIMIT_FSIZE, 8192))
    # The images are noise, which the verdict says before the files are written.
    lines = [line for line in found.stderr.splitlines() if not line.startswith("Verdict: ")]
    assert (found.returncode, len(lines)) == (3, 1), found.stderr
    assert lines[0].startswith("Error: ")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_may_not_be_written(pair, tmp_path) -> None:
    (tmp_path / "out").mkdir(mode=0o555)
    found = run(pair, tmp_path / "out")
    assert (found.returncode, found.stderr.count("\n")) == (3, 1)
    assert "nothing can be written to the folder" in found.stderr
