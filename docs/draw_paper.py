"""Draw the pictures of the page "The paper, reproduced" from synthetic data, with the package's own operations.

python docs/draw_paper.py   writes docs/images/paper_*.png (needs matplotlib)
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import torch
from draw_concepts import FOLDER, GREEN, ORANGE, grey, mind, save

from itk_pdd import kernels
from itk_pdd.network.costs import ControlGrid, DisplacementSet
from itk_pdd.network.distribution import DisplacementDistribution
from itk_pdd.synthesis import make_pair

STRIDE, POINTS, RADIUS, REACH = 3, 13, 7, 5.6  # voxels; control points and displacements along an axis; features
TEMPERATURE = 60.0


def main() -> None:
    """Search a 2-D pair as the paper does, and draw what one control point sees."""
    pair = make_pair((128, 112), 2.0, seed=3, displacement=22.0)
    fixed, moving = grey(pair.fixed), grey(pair.moving)
    first, second = (
        torch.from_numpy(np.ascontiguousarray(mind(image)[1::STRIDE, 1::STRIDE].transpose(2, 0, 1)).astype(np.float32))
        for image in (fixed, moving)
    )
    control = ControlGrid.covering(first.shape[1:], shape=(POINTS, POINTS))
    displacements = DisplacementSet((RADIUS, RADIUS), (REACH / RADIUS, REACH / RADIUS))
    costs = kernels.displacement_costs(
        first, second, positions=control.positions(), displacements=displacements.offsets()
    )
    lower = kernels.min_convolution(costs, 2)
    agreed = kernels.mean_field(lower, 2)
    again = kernels.regularise(costs, 1.0, 2)
    found = DisplacementDistribution(
        again, temperature=TEMPERATURE, positions=control.positions(), displacements=displacements.offsets()
    )
    chance, means = found.probabilities(), found.mean()
    # A control point that moves far.
    at = np.unravel_index(int(means.norm(dim=-1)[2:-2, 2:-2].argmax()), (POINTS - 4, POINTS - 4))
    at = (int(at[0]) + 2, int(at[1]) + 2)
    y, x = (float(along[i]) * STRIDE + 1 for along, i in zip(control.positions(), at, strict=True))

    figure, axes = plt.subplots(1, 4, figsize=(14, 3.8), layout="constrained")
    axes[0].imshow(fixed, cmap="gray")
    axes[0].set_title("fixed image")
    axes[0].plot(x, y, "o", color=GREEN, ms=9, mec="white")
    for each, channel in zip(axes[1:], (0, 2, 4), strict=True):
        each.imshow(first[channel], cmap="magma", extent=(-0.5, fixed.shape[1] - 0.5, fixed.shape[0] - 0.5, -0.5))
        each.plot(x, y, "o", color=GREEN, ms=9, mec="white")
        each.set_title(f"feature {channel + 1} of {len(first)}")
    for each in axes:
        each.set_axis_off()
    save(figure, "paper_features")

    steps = (
        ("costs", costs), ("min-convolution", lower), ("mean field", agreed), ("second round", again),
        ("probabilities", chance),
    )  # fmt: skip
    figure, axes = plt.subplots(1, 5, figsize=(15, 3.5), layout="constrained")
    ends = np.array([-REACH, REACH, REACH, -REACH]) * STRIDE * (1 + 0.5 / RADIUS)
    for each, (title, values) in zip(axes, steps, strict=True):
        each.imshow(values[at], extent=tuple(ends), cmap="viridis" if title == "probabilities" else "viridis_r")
        each.set_title(title)
        each.set_xlabel("displacement in x (voxels)")
    axes[0].set_ylabel("displacement in y (voxels)")
    mean = means[at] * STRIDE
    axes[-1].plot(float(mean[0]), float(mean[1]), "o", color=ORANGE, ms=9, mec="white")
    save(figure, "paper_costs")
    print(f"written to {FOLDER}")


if __name__ == "__main__":
    main()
