"""The whole comparison on the benchmark data: all methods, one report for each data set.

    python tests/benchmarks/compare_all.py -o results [--data abdomen hippocampus lung] [--methods pdd,greedy]

The data sets ``ct-mr`` and ``contrasts`` (see two_contrasts.py) are for methods that can do with two contrasts: only
these run there.

Writes ``results/<data>/pairs.csv`` and calls ``pdd-compare`` on it, which prints the table and writes ``results.csv``,
``summary.csv`` and ``report.html`` beside it. What is done is not done again: start an interrupted run again with the
same command.
``ITK_PDD_DATA`` names the folder of the data; everything runs on one thread unless ``--threads`` says otherwise.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import two_contrasts

from itk_pdd.evaluation import datasets

METHODS = "pdd,elastix-bspline,bspline,demons,demons-symmetric,syn,syn-cc,greedy,convexadam"
ANY_CONTRAST = "pdd,elastix-bspline,bspline,syn,convexadam"
# The rules of each data set, the same for every method: the range of intensities that matters in a CT of the trunk;
# hippocampi are crops with their own corner as origin, the lungs lie 35 mm apart.
RULES = {
    "abdomen": ["--clamp", "-1000", "1000", "--group", "large=1,2,3,6,7", "--settings", "abdomen"],
    "hippocampus": ["--start", "centre", "--settings", "hippocampus"],
    "lung": ["--start", "centre", "--clamp", "-1000", "1000"],
    "ct-mr": ["--group", "large=1,2,3,6,7", "--settings", "mutual-information"],
    "contrasts": ["--settings", "mutual-information"],
}
# Trained models join as any other program does. None of the patients here was trained on.
TRAINED = {"abdomen": "abdomen-ct", "hippocampus": "hippocampus-mr"}
COMMAND = "{model}=pdd-register {{fixed}} {{moving}} -o {{field}} --model {model} --threads {{threads}} --no-quality"
PAIRS = {
    "abdomen": lambda folder: datasets.abdomen_pairs("validation"),
    "hippocampus": lambda folder: datasets.hippocampus_pairs("validation", 20),
    "lung": lambda folder: [datasets.lung_pair()],
    "ct-mr": lambda folder: two_contrasts.ct_mr_pairs(folder / "images"),
    "contrasts": lambda folder: two_contrasts.synthetic_pairs(folder / "images"),
}


def main() -> int:
    """Run the comparison of each data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("--data", nargs="+", choices=list(PAIRS), default=list(PAIRS), help="data sets")
    parser.add_argument("--methods", help="methods, the first is the one compared with")
    parser.add_argument("--trained", action="store_true", help="compare the trained model of the anatomy as well")
    parser.add_argument("--jobs", type=int, default=1, help="registrations at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each")
    parser.add_argument("--time-limit", type=float, default=3600.0, help="seconds for each registration")
    parser.add_argument("--memory-limit", type=float, default=12.0, help="GiB for each registration")
    parser.add_argument("--dry-run", action="store_true", help="write the lists of pairs, print the commands")
    options = parser.parse_args()
    worst = 0
    for name in options.data:
        folder = options.output / name
        folder.mkdir(parents=True, exist_ok=True)
        datasets.write_pairs(folder / "pairs.csv", PAIRS[name](folder))
        methods = options.methods or (ANY_CONTRAST if name in ("ct-mr", "contrasts") else METHODS)
        command = [
            *(sys.executable, "-m", "itk_pdd.cli.compare", str(folder / "pairs.csv"), "-o", str(folder)),
            *("--methods", methods, "--jobs", str(options.jobs), "--threads", str(options.threads)),
            *("--time-limit", str(options.time_limit), "--memory-limit", str(options.memory_limit)),
            *RULES[name],
        ]
        if options.trained and name in TRAINED:
            command += ["--command", COMMAND.format(model=TRAINED[name])]
        print("pdd-compare", *command[3:], flush=True)
        if not options.dry_run:
            # The package as it is installed, also where this runs in the checkout, whose folder lacks the commands.
            environment = {**os.environ, "PYTHONSAFEPATH": "1"}
            worst = max(worst, subprocess.run(command, check=False, env=environment).returncode)
    return worst


if __name__ == "__main__":
    sys.exit(main())
