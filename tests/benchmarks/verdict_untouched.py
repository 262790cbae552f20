"""Registrations that nothing was learned from, for the table of verdicts: other people, another kind of images."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from verdict_cases import (
    SPLITS,
    Case,
    Made,
    abdomens,
    centres,
    coarse,
    expanded,
    hippocampi,
    labels_of,
    mixed,
    synthetic,
    without,
)  # fmt: skip

from itk_pdd.io.volume import Volume
from itk_pdd.solver.problem import Problem

UNTOUCHED = SPLITS[2:3]


def untouched_cases(data: Path) -> list[Case]:
    """List them: 88 more people's hippocampi, five abdomens, new synthetic pairs, heads, and a third lung."""
    return mixed(
        hippocampi(data, 64, 28, UNTOUCHED),
        hippocampi(data, 92, 60, UNTOUCHED),
        abdomens(data, range(21, 26), 20, UNTOUCHED),
        synthetic(60, 24, UNTOUCHED),
        synthetic(84, 36, UNTOUCHED),
        heads(data),
        lungs(data),
    )


def heads(
    data: Path,
    pairs: Sequence[tuple[int, int]] = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9)),
    splits: tuple[str, ...] = UNTOUCHED,
    contrast: int = 0,
    seed: int = 0,
) -> Iterator[Case]:
    """Heads of ten people in 4 mm, in both directions: label maps painted in a contrast, noise included."""
    names = sorted((data / "brain_label_maps").glob("labels_*.nii.gz"))

    def painted(path: Path, seed: int) -> Volume:
        labels = labels_of(path)
        random = np.random.default_rng(seed)
        # Every structure has its grey value, alike in all people to a few per cent.
        levels = np.random.default_rng(contrast).uniform(20, 100, 3000) * random.normal(1, 0.03, 3000)
        levels[0] = 0
        image = levels[labels.array.astype(int) % 3000] + random.normal(0, 4, labels.array.shape)
        return Volume(image.astype(np.float32), labels.grid)

    def made(a: int, b: int) -> Made:
        images = [coarse_of(painted(names[n], seed + n)) for n in (a, b)]
        start = centres(images[0].grid, images[1].grid)
        maps = [coarse(names[n], 4.0, True) for n in (a, b)]
        sizes = [dict(zip(*np.unique(each.array, return_counts=True), strict=True)) for each in maps]
        large = tuple(int(n) for n in sizes[0] if n and min(sizes[0][n], sizes[1].get(n, 0)) > 150)
        return Made(Problem((images[0],), (images[1],), start), start, (maps[0], maps[1]), large)

    ways = [way for a, b in pairs for way in ((a, b), (b, a))]
    each = [(f"{a}-{b}", splits[0], functools.partial(made, a, b)) for a, b in ways]
    other = functools.partial(coarse, data / "abdomen_ct/image_0022.nii.gz", 4.0)
    return expanded("head", each, lambda n: other(), without("wrong model"), 2, seed)


def coarse_of(volume: Volume) -> Volume:
    """Smooth and resample to 4 mm."""
    from itk_pdd.geometry.resampling import resample

    return resample(volume, volume.grid.with_spacing(4.0))


def lungs(data: Path) -> Iterator[Case]:
    """A third person's lungs in MR with the two others."""

    def made(a: int, b: int) -> Made:
        images = [Volume.from_image(str(data / f"lung_mr/image_{n:04d}.nii.gz")) for n in (a, b)]
        labels = [labels_of(data / f"lung_mr/label_{n:04d}.nii.gz") for n in (a, b)]
        start = centres(images[0].grid, images[1].grid)
        return Made(Problem((images[0],), (images[1],), start), start, (labels[0], labels[1]))

    ways = [way for n in (4, 6) for way in itertools.permutations((n, 7))]
    pairs = [(f"lung MR {a}-{b}", UNTOUCHED[0], functools.partial(made, a, b)) for a, b in ways]
    return expanded(
        "few", pairs, lambda n: coarse(data / "abdomen_ct/image_0023.nii.gz", 4.0), without("wrong model"), 2
    )
