"""Accuracy of the default model against the roughness of its fields.

    python tests/benchmarks/bench_roughness.py [--data hippocampus lung] [--smoothness 1 2 5 20] [--iterations N]
        [--initialise center]

For comparisons with methods whose fields are smoother. Prints the mean Dice, or the landmarks' error in millimetres,
and the SD of log(J + 3) for each factor of the model's regularisation. A strong regularisation takes more steps to
smooth what the search found than the default number.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
from bench_accuracy import pairs_of

from itk_pdd import models
from itk_pdd.evaluation import datasets
from itk_pdd.evaluation.scoring import Case, load_case, score
from itk_pdd.registration import prepare, solve

_CLAMP = {"lung": (-1000, 1000), "abdomen": (-1000, 1000)}  # as in compare_all.py


def case_of(pair: datasets.Pair, clamp: tuple[float, float] | None) -> Case:
    """A pair with its intensities clamped."""
    case = load_case(pair)
    if clamp is None:
        return case
    fixed, moving = (replace(image, array=np.clip(image.array, *clamp)) for image in (case.fixed, case.moving))
    return replace(case, fixed=fixed, moving=moving)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ("abdomen", "hippocampus", "lung")
    parser.add_argument("--data", nargs="+", choices=names, default=names[1:], help="which pairs")
    parser.add_argument("--smoothness", type=float, nargs="+", default=[1, 2, 5, 20], help="factors")
    parser.add_argument("--iterations", type=int, help="steps of the descent (default: the model's)")
    parser.add_argument("--initialise", choices=("center", "affine"), default="center", help="start (default center)")
    options = parser.parse_args()
    for name in options.data:
        cases = [case_of(pair, _CLAMP.get(name)) for pair in pairs_of(name, "validation")]
        problems = [prepare(case.fixed, case.moving, initialise=options.initialise) for case in cases]
        for factor in options.smoothness:
            model = models.DEFAULT.smoother(factor)
            if options.iterations is not None:
                model = replace(model, refinement=replace(model.refinement, iterations=options.iterations))
            found = []
            for case, problem in zip(cases, problems, strict=True):
                figures = score(case, solve(problem, model=model).field, surfaces=False, similarity=False)
                reached = figures.overall["tre_mean"] if name == "lung" else figures.mean()
                found.append((reached, figures.overall["sd_log_j3"]))
            reached, roughness = np.mean(found, axis=0)
            print(f"{name}, smoothness {factor:g}: {reached:.3f}, SD {roughness:.4f}", flush=True)


if __name__ == "__main__":
    main()
