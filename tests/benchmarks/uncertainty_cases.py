"""Registrations with known errors, for learning and for judging uncertainty.

Every case gives what the registration told about its certainty at many points (see itk_pdd.uncertainty.features) and
how wrong it was there: vectors where the truth is known, the distance along the normal where only a surface is.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from itk_pdd import registration
from itk_pdd.evaluation import datasets, metrics, warping
from itk_pdd.evaluation.scoring import load_case
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.mapping import AffineMapping
from itk_pdd.io.volume import Volume
from itk_pdd.kernels.interpolation.cpu import sample_linear, sample_nearest
from itk_pdd.synthesis import make_pair, random_deformation
from itk_pdd.uncertainty.features import Evidence

POINTS = 2000
"""Points that are looked at in a case."""


@dataclass
class Case:
    """One registration.

    Attributes
    ----------
    name, kind : str
        Which one, and where it belongs: synthetic, warped, organs, landmarks.
    features : dict of numpy.ndarray
        At the points, (n,).
    spread : dict of numpy.ndarray
        Matrices of trace 1 at the points, (n, dim, dim), along the axes of the working grid.
    errors : numpy.ndarray
        In working voxels: (n, dim) along the axes of the working grid, or (n,) along a surface's normal.
    voxel : float
        Working spacing in millimetres.
    summary : dict
        Means over the image of every feature, for the quality of the registration.
    dice : float
        Mean overlap of the labels, NaN without any.
    points : numpy.ndarray
        Where they are, physical millimetres, (n, dim).
    rounding : numpy.ndarray
        Steps to which the truth is rounded, in working voxels along the axes of the working grid, (dim,); empty where
        it is exact.
    """

    name: str
    kind: str
    features: dict[str, np.ndarray]
    spread: dict[str, np.ndarray]
    errors: np.ndarray
    voxel: float
    summary: dict[str, float]
    dice: float
    points: np.ndarray
    rounding: np.ndarray = field(default_factory=lambda: np.empty(0))


def at_points(evidence: Evidence, points: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Features and spread matrices of an evidence at physical points (n, dim)."""
    index, dimension = evidence.grid.to_index(points), evidence.grid.dimension
    values = {name: sample_linear(array, index) for name, array in evidence.features.items()}
    matrices = {
        name: sample_linear(array.reshape(*array.shape[:-2], -1), index).reshape(-1, dimension, dimension)
        for name, array in evidence.spread.items()
    }
    return values, matrices


def _finish(name, kind, result, points, errors, dice) -> Case:
    from itk_pdd.uncertainty.quality import summary

    evidence = result.uncertainty.evidence
    values, matrices = at_points(evidence, points)
    return Case(
        name, kind, values, matrices, errors.astype(np.float32), evidence.voxel,
        summary(evidence.features, evidence.inside), dice, points,
    )  # fmt: skip


def _vectors(name, kind, fixed, moving, truth, where, *, labels=None, seed=0, **options) -> Case:
    """A case of which the whole deformation is known."""
    result = registration.register_volumes(fixed, moving, uncertainty=True, **options)
    index = np.argwhere(where)
    rng = np.random.default_rng(seed)
    index = index[rng.choice(len(index), min(POINTS, len(index)), replace=False)]
    errors = (result.field.vectors - truth.vectors)[tuple(index.T)]
    grid = result.uncertainty.evidence.grid
    errors = errors @ np.asarray(grid.direction) / result.uncertainty.evidence.voxel
    dice = np.nan
    if labels is not None:
        dice = _dice(labels[0], labels[1], result.field)
    points = fixed.grid.to_physical(index[:, ::-1])
    return _finish(name, kind, result, points, errors, dice)


def _dice(fixed: Volume, moving: Volume, field: DisplacementField) -> float:
    warped = warping.warp_labels(moving, field).array
    common = sorted(set(metrics.labels_of(fixed.array)) & set(metrics.labels_of(moving.array)))
    return float(np.nanmean([dice for dice, _ in metrics.overlaps(fixed.array, warped, common).values()]))


def synthetic(seeds: range, **options) -> Iterator[Case]:
    """Synthetic pairs of all kinds, displacements up to the capture range."""
    kinds = [
        {"size": (112, 96, 80), "spacing": 3.0, "kind": "abdomen"},
        {"size": (96, 88, 72), "spacing": 2.0, "kind": "shapes"},
        {"size": (112, 96, 80), "spacing": 3.0, "kind": "abdomen"},
        {"size": (160, 140), "spacing": 2.0, "kind": "abdomen"},
        {"size": (96, 88, 72), "spacing": 2.0, "kind": "shapes", "modality": "random"},
    ]
    for seed in seeds:
        settings = kinds[seed % len(kinds)]
        share = (0.2, 0.4, 0.6, 0.9)[(seed // len(kinds)) % 4]
        pair = make_pair(seed=seed, displacement=share * 14 * settings["spacing"], **settings)
        labels = pair.fixed_labels, pair.moving_labels
        name = f"{settings['kind']} {len(settings['size'])}-D {settings.get('modality', 'same')} {share:.0%} {seed}"
        yield _vectors(
            name, "synthetic", pair.fixed, pair.moving, pair.truth, pair.body, labels=labels, seed=seed, **options
        )


def warped(
    pairs: list[datasets.Pair], *, seed: int, crop: int | None = None, load=load_case, units: bool = False,
    **options,
) -> Iterator[Case]:  # fmt: skip
    """Real images and themselves, deformed by a known mapping, with noise, contrast and sharpness of another scan.

    Intensities lie between 0 and about 1, or in the ``units`` of the image: networks for CT know no others.
    """
    for number, pair in enumerate(pairs):
        case = load(pair)
        rng = np.random.default_rng([seed, number])
        image = case.fixed if crop is None else _cropped(case.fixed, crop, rng)
        voxel = float(np.mean(image.grid.spacing))
        extent = float(np.mean(image.grid.extent))
        share = rng.uniform(0.03, 0.12)
        mapping = random_deformation(image.grid, seed=rng, magnitude=share * extent)
        still, truth, inverse = image, mapping.forward(image.grid), mapping.inverse(image.grid)
        moved = warping.warp_image(Volume(still.array.astype(np.float32), still.grid), inverse)
        low, high = np.percentile(still.array, [0.5, 99.5])
        scans = [_scanned(v.array, low, high, rng) for v in (still, moved)]
        offset, unit = (np.float32(low), np.float32(high - low)) if units else (np.float32(0), np.float32(1))
        fixed, moving = (Volume(offset + unit * s, image.grid) for s in scans)
        body = ndimage.binary_closing(still.array > low + 0.1 * (high - low), iterations=2)
        points = image.grid.to_index(image.grid.points() + truth.vectors)
        body &= ((points > 0) & (points < np.asarray(image.grid.size) - 1)).all(axis=-1)
        yield _vectors(
            f"warped {pair.name} {share * extent / voxel:.0f} voxels", "warped", fixed, moving, truth, body,
            seed=number, **options,
        )  # fmt: skip


def _cropped(image: Volume, size: int, rng: np.random.Generator) -> Volume:
    """A random part of an image of at most ``size`` voxels along each axis."""
    lower = [int(rng.integers(0, max(1, n - size))) for n in image.grid.size]
    upper = [max(0, n - cut - size) for n, cut in zip(image.grid.size, lower, strict=True)]
    part = tuple(slice(cut, n - end) for cut, n, end in zip(lower[::-1], image.grid.shape, upper[::-1], strict=True))
    return Volume(np.ascontiguousarray(image.array[part]), image.grid.padded([-n for n in lower], [-n for n in upper]))


def _scanned(array: np.ndarray, low: float, high: float, rng: np.random.Generator) -> np.ndarray:
    """Intensities as another scanner would show them: contrast, sharpness, bias field and noise of its own."""
    noise, blur, gamma, bias = rng.uniform(0, 0.3), rng.uniform(0, 0.9, 3), rng.uniform(0.7, 1.4), rng.uniform(0, 0.1)
    scaled = ndimage.gaussian_filter(np.clip((array - low) / (high - low), 0, None) ** gamma, blur)
    field = ndimage.gaussian_filter(rng.standard_normal(array.shape), 12, mode="nearest")
    grain = ndimage.gaussian_filter(rng.standard_normal(array.shape), 0.6)
    scaled = scaled * np.exp(bias * field / field.std())
    return (scaled + noise * float(array.std()) / (high - low) * grain / grain.std()).astype(np.float32)


def organs(
    pairs: list[datasets.Pair],
    *,
    per_label: int = 150,
    start: Callable[[Grid, int], AffineMapping | None] | None = None,
    kind: str = "organs",
    load=load_case,
    **options,
) -> Iterator[Case]:
    """Pairs of different subjects: how far points of an organ's surface land from the surface of the same organ."""
    for number, pair in enumerate(pairs):
        case = load(pair)
        initial = None if start is None else start(case.fixed.grid, zlib.crc32(pair.name.encode()) + number)
        result = registration.register_volumes(case.fixed, case.moving, initial=initial, uncertainty=True, **options)
        rng = np.random.default_rng(number)
        points, errors = [], []
        for label in metrics.labels_of(case.fixed_labels.array):
            inside, other = case.fixed_labels.array == label, case.moving_labels.array == label
            if not other.any():
                continue
            index = np.argwhere(inside & ~ndimage.binary_erosion(inside))
            # Where the organ is cut by the border of the image there is no surface.
            index = index[((index > 0) & (index < np.asarray(inside.shape) - 1)).all(axis=1)]
            index = index[rng.choice(len(index), min(per_label, len(index)), replace=False)]
            where = case.fixed.grid.to_physical(index[:, ::-1])
            errors.append(signed_distance(other, case.moving.grid, result.field(where)))
            points.append(where)
        errors = np.concatenate(errors) / result.uncertainty.evidence.voxel
        dice = _dice(case.fixed_labels, case.moving_labels, result.field)
        yield _finish(pair.name, kind, result, np.concatenate(points), errors, dice)


def signed_distance(inside: np.ndarray, grid: Grid, points: np.ndarray) -> np.ndarray:
    """Distance in mm of physical points to the border of a region, half a voxel beyond its voxels; negative inside."""
    box = ndimage.find_objects(inside.astype(np.uint8))[0]
    box = tuple(slice(max(0, b.start - 2), b.stop + 2) for b in box)
    part, half = inside[box], min(grid.spacing) / 2
    offset = np.array([b.start for b in box])

    def distances(layer: np.ndarray) -> np.ndarray:
        return cKDTree(grid.to_physical((np.argwhere(layer) + offset)[:, ::-1])).query(points)[0]

    outer = distances(part & ~ndimage.binary_erosion(part)) - half
    inner = half - distances(ndimage.binary_dilation(part) & ~part)
    within = sample_nearest(inside.astype(np.uint8), grid.to_index(points), outside="zero") > 0
    return np.where(within, np.minimum(inner, 0), np.maximum(outer, 0))


def landmarks(**options) -> Case:
    """The lung pair with its landmarks."""
    case = load_case(datasets.lung_pair())
    result = registration.register_volumes(
        case.fixed, case.moving, fixed_mask=case.fixed_mask, moving_mask=case.moving_mask, uncertainty=True, **options
    )
    errors = result.field(case.fixed_points) - case.moving_points
    evidence = result.uncertainty.evidence
    errors = errors @ np.asarray(evidence.grid.direction) / evidence.voxel
    found = _finish("lung", "landmarks", result, case.fixed_points, errors, np.nan)
    return replace(found, rounding=_rounding(case, evidence.grid) / evidence.voxel)


def _rounding(case, grid: Grid) -> np.ndarray:
    """Steps in millimetres along the axes of a grid to which landmarks of the moving image are rounded.

    Fixed ones were chosen at centres of voxels, so they are exact. What was found for them in the moving scan lies on a
    lattice as well: in the middle of slices, and on halves of voxels within them.
    """
    moving = case.moving.grid
    index = moving.to_index(case.moving_points)
    steps = np.zeros(moving.dimension)
    for part in (0.5, 1.0):
        on = (np.abs(index / part - np.round(index / part)) < 1e-3).all(axis=0)
        steps[on] = part * np.asarray(moving.spacing)[on]
    # Both grids have their axes along the same physical ones, in some order.
    return np.abs((np.asarray(moving.direction) * steps).T @ np.asarray(grid.direction)).max(axis=0)


def misplaced(grid: Grid, seed: int) -> AffineMapping:
    """A wrong start: turned and shifted beyond what the search can find, by an amount that the seed decides."""
    rng = np.random.default_rng(seed)
    strength = rng.uniform(0.3, 1.0)
    angle, axis = np.deg2rad(70) * strength, int(rng.integers(3))
    a, b = [i for i in range(3) if i != axis]
    matrix = np.eye(4)
    matrix[[a, b], [a, b]] = np.cos(angle)
    matrix[a, b], matrix[b, a] = -np.sin(angle), np.sin(angle)
    shift = rng.standard_normal(3)
    matrix[:3, 3] = grid.centre - matrix[:3, :3] @ grid.centre
    matrix[:3, 3] += shift / np.linalg.norm(shift) * strength * 0.4 * float(np.mean(grid.extent))
    return AffineMapping(matrix)


Sets = dict[str, Callable[..., Iterable[Case]]]

TRAINING: Sets = {
    "synthetic": lambda **o: synthetic(range(100, 112), **o),
    "warped abdomen": lambda **o: warped(datasets.abdomen_pairs("train", 8, seed=3), seed=1, crop=110, **o),
    "warped hippocampus": lambda **o: warped(datasets.hippocampus_pairs("train", 6, seed=3), seed=1, **o),
    "organs abdomen": lambda **o: organs(datasets.abdomen_pairs("train", 10, seed=3), **o),
    "organs hippocampus": lambda **o: organs(datasets.hippocampus_pairs("train", 16, seed=3), **o),
    "misplaced abdomen": lambda **o: organs(
        datasets.abdomen_pairs("train", 6, seed=4), start=misplaced, kind="misplaced", **o
    ),
    "misplaced hippocampus": lambda **o: organs(
        datasets.hippocampus_pairs("train", 10, seed=4), start=misplaced, kind="misplaced", **o
    ),
}
"""What is learned from."""

TEST: Sets = {
    "synthetic": lambda **o: synthetic(range(20), **o),
    "warped abdomen": lambda **o: warped(datasets.abdomen_pairs("validation", 3, seed=3), seed=2, crop=110, **o),
    "lung landmarks": lambda **o: [landmarks(**o)],
    "organs abdomen": lambda **o: organs(datasets.abdomen_pairs("validation"), **o),
    "organs hippocampus": lambda **o: organs(datasets.hippocampus_pairs("validation", 20), **o),
    "misplaced abdomen": lambda **o: organs(
        datasets.abdomen_pairs("validation", 2, seed=4), start=misplaced, kind="misplaced", **o
    ),
    "misplaced hippocampus": lambda **o: organs(
        datasets.hippocampus_pairs("validation", 10, seed=4), start=misplaced, kind="misplaced", **o
    ),
}
"""What is held out: other seeds, other patients, another organ."""


def sets_of(model: str, data: str | None) -> tuple[tuple[Sets, str], tuple[Sets, str]]:
    """What to learn a model's calibration from and what to judge it by, each with its prefix for :func:`gathered`.

    Parameters
    ----------
    model : str
        Its name.
    data : {"abdomen", "hippocampus"}, optional
        What it was trained on, if it is a trained one.
    """
    learned, judged = (TRAINING, TEST) if data is None else _of_trained(data)
    name = model if data is None else f"{model} {data}"
    return (learned, f"{name} training"), (judged, f"{name} test")


def _of_trained(data: str) -> tuple[Sets, Sets]:
    """The sets of a model that was trained on some data.

    The network knows its training patients too well, so both are of validation patients. They are told apart by the
    fixed image only: moving images of the one half may be fixed ones of the other.
    """
    pairs = datasets.abdomen_pairs("validation") if data == "abdomen" else datasets.hippocampus_pairs("validation", 60)
    fixed = sorted({pair.fixed for pair in pairs})
    halves = [[p for p in pairs if (p.fixed in fixed[: len(fixed) // 2]) == first][:20] for first in (True, False)]
    crop = {"crop": 110} if data == "abdomen" else {}

    def sets(own: list[datasets.Pair], seed: int) -> Sets:
        return {
            f"warped {data}": lambda **o: warped(own[:6], seed=seed, **crop, **o),
            f"organs {data}": lambda **o: organs(own, **o),
            f"misplaced {data}": lambda **o: organs(own[:10], start=misplaced, kind="misplaced", **o),
        }

    return sets(halves[0], 1), sets(halves[1], 2)


def gathered(sets: Sets, prefix: str, folder: Path, **options) -> dict[str, list[Case]]:
    """Cases of all sets, from files of an earlier run (with the same settings of the model) where there are any.

    Parameters
    ----------
    sets, prefix : dict, str
        From :func:`sets_of`; the prefix is the beginning of the files' names, of which there is one for each set.
    folder : pathlib.Path
        Where the files go.
    **options
        For the registrations, ``model`` for instance.
    """
    folder.mkdir(parents=True, exist_ok=True)
    result = {}
    for name, make in sets.items():
        path = folder / f"{prefix} {name}.npz"
        if not path.is_file():
            cases = []
            for case in make(**options):
                cases.append(case)
                print(f"{prefix} {name}: {case.name}, dice {case.dice:.3f}", flush=True)
            write_cases(cases, path)
        result[name] = read_cases(path)
    return result


def write_cases(cases: list[Case], path: Path) -> None:
    """Keep cases in one file of arrays."""
    arrays: dict[str, np.ndarray] = {}
    for n, case in enumerate(cases):
        arrays[f"{n}/text"] = np.array([case.name, case.kind, json.dumps(case.summary)])
        arrays[f"{n}/numbers"] = np.array([case.voxel, case.dice])
        arrays |= {f"{n}/{k}": getattr(case, k) for k in ("errors", "points", "rounding")}
        arrays |= {f"{n}/features/{k}": v for k, v in case.features.items()}
        arrays |= {f"{n}/spread/{k}": v for k, v in case.spread.items()}
    temporary = path.with_suffix(".tmp.npz")
    np.savez_compressed(temporary, count=len(cases), **arrays)
    temporary.replace(path)


def read_cases(path: Path) -> list[Case]:
    """What :func:`write_cases` kept."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    cases = []
    for n in range(int(arrays["count"])):
        own = {k.split("/", 1)[1]: v for k, v in arrays.items() if k.startswith(f"{n}/")}
        parts = {
            part: {k.split("/", 1)[1]: v for k, v in own.items() if k.startswith(f"{part}/")}
            for part in ("features", "spread")
        }
        name, kind, means = (str(text) for text in own["text"])
        voxel, dice = (float(v) for v in own["numbers"])
        cases.append(
            Case(
                name, kind, parts["features"], parts["spread"], own["errors"], voxel,
                json.loads(means), dice, own["points"], own.get("rounding", np.empty(0)),
            )
        )  # fmt: skip
    return cases
