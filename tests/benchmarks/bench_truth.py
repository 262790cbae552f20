"""Error against known deformations, from small ones up to 80 % of the capture range.

    python tests/benchmarks/bench_truth.py [--seeds N] [--shares 0.2 0.4 0.6 0.8]

Synthetic pairs (itk_pdd.synthesis) of three kinds: abdomen and shapes with the same contrast in both images, and
abdomen in 2-D. The largest displacement of each pair is the given share of the capture range that the registration
reports. Prints the mean distance from the true displacements within the body, in voxels, for every pair.
"""

from __future__ import annotations

import argparse

import numpy as np

from itk_pdd import models, registration
from itk_pdd.synthesis import make_pair

KINDS = {
    "abdomen": {"size": (112, 96, 80), "spacing": 3.0},
    "shapes": {"size": (112, 96, 80), "spacing": 3.0, "kind": "shapes"},
    "abdomen 2-D": {"size": (160, 140), "spacing": 2.0},
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="pairs of each kind and size of displacement")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.2, 0.4, 0.6, 0.8], help="of the capture range")
    options = parser.parse_args()
    voxels = models.DEFAULT.capture_range
    print(f"capture range {voxels:.1f} voxels")
    for name, settings in KINDS.items():
        for share in options.shares:
            means = []
            for seed in range(options.seeds):
                made = make_pair(seed=10 + seed, displacement=share * voxels * settings["spacing"], **settings)
                field = registration.register_volumes(made.fixed, made.moving).field
                errors = np.linalg.norm(field.vectors - made.truth.vectors, axis=-1)[made.body]
                means.append(errors.mean() / settings["spacing"])
            print(f"{name}, {share:.0%}: " + " ".join(f"{m:.2f}" for m in means), flush=True)


if __name__ == "__main__":
    main()
