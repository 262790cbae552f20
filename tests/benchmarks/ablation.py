"""The paper's ablation on the abdominal CT data: each row trained by pdd-train, measured on the 12 validation pairs.

    python tests/benchmarks/ablation.py OUT [--rows full warped ...] [--minutes M | --iterations N] [--budget MINUTES]

Everything is kept in the folder OUT and nothing is done twice: a row whose model is there is not trained again, a
training that was interrupted goes on from its checkpoint (five minutes are lost at most), a pair that was measured is
not measured again. So the same command, run again, goes on, in the background for instance (``nice -n 19 ... --budget
60``). OUT belongs to one length of training and one set of further options. The table is printed and written to
OUT/table.md after each row; a row is left out of it until all its pairs are measured.

Every model gets the same time, or the same number of iterations; both stand in the table. Fields are measured as the
network gives them, folds included, as in the paper.

Each row's command stands in the card of its model. ``--train`` adds options for all of them, ``--train "--warp 0.4 11
16 --spacing 4 --stride 3" --second 0.15 7 20`` for a smaller size.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from itk_pdd import models, registration
from itk_pdd.evaluation import datasets
from itk_pdd.evaluation.scoring import load_case, score
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.io.outputs import Output, write_all, write_bytes
from itk_pdd.network.card import PddCard
from itk_pdd.training.cases import SPLITS
from itk_pdd.training.curve import write_table

LARGE_ORGANS = (1, 2, 3, 6, 7)
ORGANS = (
    "spleen", "right kidney", "left kidney", "gallbladder", "oesophagus", "liver", "stomach", "aorta",
    "inferior vena cava", "portal and splenic vein", "pancreas", "right adrenal", "left adrenal",
)  # fmt: skip
COMMON = (
    "--method", "pdd", "--intensity", "-125", "275", "--seed", "0", "--optimisation", "0", "--pairs", "6",
    "--validate-every", "100",
)  # fmt: skip
FIGURES = ("dice", "dice5", "sd_log_j3", "folding", "seconds")


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Parameters
    ----------
    title : str
        As it stands in the table.
    model : str
        Folder of its model below OUT; several rows may share one.
    options : tuple of str
        Of pdd-train, beside the common ones.
    optimisation : int
        Steps of the instance optimisation.
    second : bool
        Whether a second, finer search follows.
    step, pair : float
        Seconds of an iteration of its training and of the measurement of a pair, for the help: on 2 CPU cores (AMD
        EPYC, Zen 5) with nothing else to do, with an untrained network.
    """

    title: str
    model: str
    options: tuple[str, ...] = ()
    optimisation: int = 0
    second: bool = False
    step: float = 0.0
    pair: float = 2.0


_FIRST, _SECOND = ("0.4", "15", "32"), ("0.15", "11", "39")
ROWS = {
    "before": Row("before registration", ""),
    "mind-ssc": Row("MIND-SSC features", "mind-ssc", ("--features", "mind-ssc", "--rate", "0.05"), step=12, pair=17),
    "no-mean-field": Row("without mean field", "no-mean-field", ("--no-mean-field",), step=6, pair=6),
    "warped": Row("without non-local loss", "warped", ("--loss", "warped"), step=9, pair=6),
    "self-similarity": Row("without labels", "self-similarity", ("--loss", "self-similarity"), step=22, pair=6),
    "full": Row("full", "full", step=10, pair=6),
    "instance": Row("full, instance optimisation", "full", optimisation=50, step=10, pair=28),
    "two-warps": Row("two warps", "two-warps", second=True, step=14, pair=8),
    "two-warps-instance": Row("two warps, instance optimisation", "two-warps", (), 50, True, step=14, pair=82),
}


def durations(pairs: int = 12) -> str:
    """How long each row takes, for the help."""
    lines = [
        "How long the rows take: the training of each model --minutes (120 by default) or --iterations of so many",
        f"seconds, then the measurement of {pairs} pairs; before the first row the scans are read (a minute). On 2 CPU",
        "cores (AMD EPYC, Zen 5) with nothing else to do:",
        "",
        f"  {'row':20s} {'model':16s} {'s per iteration':>16s} {'iterations in 120 min':>22s} {'min to measure':>15s}",
    ]
    trained: set[str] = set()
    for name, row in ROWS.items():
        told = row.model and row.model not in trained
        step, count = (f"{row.step:.0f}", f"{7200 / row.step:.0f}") if told else ("-", "-")
        lines.append(
            f"  {name:20s} {row.model or '-':16s} {step:>16s} {count:>22s} {max(1, round(row.pair * pairs / 60)):>15d}"
        )
        trained.add(row.model)
    lines += ["", "Rows of one model train it once: all of them together take 6 trainings, 12 hours by default."]
    return "\n".join(lines)


def write_scans(path: Path) -> None:
    """The list of scans for pdd-train."""
    folder = datasets.data_folder() / "abdomen_ct"
    splits = json.loads((datasets.data_folder() / "splits.json").read_text())["abdomen_ct"]
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("image", "labels", "split", "name"))
        for split in SPLITS:
            for name in splits.get(split, ()):
                writer.writerow((folder / f"image_{name}.nii.gz", folder / f"label_{name}.nii.gz", split, name))


def train(row: Row, out: Path, options: argparse.Namespace, deadline: float) -> bool:
    """Train the model of a row from where it is; whether it is done."""
    folder = out / row.model
    if (folder / "card.json").is_file():
        return True
    words = [sys.executable, "-P", "-m", "itk_pdd.cli.train", str(out / "abdomen.csv"), "-o", str(folder), *COMMON]
    for number, name in enumerate(ORGANS, start=1):
        words += ["--class", f"{number}={name}"]
    words += ["--cache", str(out / "cache"), "-v", *row.options, *shlex.split(options.train)]
    if row.second:
        words += [*(() if "--warp" in words else ("--warp", *_FIRST)), "--warp", *options.second]
    if options.iterations is None:
        words += ["--minutes", f"{options.minutes:g}"]
    else:
        words += ["--iterations", str(options.iterations)]
    if options.threads:
        words += ["--threads", str(options.threads)]
    print("training", row.model, ":", shlex.join(words[3:]), flush=True)
    with (out / f"{row.model}.log").open("a") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
        try:
            status = process.wait(None if deadline == np.inf else max(1.0, deadline - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt) as stop:
            # The checkpoint of the last validation is kept: the next call goes on from there.
            process.send_signal(signal.SIGINT)
            process.wait()
            if isinstance(stop, KeyboardInterrupt):
                raise
            return False
    if status:
        raise SystemExit(f"the training of {row.model} failed, see {out / row.model}.log")
    return True


def measure(pair: datasets.Pair, row: Row, out: Path, threads: int | None) -> dict[str, float]:
    """Register a pair with the model of a row, or not at all, and measure the result."""
    case = load_case(pair)
    field, seconds = DisplacementField.zeros(case.fixed.grid), 0.0
    if row.model:
        began = time.perf_counter()
        model = replace(models.load(out / row.model), smallest_jacobian=None, iterations=row.optimisation)
        field = registration.register_volumes(case.fixed, case.moving, model=model, threads=threads).field
        seconds = time.perf_counter() - began
    found = score(case, field, surfaces=False, similarity=False)
    return {
        "dice": found.mean(),
        "dice5": found.mean("dice", LARGE_ORGANS),
        "sd_log_j3": found.overall["sd_log_j3"],
        "folding": found.overall["folding"],
        "seconds": seconds,
    }


def read_results(path: Path) -> dict[tuple[str, str], dict[str, float]]:
    """What was measured, by row and pair."""
    if not path.is_file():
        return {}
    with path.open(newline="") as stream:
        return {(r["row"], r["pair"]): {f: float(r[f]) for f in FIGURES} for r in csv.DictReader(stream)}


def append(path: Path, row: str, pair: str, figures: dict[str, float]) -> None:
    """Add a line to what was measured; whole or not at all, so that it can be read again after any interruption."""
    found = {**read_results(path), (row, pair): figures}
    lines = [{"row": r, "pair": p, **{f: f"{each[f]:.6g}" for f in FIGURES}} for (r, p), each in found.items()]
    write_table(path, lines, "results")


def check_folder(out: Path, options: argparse.Namespace) -> None:
    """A folder holds rows that can be compared: all trained for as long, with the same further options."""
    path = out / "options.json"
    wanted = {name: getattr(options, name) for name in ("minutes", "iterations", "train", "second")}
    if options.iterations is not None:
        wanted["minutes"] = None
    found = json.loads(path.read_text()) if path.is_file() else wanted
    if found != wanted:
        raise SystemExit(f"{out} holds rows of the options {found}, not {wanted}: give those, or choose another folder")
    write_all([(Output(path, "options", (".json",)), lambda to: write_bytes(to, json.dumps(wanted).encode()))])


def trained(folder: Path) -> str:
    """Iterations and minutes of the training of a model."""
    if not (folder / "card.json").is_file():
        return "- | -"
    training = PddCard.from_folder(folder).training
    return f"{training['iterations']} | {training['seconds'] / 60:.0f}"


def table(results: dict[tuple[str, str], dict[str, float]], pairs: list[str], out: Path) -> str:
    """The rows of which all pairs are measured, as Markdown."""
    lines = [
        "| method | Dice, 13 organs | Dice, 5 large | SD of log(J + 3) | folded % | seconds | iterations | minutes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in ROWS.items():
        found = [results[name, pair] for pair in pairs if (name, pair) in results]
        if len(found) == len(pairs):
            mean = {f: float(np.mean([each[f] for each in found])) for f in FIGURES}
            lines.append(
                f"| {row.title} | {mean['dice']:.3f} | {mean['dice5']:.3f} | {mean['sd_log_j3']:.3f} | "
                f"{mean['folding']:.3f} | {mean['seconds']:.1f} | {trained(out / (row.model or '-'))} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Go on with the ablation."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=durations(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder of models, logs and results")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="only these")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=120.0, help="of each training, the same for all (default 120)")
    length.add_argument("--iterations", type=int, help="of each training, instead of minutes")
    parser.add_argument("--budget", type=float, default=np.inf, help="minutes after which to stop and leave the rest")
    parser.add_argument("--train", default="", help="further options of pdd-train for all rows")
    parser.add_argument(
        "--second", nargs=3, default=list(_SECOND), metavar=("REACH", "DISPLACEMENTS", "POINTS"),
        help="the second search of the rows of two (default %(default)s)",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, help="CPU threads")
    options = parser.parse_args()
    deadline = time.monotonic() + 60 * options.budget
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    check_folder(out, options)
    write_scans(out / "abdomen.csv")
    pairs, path = datasets.abdomen_pairs("validation"), out / "results.csv"
    for name in options.rows:
        row = ROWS[name]
        if time.monotonic() > deadline or (row.model and not train(row, out, options, deadline)):
            break
        for pair in pairs:
            if (name, pair.name) in read_results(path):
                continue
            if time.monotonic() > deadline:
                break
            figures = measure(pair, row, out, options.threads)
            append(path, name, pair.name, figures)
            print(name, pair.name, " ".join(f"{f} {value:.3f}" for f, value in figures.items()), flush=True)
        (out / "table.md").write_text(table(read_results(path), [pair.name for pair in pairs], out))
    print(table(read_results(path), [pair.name for pair in pairs], out))


if __name__ == "__main__":
    main()
