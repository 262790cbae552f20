"""Registrations of few people: lungs in CT and MR, livers in MR, abdomens before any alignment."""

from __future__ import annotations

import csv
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from verdict_cases import (
    LARGE_ORGANS,
    SPLITS,
    Case,
    Made,
    Pair,
    centres,
    coarse,
    expanded,
    identity,
    labels_of,
    read,
    without,
)  # fmt: skip

from itk_pdd.io.volume import Volume
from itk_pdd.solver.problem import Problem


def _directed(fixed: Volume, moving: Volume, points: tuple[np.ndarray, np.ndarray], way: int) -> Made:
    images, ends = (fixed, moving)[::way], points[::way]
    start = centres(images[0].grid, images[1].grid)
    return Made(Problem((images[0],), (images[1],), start), start, points=(ends[0], ends[1]))


def liver_phases(fixed: Path, moving: Path, way: int) -> Made:
    points = [_landmarks(path) for path in (fixed, moving)]
    return _directed(read(fixed), read(moving), (points[0], points[1]), way)


def natives(native: Path, a: int, b: int, start: bool) -> Made:
    from itk_pdd.registration import prepare

    images = [coarse(native / f"image_{n:04d}.nii.gz", 4.0) for n in (a, b)]
    labels = [coarse(native / f"label_{n:04d}.nii.gz", 4.0, True) for n in (a, b)]
    proper = prepare(images[0].to_itk(), images[1].to_itk(), initialise="affine", threads=1).initial
    problem = Problem((images[0],), (images[1],), proper if start else identity(3))
    return Made(problem, proper, (labels[0], labels[1]), LARGE_ORGANS)


def native_pairs(data: Path, pairs: Iterable[tuple[int, int]], splits: Sequence[str]) -> Iterator[Case]:
    """Abdomens as they come from the scanner, with a proper start and without; the pairs are numbers in the list."""
    native = data / "abdomen_ct_native"
    numbers = sorted(int(p.name[6:10]) for p in native.glob("image_*.nii.gz"))
    for i, j in pairs:
        a, b, split = numbers[i], numbers[j], splits[i % len(splits)]
        for kind in ("as it is", "no start"):
            yield Case(f"native {a}-{b}", "few", kind, split,
                       functools.partial(natives, native, a, b, kind == "as it is"))  # fmt: skip


def few_cases(data: Path) -> Iterator[Case]:
    """Pairs of few subjects: lungs in CT and MR, livers in MR, abdomens before any alignment."""
    lung, liver = data / "lung_ct", data / "liver_mr_4d"

    def lungs(way: int) -> Made:
        images = [coarse(lung / f"3DCT_lung_{name}.mha", 3.0) for name in ("baseline", "followup")]
        images = [Volume(np.maximum(v.array, -1024), v.grid) for v in images]
        table = np.genfromtxt(lung / "landmarks.csv", delimiter=",", skip_header=1)
        return _directed(*images, (table[:, :3], table[:, 3:]), way)

    def lobes(a: int, b: int) -> Made:
        images = [read(data / f"lung_mr/image_{n:04d}.nii.gz") for n in (a, b)]
        labels = [labels_of(data / f"lung_mr/label_{n:04d}.nii.gz") for n in (a, b)]
        start = centres(images[0].grid, images[1].grid)
        return Made(Problem((images[0],), (images[1],), start), start, (labels[0], labels[1]))

    abdomen = lambda n: read(data / "abdomen_ct/image_0002.nii.gz")  # noqa: E731
    pairs: list[Pair] = [(f"lung CT {way}", SPLITS[0], functools.partial(lungs, way)) for way in (1, -1)]
    for number, subject in enumerate(sorted(p for p in liver.iterdir() if p.is_dir())):
        phases = sorted(p for p in subject.iterdir() if not p.name.endswith(".csv"))
        first = next(p for p in phases if "exhMaster" in p.name)
        for moving, way in itertools.product([p for p in phases if p != first], (1, -1)):
            pairs.append((f"liver {subject.name} {moving.name[:8]} {way}", SPLITS[number],
                          functools.partial(liver_phases, first, moving, way)))  # fmt: skip
    pairs += [(f"lung MR {a}-{b}", SPLITS[1], functools.partial(lobes, a, b)) for a, b in ((4, 6), (6, 4))]
    kinds = without("label map as image", "wrong model")
    yield from expanded("few", pairs, abdomen, kinds, 2)
    ways = [(i, j) for i, j in itertools.permutations(range(6), 2) if abs(i - j) == 2]
    yield from native_pairs(data, ways, SPLITS[:2])


def _landmarks(image: Path) -> np.ndarray:
    """Read the points of a phase: those in the liver and those outside."""
    stem = image.name.split(".")[0]
    found = []
    for path in sorted(image.parent.glob(f"{stem}*LM*.csv")):
        with path.open(newline="") as stream:
            for row in csv.reader(stream):
                try:
                    found.append([float(value) for value in row[-3:]])
                except ValueError:
                    continue
    return np.asarray(found)
