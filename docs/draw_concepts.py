"""Draw the pictures of the pages "Concepts in pictures" and "Conventions" from synthetic data (needs matplotlib).

python docs/draw_concepts.py   writes docs/images/concept_*.png and docs/images/conventions.png
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from scipy import ndimage

import itk_pdd
from itk_pdd.synthesis import make_pair

FOLDER = Path(__file__).parent / "images"
STEP, REACH, TRIED = 10, 14, 15  # voxels between control points; largest displacement in voxels; displacements per axis
GREEN, MAGENTA, ORANGE = "#009e73", "#cc79a7", "#e69f00"


def mind(image: np.ndarray) -> np.ndarray:
    """Self-similarities of a 2-D image: how unlike the four neighbours of each pixel are to each other (y, x, 6)."""
    shifts = [(0, 2), (2, 0), (0, -2), (-2, 0)]
    moved = [np.roll(image, shift, (0, 1)) for shift in shifts]
    pairs = [(a, b) for a in range(4) for b in range(a)]
    unlike = np.stack([ndimage.uniform_filter((moved[a] - moved[b]) ** 2, 3) for a, b in pairs], axis=-1)
    noise = unlike.mean(axis=-1, keepdims=True)
    return np.exp(-unlike / np.maximum(noise, 0.01 * noise.mean()))


def search(fixed: np.ndarray, moving: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Control points (n, m, 2), displacements (TRIED,), and the costs (n, m, TRIED, TRIED) of every one; rows first."""
    features = mind(fixed), mind(moving)
    rows, columns = (np.arange(STEP, n - STEP // 2, STEP) for n in fixed.shape)
    points = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
    tried = np.linspace(-REACH, REACH, TRIED).round().astype(int)
    costs = np.empty((*points.shape[:2], TRIED, TRIED))
    for i, dy in enumerate(tried):
        for j, dx in enumerate(tried):
            there = ndimage.shift(features[1], (-dy, -dx, 0), order=0, mode="nearest")
            unlike = ndimage.uniform_filter(((features[0] - there) ** 2).sum(axis=-1), 7)
            costs[..., i, j] = unlike[points[..., 0], points[..., 1]]
    return points, tried, costs / costs.std()


def regularised(costs: np.ndarray, rounds: int = 4, weight: float = 0.15) -> np.ndarray:
    """Min-convolution over displacements and average over neighbours, in turn, as in the paper."""
    offsets = np.arange(TRIED)
    parabola = weight * (offsets[:, None] - offsets[None]) ** 2
    smooth = costs
    for _ in range(rounds):
        lower = (smooth[..., None, :, :] + parabola[:, :, None]).min(axis=-2)
        lower = (lower[..., None, :] + parabola).min(axis=-1)
        smooth = 0.5 * costs + 0.5 * ndimage.uniform_filter(lower, (3, 3, 1, 1), mode="nearest")
    return smooth


def softmax(costs: np.ndarray, temperature: float = 0.12) -> np.ndarray:
    """Probabilities of the displacements."""
    shifted = np.exp(-(costs - costs.min(axis=(-2, -1), keepdims=True)) / temperature)
    return shifted / shifted.sum(axis=(-2, -1), keepdims=True)


def overlaid(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Green and magenta, grey where the images agree."""
    return np.stack([second, first, second], axis=-1)


def panels(count: int, height: float = 3.4):
    figure, axes = plt.subplots(1, count, figsize=(height * 1.1 * count, height), layout="constrained")
    for each in axes:
        each.set_axis_off()
    return figure, axes


def save(figure, name: str) -> None:
    figure.savefig(FOLDER / f"{name}.png", dpi=110, facecolor="white", bbox_inches="tight", pad_inches=0.08)
    plt.close(figure)


def grey(volume) -> np.ndarray:
    return np.clip((volume.array.astype(float) + 160) / 400, 0, 1)


def draw_search() -> None:
    """The pictures of the search."""
    pair = make_pair((128, 112), 2.0, seed=3, displacement=22.0)
    fixed, moving = grey(pair.fixed), grey(pair.moving)
    points, tried, costs = search(fixed, moving)
    smooth = regularised(costs)
    chance = softmax(smooth)
    means = np.stack([(chance.sum(axis=-1) * tried).sum(-1), (chance.sum(axis=-2) * tried).sum(-1)], axis=-1)
    # The control point whose displacement is large and undecided at first.
    undecided = -(softmax(costs) ** 2).sum(axis=(-2, -1)) / (softmax(costs) ** 2).sum(axis=(-2, -1)).max()
    interest = np.linalg.norm(means, axis=-1) + 4 * undecided
    at = np.unravel_index(np.argmax(interest), interest.shape)
    y, x = points[at]

    figure, axes = panels(3)
    for each, image, title in zip(
        axes, (fixed, moving, overlaid(fixed, moving)), ("fixed", "moving", "laid over each other"), strict=True
    ):
        each.imshow(image, cmap="gray", vmin=0, vmax=1)
        each.set_title(title)
    save(figure, "concept_pair")

    figure, axes = panels(2, 4.2)
    axes[0].imshow(fixed, cmap="gray")
    axes[0].plot(points[..., 1].ravel(), points[..., 0].ravel(), ".", color=ORANGE, ms=4)
    axes[0].plot(x, y, "o", color=GREEN, ms=9, mec="white")
    axes[0].set_title("control points in the fixed image")
    axes[1].imshow(moving, cmap="gray")
    dy, dx = np.meshgrid(tried, tried, indexing="ij")
    axes[1].plot((x + dx).ravel(), (y + dy).ravel(), ".", color=ORANGE, ms=3)
    axes[1].plot(x, y, "o", color=GREEN, ms=9, mec="white")
    axes[1].set_title(f"the {TRIED} x {TRIED} displacements tried for one of them")
    for each in axes:
        each.set_xlim(-0.5, fixed.shape[1] - 0.5)
        each.set_ylim(fixed.shape[0] - 0.5, -0.5)
    save(figure, "concept_search")

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.7), layout="constrained")
    ends = (tried[0] - 1, tried[-1] + 1, tried[-1] + 1, tried[0] - 1)
    titles = "cost of each displacement", "after the neighbours agreed", "probability"
    for each, values, title in zip(axes, (costs[at], smooth[at], chance[at]), titles, strict=True):
        drawn = each.imshow(values, extent=ends, cmap="viridis" if title == titles[2] else "viridis_r")
        figure.colorbar(drawn, ax=each, shrink=0.85)
        each.set_title(title)
        each.set_xlabel("displacement in x (voxels)")
    axes[0].set_ylabel("displacement in y (voxels)")
    axes[2].plot(means[at][1], means[at][0], "o", color=GREEN, ms=9, mec="white")
    save(figure, "concept_costs")

    transform = itk_pdd.register(pair.fixed.to_simpleitk(), pair.moving.to_simpleitk())
    warped = itk_pdd.warp_image(pair.moving.to_simpleitk(), transform, reference=pair.fixed.to_simpleitk())
    after = grey(itk_pdd.Volume.from_image(warped))
    figure, axes = panels(3)
    axes[0].imshow(fixed, cmap="gray")
    axes[0].quiver(points[..., 1], points[..., 0], means[..., 1], means[..., 0], color=ORANGE, angles="xy",
                   scale_units="xy", scale=1, width=0.005)  # fmt: skip
    axes[0].set_title("mean displacement of each point")
    itk_pdd.plot.deformation_grid(transform, image=pair.fixed.to_simpleitk(), ax=axes[1])
    axes[1].set_axis_off()
    axes[1].set_title("the field after all steps")
    axes[2].imshow(overlaid(fixed, after))
    axes[2].set_title("laid over each other, after")
    save(figure, "concept_field")


def draw_conventions() -> None:
    """The picture of the directions."""
    pair = make_pair((128, 112), 2.0, seed=3, displacement=22.0)
    fixed, moving = grey(pair.fixed), grey(pair.moving)
    point = np.array([76.0, 46.0])  # x, y in voxels
    there = point + pair.truth.vectors[int(point[1]), int(point[0])] / 2.0
    figure, axes = plt.subplots(1, 2, figsize=(10, 5.2))
    figure.subplots_adjust(0.02, 0.19, 0.98, 0.84, wspace=0.35)
    for each, image, title, place in zip(axes, (fixed, moving), ("fixed", "moving"), (point, there), strict=True):
        each.imshow(image, cmap="gray")
        each.plot(*place, "o", color=ORANGE, ms=10, mec="white")
        each.set_title(f"{title} image", fontsize=14)
        each.set_axis_off()
        for tip, letters in (((26, 6), "x: left"), ((6, 26), "y: back")):
            each.annotate("", tip, (6, 6), arrowprops={"arrowstyle": "->", "color": "white"})
            each.text(tip[0] + 2, tip[1] + 3, letters, color="white", fontsize=12)

    def arrow(start, end, colour: str, bend: float) -> None:
        style = {"arrowstyle": "-|>", "color": colour, "lw": 2.5, "connectionstyle": f"arc3,rad={bend}"}
        axes[1].annotate("", end, start, xycoords=axes[1].transData, textcoords=axes[0].transData, arrowprops=style)

    arrow(tuple(point), tuple(there), ORANGE, -0.25)
    figure.text(0.5, 0.93, "the transform takes fixed points to moving points (--to moving)", color="#8a5a00",
                ha="center", fontsize=14)  # fmt: skip
    style = {"arrowstyle": "-|>", "color": "#0072b2", "lw": 2.5}
    axes[0].annotate("", (0.62, 0.14), (0.38, 0.14), xycoords="figure fraction", textcoords="figure fraction",
                     arrowprops={**style, "arrowstyle": "<|-"})  # fmt: skip
    figure.text(0.5, 0.01, "images and labels are brought from moving to fixed;\nmoving points too, by the inverse "
                "(--to fixed)", color="#00588a", ha="center", va="bottom", fontsize=14)  # fmt: skip
    save(figure, "conventions")


if __name__ == "__main__":
    draw_search()
    draw_conventions()
