"""Feed damaged files to the commands: each must end in one sentence and its exit code, or in a valid result.

    python tests/benchmarks/fuzz.py --count 5000 --seed 1

Every input is made from the seed and its number, so that any can be made again (``--only NUMBER --keep FOLDER``). The
inputs are read in a child process, which a watchdog ends when one takes too long, and which is started again when it
crashed. The child may use 6 GB.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import queue
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

LIMIT_S, MEMORY = 60.0, 6 << 30
_WARNING = re.compile(r"Warning: |\w+: the folder .* holds \d+ DICOM series; reading the largest")
_ERROR = re.compile(r"Error: [^\n]+\.\n?")


def work(seed: int, folder: Path) -> None:
    """The child: makes and reads the inputs whose numbers it is told, a line each, and answers with a line each."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    import itk_pdd.cli.register
    import itk_pdd.cli.transform  # noqa: F401
    from specimens import build

    specimens = build(folder / "specimens")
    _companions(folder)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(attempt(specimens, seed, int(line), folder)), flush=True)


def attempt(specimens: dict, seed: int, number: int, folder: Path) -> dict[str, str]:
    """Make input ``number``, give it to a command, and say what came of it: kind, damage, outcome, what is wrong."""
    import numpy as np
    from damage import damaged

    rng = np.random.default_rng([seed, number])
    kind = sorted(specimens)[number % len(specimens)]
    trap, place, out = folder / "trap", folder / "input", folder / "out"
    for path in (place, out):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
    files, how = damaged(specimens[kind], rng, trap=str(trap))
    for name, content in files.items():
        (place / name).write_bytes(content)
    if kind.startswith("list"):
        for name in ("fixed.nii", "moving.nii", "mask.nii"):
            shutil.copy(folder / name, place / name)
    started = time.perf_counter()
    try:
        outcome, wrong = _judged(*_use(kind, place, out, folder, rng), out)
    except Exception as error:
        outcome, wrong = "traceback", f"{type(error).__name__}: {error}"
    if trap.exists():
        outcome, wrong = "code was run", "the trap was written"
        trap.unlink()
    seconds = f"{time.perf_counter() - started:.2f}"
    return {"number": str(number), "kind": kind, "how": how, "outcome": outcome, "wrong": wrong, "seconds": seconds}


def _companions(folder: Path) -> None:
    """Valid files that stand beside the damaged ones."""
    import SimpleITK
    from conftest import blobs, wave
    from specimens import FLAT, GRID

    from itk_pdd.io.fields import write_field

    for name, volume in (
        ("fixed", blobs(GRID, seed=4)),
        ("moving", blobs(GRID, seed=5)),
        ("flat", blobs(FLAT, seed=4)),
    ):
        SimpleITK.WriteImage(volume.to_simpleitk(), str(folder / f"{name}.nii"))
    mask = SimpleITK.Cast(SimpleITK.ReadImage(str(folder / "fixed.nii")) > 20, SimpleITK.sitkUInt8)
    SimpleITK.WriteImage(mask, str(folder / "mask.nii"))
    write_field(wave(GRID), folder / "field.nii")


def _use(kind: str, place: Path, out: Path, folder: Path, rng):
    """Give the input to the command, or function, that reads such files; returns its result."""
    from click.testing import CliRunner
    from itk_pdd.cli.register import main as register
    from itk_pdd.cli.transform import main as transform

    group, _, name = kind.partition(" ")
    path = place / name
    if name == "x.hdr":
        path = place / "x.hdr"
    fixed, moving = folder / "fixed.nii", folder / "moving.nii"
    base = ["--threads", "1", "-o", out / "field.nii"]
    command, arguments = register, [fixed, moving, *base]
    if group == "dicom":
        path = place
    if group in ("image", "dicom"):
        flat = name.endswith((".tif", ".png"))
        role = str(rng.choice(["fixed", "moving", "fixed_mask", "labels"]))
        if flat:
            fixed = moving = folder / "flat.nii"
        if role == "fixed":
            arguments = [path, moving, *base, "--initialise", "center"]
        elif role == "moving":
            arguments = [fixed, path, *base, "--warped", out / "warped.nii", "--initialise", "center"]
        elif role == "fixed_mask":
            arguments = [fixed, moving, *base, "--fixed-mask", path]
        else:
            arguments = [fixed, moving, *base, "--moving-labels", path, "--warped-labels", out / "labels.nii"]
    elif group == "transform":
        role = str(rng.choice(["initial", "image", "compose", "inverse"]))
        if role == "initial":
            arguments += ["--initial-transform", path]
        else:
            command = transform
            arguments = {
                "image": ["image", moving, "-r", fixed],
                "compose": ["compose", "-r", fixed],
                "inverse": ["inverse", "-r", moving],
            }[role] + ["-t", path, "-o", out / "result.nii", "--threads", "1"]
    elif group == "points":
        command = transform
        to = str(rng.choice(["fixed", "moving"]))
        arguments = ["points", path, "-t", folder / "field.nii", "-o", out / name, "--to", to, "--outside", "nearest"]
    elif group == "model":
        arguments += ["--model", place]
    else:
        return _read(group, path, place)
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    return result.exit_code, result.stderr, result.exception


def _read(group: str, path: Path, place: Path):
    from itk_pdd.errors import RegistrationError
    from itk_pdd.training.cases import read_scans
    from itk_pdd.training.checkpoint import read_checkpoint

    try:
        read_checkpoint(place) if group == "checkpoint" else read_scans(path)
    except RegistrationError as error:
        return 1, f"Error: {error}.\n", None
    return 0, "", None


def _judged(code: int, stderr: str, exception: BaseException | None, out: Path) -> tuple[str, str]:
    """What came of it, and what is wrong with that."""
    import numpy as np
    import SimpleITK

    if exception is not None and not isinstance(exception, SystemExit):
        return "traceback", f"{type(exception).__name__}: {exception}"
    told = "".join(line for line in stderr.splitlines(keepends=True) if not _WARNING.match(line))
    left = sorted(file.name for file in out.iterdir())
    if code == 0:
        for name in left:
            if name.endswith(".nii"):
                array = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(out / name)))
                if array.dtype.kind == "f" and not np.isfinite(array).all():
                    return "wrong result", f"{name} is not finite"
        return "result", ""
    if code not in (1, 3):
        return "wrong code", f"exit code {code}: {stderr[-300:]}"
    if left:
        return "left over", f"{left} after {told}"
    if not _ERROR.fullmatch(told):
        return "bad message", told[-600:]
    return "error", ""


class _Child:
    """A child process and the thread that reads its answers."""

    def __init__(self, seed: int, folder: Path) -> None:
        command = [sys.executable, __file__, "--work", str(folder), "--seed", str(seed)]
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        self.answers: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        if self.answer(300) is None:
            raise RuntimeError(f"the child does not start: {self.last_words()}")

    def _listen(self) -> None:
        for line in self.process.stdout:
            if line.startswith(("ready", "{")):
                self.answers.put(line)
        self.answers.put(None)

    def answer(self, limit: float) -> str | None:
        """The next line, None at the end of the process; raises queue.Empty when it takes too long."""
        return self.answers.get(timeout=limit)

    def ask(self, number: int) -> None:
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()

    def last_words(self) -> str:
        self.log.seek(0)
        return self.log.read().decode(errors="replace")[-400:]

    def end(self) -> int:
        with contextlib.suppress(OSError):
            self.process.kill()
        return self.process.wait()


def run(count: int, seed: int, *, first: int = 0, limit: float = LIMIT_S, keep: Path | None = None) -> list[dict]:
    """Try inputs ``first`` to ``first + count - 1`` of a seed; returns what came of each (see :func:`attempt`)."""
    found, child = [], None
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for number in range(first, first + count):
            if child is None:
                child = _Child(seed, folder)
            child.ask(number)
            try:
                line = child.answer(limit)
                answer = json.loads(line) if line else None
            except queue.Empty:
                child.end()
                child, answer = None, {"number": str(number), "outcome": "hang", "wrong": f"more than {limit:.0f} s"}
            if answer is None:
                child.process.wait()
                wrong = f"ended with {child.process.returncode}: {child.last_words()}"
                child, answer = None, {"number": str(number), "outcome": "crash", "wrong": wrong}
            found.append(answer)
            if answer["wrong"]:
                print(answer, flush=True)
            if keep is not None and (answer["wrong"] or count == 1):
                shutil.copytree(folder / "input", keep / str(number), dirs_exist_ok=True)
        if child is not None:
            child.end()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--only", type=int, help="one input only")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that were answered wrongly")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work is not None:
        work(options.seed, options.work)
        return
    if options.only is not None:
        options.count, options.first = 1, options.only
    started = time.perf_counter()
    found = run(options.count, options.seed, first=options.first, keep=options.keep)
    if options.only is not None:
        print(found[0])
    kinds = collections.Counter((answer.get("kind", "?"), answer["outcome"]) for answer in found)
    for (kind, outcome), number in sorted(kinds.items()):
        print(f"{kind:26s} {outcome:14s} {number}")
    print(collections.Counter(answer["outcome"] for answer in found), f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
