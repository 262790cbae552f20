"""Points to the moving image, back and there again, on all benchmark pairs.

    python tests/benchmarks/bench_inverse.py [--data abdomen hippocampus lung] [--points N]

Registers every pair with the default model and prints how far random points of the fixed image, sent to the moving
image, are from where they come back to after the inverse and another trip, in millimetres.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np

from itk_pdd import registration, warp_points
from itk_pdd.errors import RegistrationWarning
from itk_pdd.evaluation import datasets
from itk_pdd.evaluation.scoring import load_case
from itk_pdd.io.fields import field_to_simpleitk
from itk_pdd.io.transforms import as_mapping

PAIRS = {
    "abdomen": lambda: datasets.abdomen_pairs("validation"),
    "hippocampus": lambda: datasets.hippocampus_pairs("validation", 20),
    "lung": lambda: [datasets.lung_pair()],
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=tuple(PAIRS), default=tuple(PAIRS), help="data sets to run")
    parser.add_argument("--points", type=int, default=20000, help="points per pair")
    options = parser.parse_args()
    # Points that leave the moving image are told of; here they are expected.
    warnings.simplefilter("ignore", RegistrationWarning)
    for name in options.data:
        worst = []
        for pair in PAIRS[name]():
            case = load_case(pair)
            field = registration.register_volumes(case.fixed, case.moving).field
            chain = as_mapping(field_to_simpleitk(field))
            index = np.random.default_rng(0).uniform(0, np.asarray(field.grid.size) - 1, (options.points, 3))
            there = warp_points(field.grid.to_physical(index), chain, to="moving")
            back = warp_points(there, chain, to="fixed", outside="nearest")
            again = warp_points(back, chain, to="moving", outside="nearest")
            worst.append(float(np.linalg.norm(again - there, axis=-1).max()))
            print(f"{pair.name}: largest {worst[-1]:.2g} mm", flush=True)
        print(f"== {name}, {len(worst)} pairs: largest {max(worst):.2g} mm", flush=True)


if __name__ == "__main__":
    main()
