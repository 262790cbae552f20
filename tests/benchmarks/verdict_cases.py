"""Registrations of every kind, good ones and failures, for the table of verdicts (``verdicts.py``).

A pair is two images with labels or landmarks and the rough alignment that suits it. A case is a pair as it is, or
spoiled in one way. Subjects are split: the rules are learned on the halves "development 1" and "development 2". They
are measured on people and images that nothing was learned from: "held-out" (``verdict_untouched.py``), which was looked
at several times, and "clean" (``verdict_clean.py``), which was looked at once.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.mapping import AffineMapping
from itk_pdd.geometry.resampling import resample
from itk_pdd.io.volume import Volume
from itk_pdd.solver.problem import Problem
from itk_pdd.synthesis import make_pair

LARGE_ORGANS = (1, 2, 3, 6, 7)
SPLITS = ("development 1", "development 2", "held-out", "clean new", "clean known")


@dataclass(frozen=True)
class Made:
    """The images of a case and its truth.

    Attributes
    ----------
    problem : Problem
        The images and the start.
    proper : AffineMapping
        The rough alignment that suits the pair, which a spoiled start leaves.
    labels : tuple of Volume, optional
        Label maps of both.
    members : tuple of int, optional
        The labels that are scored; all by default.
    points : tuple of numpy.ndarray, optional
        Landmarks of both, in millimetres.
    related : bool
        Whether the two images show the same part of a body; else the registration fails whatever it does.
    options : dict
        For the registration.
    """

    problem: Problem
    proper: AffineMapping
    labels: tuple[Volume, Volume] | None = None
    members: tuple[int, ...] | None = None
    points: tuple[np.ndarray, np.ndarray] | None = None
    related: bool = True
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One registration: name of the pair, kind of images, what was done to them, its half, and what makes it."""

    pair: str
    group: str
    kind: str
    split: str
    make: Callable[[], Made]

    @property
    def name(self) -> str:
        """Name of the case."""
        return f"{self.group} {self.pair} {self.kind}"


Pair = tuple[str, str, Callable[[], Made]]


def mixed(*each: Iterable[Case]) -> list[Case]:
    """Put the cases of several groups in an order in which they come mixed."""
    groups = [list(group) for group in each]
    cases = [(n / len(group), case) for group in groups for n, case in enumerate(group)]
    return [case for _, case in sorted(cases, key=lambda entry: entry[0])]


@functools.lru_cache(maxsize=24)
def read(path: Path) -> Volume:
    return Volume.from_image(str(path), name=path.name)


@functools.lru_cache(maxsize=24)
def labels_of(path: Path) -> Volume:
    return Volume.labels_from_image(str(path), name=path.name)


@functools.lru_cache(maxsize=24)
def coarse(path: Path, spacing: float, labels: bool = False) -> Volume:
    volume = labels_of(path) if labels else read(path)
    grid = volume.grid.with_spacing(spacing)
    return resample(volume, grid, interpolation="nearest" if labels else "linear")


def identity(dimension: int) -> AffineMapping:
    return AffineMapping(np.eye(dimension + 1))


def _linear(grid: Grid, *, degrees: float = 0.0, shift: float = 0.0, zoom: float = 1.0, axis: int = 2) -> AffineMapping:
    """Turn about the centre (about an axis in 3-D), shift by a share of the extent, and zoom."""
    dimension, angle = grid.dimension, np.radians(degrees)
    turn = np.eye(dimension)
    first, second = [i for i in range(dimension) if i != axis][:2] if dimension == 3 else (0, 1)
    turn[[first, second], [first, second]] = np.cos(angle)
    turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
    matrix, centre = np.eye(dimension + 1), np.asarray(grid.centre)
    moved = centre + shift * np.eye(dimension)[0] * grid.extent[0]
    matrix[:-1, :-1], matrix[:-1, -1] = zoom * turn, moved - zoom * turn @ centre
    return AffineMapping(matrix)


def centres(fixed: Grid, moving: Grid) -> AffineMapping:
    matrix = np.eye(fixed.dimension + 1)
    matrix[:-1, -1] = np.asarray(moving.centre) - np.asarray(fixed.centre)
    return AffineMapping(matrix)


def _part(volume: Volume, axis: int, low: float, high: float) -> Volume:
    """Cut a volume along an axis (x is 0), from one share of its extent to another."""
    grid = volume.grid
    first, last = round(low * grid.size[axis]), round(high * grid.size[axis])
    index, size = np.zeros(grid.dimension), list(grid.size)
    index[axis], size[axis] = first, last - first
    part = [slice(None)] * grid.dimension
    part[grid.dimension - 1 - axis] = slice(first, last)
    cut = Grid.create(size, grid.spacing, grid.to_physical(index), np.asarray(grid.direction))
    return Volume(np.ascontiguousarray(volume.array[tuple(part)]), cut)


def _like(other: Volume, grid: Grid) -> Volume:
    """Bring another image to the spacing of a grid, no larger than that."""
    if other.grid.dimension == 2:
        return other
    other = resample(other, other.grid.with_spacing(float(np.mean(grid.spacing))))
    for axis in range(3):
        share = min(1.0, grid.size[axis] / other.grid.size[axis])
        other = _part(other, axis, (1 - share) / 2, (1 + share) / 2)
    return other


def _remapped(volume: Volume, seed: int) -> Volume:
    """Give an image another contrast: a smooth random function of its intensities, which need not be monotonic."""
    low, high = np.percentile(volume.array, (0.5, 99.5))
    levels = np.random.default_rng(seed).uniform(0, 1000, 5)
    return Volume(np.interp(volume.array, np.linspace(low, high, 5), levels).astype(np.float32), volume.grid)


STARTS: dict[str, dict[str, float]] = {
    "turned 60": {"degrees": 60},
    "turned 90": {"degrees": 90, "axis": 0},
    "turned 180": {"degrees": 180, "axis": 1},
    "far start": {"shift": 0.45},
    "zoomed": {"zoom": 0.55},
}
"""Wrong starts: in the plane or out of it."""
KINDS = (
    "turned 60", "other body part", "turned 180", "label map as image", "far start", "other modality", "noise",
    "turned 90", "mirrored", "partial overlap", "wrong model", "zoomed", "cut field of view",
)  # fmt: skip
"""What is done to a pair."""


def _spoiled(made: Made, kind: str, other: Volume, seed: int) -> Made:
    """Spoil a pair in one of the ways of ``KINDS``."""
    fixed, moving = made.problem.fixed, made.problem.moving
    start, axis = made.problem.initial or made.proper, seed % fixed.grid.dimension
    if kind in STARTS:
        start = AffineMapping(start.matrix @ _linear(fixed.grid, **STARTS[kind]).matrix)
        return replace(made, problem=Problem((fixed,), (moving,), start))
    if kind in ("other body part", "noise"):
        if kind == "noise":
            noise = np.random.default_rng(seed).normal(size=moving.grid.shape).astype(np.float32)
            moving = Volume(noise, moving.grid)
        else:
            moving = _like(other, fixed.grid)
            start = centres(fixed.grid, moving.grid)
        return replace(made, problem=Problem((fixed,), (moving,), start), related=False)
    if kind == "mirrored":

        def flip(v: Volume) -> Volume:
            return Volume(np.ascontiguousarray(np.flip(v.array, fixed.grid.dimension - 1 - axis)), v.grid)

        labels = None if made.labels is None else (made.labels[0], flip(made.labels[1]))
        return replace(made, problem=Problem((fixed,), (flip(moving),), start), labels=labels)
    if kind == "partial overlap":
        cut = _part(fixed, axis, 0, 0.62)
        labels = None if made.labels is None else (_part(made.labels[0], axis, 0, 0.62), made.labels[1])
        return replace(made, problem=Problem((cut,), (_part(moving, axis, 0.38, 1),), start), labels=labels)
    if kind == "cut field of view":
        return replace(made, problem=Problem((fixed,), (_part(moving, axis, 0.25, 0.85),), start))
    if kind == "wrong model":
        return replace(made, options={"model": "abdomen-ct", "force": True})
    if kind == "label map as image":
        moving = Volume(made.labels[1].array.astype(np.float32), made.labels[1].grid)
        return replace(made, problem=Problem((fixed,), (moving,), start))
    assert kind == "other modality"
    return replace(made, problem=Problem((fixed,), (_remapped(moving, seed),), start))


def expanded(
    group: str,
    pairs: Iterable[Pair],
    other: Callable[[int], Volume],
    kinds: tuple[str, ...],
    spoiled: int,
    seed: int = 0,
) -> Iterator[Case]:
    """Cases of every pair: as it is, and spoiled in so many ways; ``seed`` is added to those of noise and contrasts."""
    # Both halves, and both directions of a pair, meet every kind.
    turns = {split: itertools.cycle(kinds) for split in SPLITS}
    for number, (name, split, make) in enumerate(pairs):
        yield Case(name, group, "as it is", split, make)
        for _ in range(spoiled):
            kind = next(turns[split])
            yield Case(name, group, kind, split,
                       lambda m=make, k=kind, n=number: _spoiled(m(), k, other(n), seed + n))  # fmt: skip


def without(*kinds: str) -> tuple[str, ...]:
    return tuple(kind for kind in KINDS if kind not in kinds)


def hippocampi(
    data: Path,
    first: int = 0,
    count: int = 64,
    splits: tuple[str, ...] = SPLITS[:2],
    others: tuple[str, str] = ("lung_mr/image_0004.nii.gz", "abdomen_ct/image_0001.nii.gz"),
    seed: int = 0,
) -> Iterator[Case]:
    """Hippocampi of different people, with their centres on each other; ``others`` are images of other parts."""
    folder = data / "hippocampus_mr"
    names = sorted(path.name for path in (folder / "images").glob("*.nii.gz"))

    def made(a: str, b: str) -> Made:
        fixed, moving = read(folder / "images" / a), read(folder / "images" / b)
        labels = labels_of(folder / "labels" / a), labels_of(folder / "labels" / b)
        start = centres(fixed.grid, moving.grid)
        return Made(Problem((fixed,), (moving,), start), start, labels)

    pairs = []
    for i in range(first, first + count):
        # Neighbours in the list belong to one half; every pair comes in both directions.
        block = (i // 2) * 2
        a, b = (names[block], names[block + 1])[:: 1 if i % 2 == 0 else -1]
        pairs.append((f"{a[12:15]}-{b[12:15]}", splits[(i // 2) % len(splits)], functools.partial(made, a, b)))
    return expanded("hippocampus", pairs, lambda n: coarse(data / others[n // 2 % 2], 2.0), KINDS, 2, seed)


def abdomens(
    data: Path,
    names: Sequence[int] = (*range(1, 11), *range(31, 41)),
    count: int = 32,
    splits: tuple[str, ...] = SPLITS[:2],
    seed: int = 0,
) -> Iterator[Case]:
    """Abdomens of different people at 4 mm, roughly aligned."""
    folder = data / "abdomen_ct"

    def made(a: int, b: int) -> Made:
        images = [coarse(folder / f"image_{n:04d}.nii.gz", 4.0) for n in (a, b)]
        labels = [coarse(folder / f"label_{n:04d}.nii.gz", 4.0, True) for n in (a, b)]
        return Made(Problem((images[0],), (images[1],)), identity(3), (labels[0], labels[1]), LARGE_ORGANS)

    pairs = []
    for i in range(count):
        half, turn = (i // 2) % len(splits), i // (2 * len(splits))
        subjects = names[half :: len(splits)]
        step, first = 1 + turn // len(subjects), turn % len(subjects)
        a, b = (subjects[first], subjects[(first + step) % len(subjects)])[:: 1 if i % 2 == 0 else -1]
        pairs.append((f"{a:04d}-{b:04d}", splits[half], functools.partial(made, a, b)))
    other = functools.partial(read, data / "lung_mr/image_0006.nii.gz")
    return expanded("abdomen", pairs, lambda n: other(), without("wrong model"), 1, seed)


def slices(data: Path, chosen: Iterable[tuple[int, int, str]] | None = None, seed: int = 0) -> Iterator[Case]:
    """Coronal slices of brains of different people, aligned by an affine search: by default halves of five people."""
    folder = data / "brain_mr_2d"

    def made(a: int, b: int) -> Made:
        from itk_pdd.registration import prepare

        files = [str(folder / f"image_{n:02d}.nii.gz") for n in (a, b)]
        labels = [labels_of(folder / f"label_{n:02d}.nii.gz") for n in (a, b)]
        # The cortex of a slice is many small labels: the large ones are scored.
        shared = [int(n) for n in np.unique(labels[0].array) if n and min((v.array == n).sum() for v in labels) > 300]
        problem = prepare(*files, initialise="affine", threads=1)
        return Made(problem, problem.initial, (labels[0], labels[1]), tuple(shared))

    if chosen is None:
        ways = itertools.permutations(range(1, 11), 2)
        chosen = [(a, b, SPLITS[a > 5]) for a, b in ways if (a > 5) == (b > 5)]
    pairs = [(f"{a:02d}-{b:02d}", split, functools.partial(made, a, b)) for a, b, split in chosen]
    others = [data / "classic_2d/CT_2D_head_fixed.mha", data / "classic_2d/CT_2D_head_moving.mha"]
    return expanded("brain 2-D", pairs, lambda n: read(others[n % 2]), without("wrong model"), 2, seed)


def synthetic(first: int = 0, count: int = 60, splits: tuple[str, ...] = SPLITS[:2], seed: int = 0) -> Iterator[Case]:
    """Synthetic pairs with known displacements."""
    looks = [
        {"size": (72, 64, 56), "spacing": 4.0, "kind": "abdomen"},
        {"size": (64, 60, 56), "spacing": 2.0, "kind": "shapes"},
        {"size": (160, 140), "spacing": 2.0, "kind": "abdomen"},
        {"size": (64, 60, 56), "spacing": 2.0, "kind": "shapes", "modality": "random"},
        {"size": (72, 64, 56), "spacing": 4.0, "kind": "abdomen", "modality": "random"},
    ]

    def made(number: int) -> Made:
        look = looks[number % len(looks)]
        share = (0.2, 0.4, 0.6, 0.8)[(number // len(looks)) % 4]
        pair = make_pair(seed=1000 + number, displacement=share * 14 * look["spacing"], **look)
        fixed, moving = pair.fixed, pair.moving
        return Made(
            Problem((fixed,), (moving,)), identity(fixed.grid.dimension), (pair.fixed_labels, pair.moving_labels)
        )

    def other(number: int) -> Volume:
        return make_pair(seed=5000 + number, **{**looks[(first + number) % len(looks)], "kind": "shapes"}).moving

    # A pair and its neighbour in the list have other looks: both halves have all of them.
    numbers = range(first, first + count)
    pairs = [(f"{n:03d}", splits[n % len(splits)], functools.partial(made, n)) for n in numbers]
    return expanded("synthetic", pairs, other, without("wrong model"), 1, seed)
