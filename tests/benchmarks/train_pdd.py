"""Train the shipped PDD network on the training part of the published abdominal CT protocol; the same command goes on.

    python tests/benchmarks/train_pdd.py runs/pdd                     # all 18 patients: the networks that are shipped
    python tests/benchmarks/train_pdd.py runs/pdd --folds 3           # fold-1 to fold-3, to choose by; then stop
    python tests/benchmarks/train_pdd.py runs/pdd --folds 3 --only 1  # the first fold alone
    python tests/benchmarks/train_pdd.py runs/one --obelisk --train "--warp 0.4 15 32 --pretrain 300"

The searches are the paper's at the paper's size: images of 2 mm, features every 3 voxels, 32^3 control points with 15^3
displacements over 0.4 half extents, then 39^3 with 11^3 over 0.15, and 53^3 with 9^3 over 0.08. A segmentation network
is trained, and ``pdd-train organs`` makes a PDD network of it. With ``--obelisk`` the paper's own features, of 16
channels, are trained end to end instead, for two searches. The 18 patients are
``abdomen_ct_learn2reg`` in ``splits.json``; the 7 patients of the test part are not looked at. In fold k every K-th
patient, from the k-th on, is for validation, which gives the curve in OUT/fold-k/training/curve.png.

Each training is one ``pdd-train``, whose command line is printed and stands in its card. A checkpoint is written
at each validation and every five minutes, so the same command, run again, goes on where an interruption left it.
``runs/`` is ignored by git. Options in ``--train`` come last and replace those of the recipe; warps given there are
the only ones.

On one core, an iteration of the segmentation took about 3 s (1800 of them 95 minutes), one of the paper's features 5 to
7 s. Finished models are measured by ``paper.py OUT/final/organs -o OUT/rows.csv``, or as a user has them
by ``bench_accuracy.py --data learn2reg --model OUT/final/NAME -o OUT/learn2reg.csv``.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from ablation import ORGANS

from itk_pdd.evaluation import datasets
from itk_pdd.training.cases import LabelledScan, folds

LICENCE = "BTCV (Landman et al., MICCAI 2015), in the space of Learn2Reg's abdominal CT task"
SEGMENTATION = (
    "--spacing", "4", "--intensity", "-125", "275", "--crop", "48", "40", "40", "--widths", "32,64,128,160",
    "--iterations", "1800", "--validate-every", "100", "--seed", "0",
)  # fmt: skip
SEARCHES = (
    "--warp", "0.4", "15", "32", "--warp", "0.15", "11", "39", "--warp", "0.08", "9", "53",
    "--extent", "192", "160", "256",
)  # fmt: skip
WARPS = ("--warp", "0.4", "15", "32", "--warp", "0.15", "11", "39")
RECIPE = (
    "--intensity", "-125", "275", "--spacing", "2", "--stride", "3", "--channels", "16", "--norm", "running",
    "--block", "12", "--iterations", "6000", "--rate", "0.005", "--diffusion", "1.5", "--optimisation", "50",
    "--validate-every", "250", "--pairs", "6", "--seed", "0",
)  # fmt: skip


def patients() -> list[LabelledScan]:
    """The 18 patients of the training part."""
    pairs = datasets.abdomen_pairs("train", protocol="abdomen_ct_learn2reg")
    scans = {pair.fixed: pair.fixed_labels for pair in pairs}
    return [LabelledScan(image, labels) for image, labels in sorted(scans.items()) if labels is not None]


def write_scans(path: Path, scans: list[LabelledScan]) -> None:
    """The list of scans for pdd-train."""
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("image", "labels", "split", "name"))
        writer.writerows((s.image.resolve(), s.labels.resolve(), s.split, s.name) for s in scans)


def train(folder: Path, scans: list[LabelledScan], cache: Path, options: argparse.Namespace) -> None:
    """Train one network from where it is."""
    if not options.obelisk:
        train_organs(folder, scans, cache, options)
        return
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "card.json").is_file():
        print(f"{folder} is done")
        return
    write_scans(folder / "scans.csv", scans)
    further = shlex.split(options.train)
    words = [sys.executable, "-P", "-m", "itk_pdd.cli.train", "pdd", str(folder / "scans.csv"), "-o", str(folder)]
    words += ["--name", options.name, "--cache", str(cache), *RECIPE, *(() if "--warp" in further else WARPS)]
    for number, organ in enumerate(ORGANS, start=1):
        words += ["--class", f"{number}={organ}"]
    words += ["--licence", LICENCE]
    words += [*(("--threads", str(options.threads)) if options.threads else ()), *further, "-v"]
    print(shlex.join(words), flush=True)
    subprocess.run(words, check=True)


def train_organs(folder: Path, scans: list[LabelledScan], cache: Path, options: argparse.Namespace) -> None:
    """Train a segmentation network from where it is, and make both models of it."""
    organs = folder / "organs"
    organs.mkdir(parents=True, exist_ok=True)
    write_scans(folder / "scans.csv", scans)
    program = [sys.executable, "-P", "-m", "itk_pdd.cli.train"]
    words = ["segmentation", str(folder / "scans.csv"), "-o", str(organs), "--cache", str(cache), *SEGMENTATION]
    for number, organ in enumerate(ORGANS, start=1):
        words += ["--class", f"{number}={organ}"]
    words += ["--licence", LICENCE, *(("--threads", str(options.threads)) if options.threads else ())]
    words += [*shlex.split(options.train), "-v"]
    made = [
        "organs",
        str(organs),
        "-o",
        str(folder / options.name),
        "--descent",
        str(folder / f"{options.name}-descent"),
    ]
    for each in (words, [*made, *SEARCHES]):
        print(shlex.join(each), flush=True)
        subprocess.run([*program, *each], check=True)


def main() -> None:
    """Train the network, or its folds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the trainings")
    parser.add_argument("--folds", type=int, metavar="K", help="cross-validation: train K networks, fold-1 to fold-K")
    parser.add_argument("--only", type=int, metavar="N", help="of the folds only this one")
    parser.add_argument("--name", default="pdd-abdomen-ct", help="name of the model (default %(default)s)")
    parser.add_argument("--obelisk", action="store_true", help="train the paper's own features end to end")
    parser.add_argument("--train", default="", help="further options of the training")
    parser.add_argument("--threads", type=int, help="CPU threads")
    options = parser.parse_args()
    cache = options.out / "cache"
    if options.folds is None:
        train(options.out / "final", [replace(s, split="train") for s in patients()], cache, options)
        return
    for number, scans in enumerate(folds(patients(), options.folds), start=1):
        if options.only in (None, number):
            train(options.out / f"fold-{number}", scans, cache, options)


if __name__ == "__main__":
    main()
