"""Stop pdd-register at random moments: with Ctrl-C it has to end within a second, killed it leaves no half file.

    python tests/benchmarks/interrupt.py --size 192 160 256 --interrupts 40 --kills 40 --seed 0

``--gaps`` measures instead how long the main thread does not return to Python during a registration (what a plain
``KeyboardInterrupt`` would have to wait for), and how long other threads get no turn.
"""

from __future__ import annotations

import argparse
import collections
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import SimpleITK

_COMMAND = [sys.executable, "-P", "-m", "itk_pdd.cli.register"]
_OUTPUTS = {
    "-o": "field.nii.gz",
    "--warped": "warped.nii.gz",
    "--transform": "transform.h5",
    "--inverse": "inverse.mha",
}


def write_pair(folder: Path, size: tuple[int, ...]) -> list[str]:
    """A synthetic pair as files."""
    from itk_pdd.synthesis import make_pair

    pair = make_pair(size, 2.0, seed=0)
    paths = [str(folder / "fixed.nii.gz"), str(folder / "moving.nii.gz")]
    for path, volume in zip(paths, (pair.fixed, pair.moving), strict=True):
        SimpleITK.WriteImage(volume.to_simpleitk(np.int16), path)
    return paths


def start(paths: list[str], out: Path, threads: int) -> subprocess.Popen:
    """The command with several outputs in an empty folder."""
    out.mkdir()
    options = [word for option, name in _OUTPUTS.items() for word in (option, str(out / name))]
    command = [*_COMMAND, *paths, *options, "--threads", str(threads)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=_heed)


def _heed() -> None:
    """A job in the background of a shell inherits that Ctrl-C is not for it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def stopped(paths: list[str], out: Path, delay: float, number: signal.Signals, threads: int) -> tuple[float, int, str]:
    """Send a signal after ``delay`` seconds: seconds until the end, exit code, and what is on standard error."""
    process = start(paths, out, threads)
    time.sleep(delay)
    process.send_signal(number)
    sent = time.perf_counter()
    stderr = process.communicate(timeout=120)[1].decode(errors="replace")
    return time.perf_counter() - sent, process.returncode, stderr


def half_files(out: Path) -> list[str]:
    """Files under their final names that cannot be read as a whole."""
    from itk_pdd.io.fields import read_field

    bad = []
    for name in _OUTPUTS.values():
        path = out / name
        if path.exists():
            try:
                if name == "warped.nii.gz":
                    SimpleITK.ReadImage(str(path))
                else:
                    read_field(path)
            except Exception as error:
                bad.append(f"{name}: {error}")
    return bad


def gaps(paths: list[str], out: Path, threads: int) -> None:
    """Longest times without a turn of the main thread's interpreter, and of another thread, by where that was."""
    from itk_pdd.commands.register import register_files

    step, stacks = "", collections.defaultdict(float)
    last = [time.perf_counter()]

    def ticked(_number, frame) -> None:
        now = time.perf_counter()
        where = f"{step}: {frame.f_code.co_filename.split('/')[-1]}:{frame.f_lineno}"
        stacks[where] = max(stacks[where], now - last[0])
        last[0] = now

    others, stop = [0.0], threading.Event()

    def watch() -> None:
        before = time.perf_counter()
        while not stop.wait(0.01):
            now = time.perf_counter()
            others[0], before = max(others[0], now - before), now

    def told(_fraction: float, text: str) -> None:
        nonlocal step
        step = text

    signal.signal(signal.SIGALRM, ticked)
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    threading.Thread(target=watch, daemon=True).start()
    started = time.perf_counter()
    out.mkdir()
    names = {"-o": "output", "--warped": "warped", "--transform": "transform", "--inverse": "inverse"}
    register_files(*paths, **{names[o]: out / n for o, n in _OUTPUTS.items()}, threads=threads, progress=told)
    signal.setitimer(signal.ITIMER_REAL, 0)
    stop.set()
    print(f"registered in {time.perf_counter() - started:.1f} s; other threads waited for {others[0]:.2f} s at most")
    for where, seconds in sorted(stacks.items(), key=lambda item: -item[1])[:15]:
        print(f"{seconds:6.2f} s without a signal before {where}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=3, default=(192, 160, 256))
    parser.add_argument("--interrupts", type=int, default=0)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--gaps", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = write_pair(folder, tuple(options.size))
        if options.gaps:
            gaps(paths, folder / "gaps", options.threads)
        began = time.perf_counter()
        whole = start(paths, folder / "whole", options.threads)
        whole.communicate()
        total = time.perf_counter() - began
        print(f"undisturbed: {total:.1f} s, exit code {whole.returncode}")
        for what, count, number in (
            ("Ctrl-C", options.interrupts, signal.SIGINT), ("kill -9", options.kills, signal.SIGKILL)
        ):  # fmt: skip
            seconds, codes, wrong, remains = [], collections.Counter(), [], 0
            for i, delay in enumerate(rng.uniform(0.0, total, count)):
                out = folder / f"{number.name}-{i}"
                took, code, stderr = stopped(paths, out, delay, number, options.threads)
                seconds.append(took)
                codes[code] += 1
                files = sorted(file.name for file in out.iterdir())
                bad = half_files(out)
                if number == signal.SIGINT and code == 130 and (files or "Traceback" in stderr):
                    bad.append(f"left {files}: {stderr}")
                # -2: Python was ending already, after the command.
                elif number == signal.SIGINT and not (code in (0, 130) or (code == -2 and len(files) == len(_OUTPUTS))):
                    bad.append(f"exit code {code} after {delay:.2f} s: {stderr[-200:]}")
                remains += any(file.startswith(".") for file in files)
                wrong += [f"after {delay:.2f} s: {each}" for each in bad]
            if count:
                print(
                    f"{what}: {count} times; ended within {max(seconds):.2f} s (median {np.median(seconds):.2f} s); "
                    f"exit codes {dict(codes)}; hidden folders left in {remains}"
                )
                for each in wrong:
                    print("  WRONG", each)


if __name__ == "__main__":
    main()
