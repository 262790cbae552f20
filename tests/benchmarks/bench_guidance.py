"""What labels, landmarks and a user's own features gain on the benchmark data.

    python tests/benchmarks/bench_guidance.py labels [--pairs N] -o rows.csv    # abdominal validation pairs
    python tests/benchmarks/bench_guidance.py landmarks -o rows.csv             # lung CT, liver MR, histology
    python tests/benchmarks/bench_guidance.py features [--pairs N] -o rows.csv  # abdomen-ct and MIND as TorchScript
    python tests/benchmarks/bench_guidance.py certainty [--pairs N] -o rows.csv # synthetic pairs of known deformation

Rows that are in the file are kept, so that the same command goes on after an interruption.

``labels``: Dice without labels ("none"), with all ("all"), with the five large organs as guides ("five"), with these
where the spleen of the moving image is moved by 40 mm ("wrong"), and with this wrong spleen alone ("alone"); the mean
over all organs, over the five large ones, over the rest and over all but the spleen, the smoothness (SD of
log(J + 3)), folded voxels, and the Dice of each organ.

``landmarks``: the mean error in millimetres (pixels in histology) at landmarks that guide and at the others, without
any, with some (ten in the lung, else five), with these exactly, and with 300 random wrong pairs among ten right ones,
of which those that were obeyed are counted.

``features``: Dice of a model and of the same network through ``features``, and the mean distance of the fields in
millimetres; and of the default's first two searches and the same by a MIND written as TorchScript, also for six pairs
of hippocampi.

``certainty``: the mean error in millimetres, and the share of the body whose true place lies within the radius that the
uncertainty tells for 50, 90 and 95 %, without guides, with the labels of all structures, and with ten exact landmarks,
of which the last are also measured within 10 voxels of them.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import nn
from torch.nn import functional

from itk_pdd import models, registration
from itk_pdd.evaluation import datasets
from itk_pdd.evaluation.metrics import sd_log_jacobian_plus_3
from itk_pdd.evaluation.scoring import load_case, score
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.guidance.guidance import read_guidance
from itk_pdd.io.volume import Volume
from itk_pdd.network.semantic import SemanticNetwork
from itk_pdd.solver.problem import Problem
from itk_pdd.solver.settings import Refinement
from itk_pdd.synthesis import make_pair
from itk_pdd.training.curve import write_table

LARGE_ORGANS, SPLEEN = (1, 2, 3, 6, 7), 1
MOVED_MM = 40.0
PATCH = 128  # voxels along each axis
WRONG, AMONG = 300, 10
SHARES = (0.5, 0.9, 0.95)
Row = dict[str, Any]
Wanted = Callable[[str, str], bool]


def solved(fixed: Volume, moving: Volume, model: Any = "auto", *, uncertainty: bool = False, **known: Any) -> Any:
    """Register two images with what is known about them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        guidance = read_guidance((fixed.grid, moving.grid), **known)
        problem = Problem((fixed,), (moving,), guidance=guidance)
        return registration.solve(problem, model=model, judged=False, uncertainty=uncertainty)


def label_rows(wanted: Wanted, count: int | None) -> Iterator[Row]:
    """Dice with labels as guides."""
    for pair in datasets.abdomen_pairs("validation")[:count]:
        case = load_case(pair)
        wrong = case.moving_labels.array.copy()
        spleen = wrong == SPLEEN
        wrong[spleen] = 0
        # Along the axis with the most slices, towards the middle of the image.
        grid = case.moving.grid
        axis = int(np.argmax(spleen.shape))
        step = round(MOVED_MM / grid.spacing[grid.dimension - 1 - axis])
        low = np.argwhere(spleen).mean(axis=0)[axis] < spleen.shape[axis] / 2
        wrong[np.roll(spleen, step if low else -step, axis=axis)] = SPLEEN
        known = {
            "none": {},
            "all": {"fixed_labels": case.fixed_labels, "moving_labels": case.moving_labels},
            "five": {"fixed_labels": case.fixed_labels, "moving_labels": case.moving_labels, "guide": LARGE_ORGANS},
            "wrong": {
                "fixed_labels": case.fixed_labels, "moving_labels": Volume(wrong, grid), "guide": LARGE_ORGANS,
            },
            "alone": {"fixed_labels": case.fixed_labels, "moving_labels": Volume(wrong, grid), "guide": SPLEEN},
        }  # fmt: skip
        for name, given in known.items():
            if not wanted(pair.name, name):
                continue
            found = score(case, solved(case.fixed, case.moving, **given).field, surfaces=False, similarity=False)
            rest = set(found.labels) - set(LARGE_ORGANS)
            yield {
                "pair": pair.name, "guide": name, "dice": found.mean(), "five": found.mean("dice", LARGE_ORGANS),
                "rest": found.mean("dice", rest), "all but the spleen": found.mean("dice", {*found.labels} - {SPLEEN}),
                "sd": found.overall["sd_log_j3"], "folded_pct": found.overall["folding"],
                **{f"organ {label}": found.labels[label]["dice"] for label in sorted(found.labels)},
            }  # fmt: skip


def landmark_cases() -> Iterator[tuple[str, Volume, Volume, np.ndarray, np.ndarray, int]]:
    """Name, images, landmarks of both, and how many of them guide."""
    lung = load_case(datasets.lung_pair())
    yield "lung", lung.fixed, lung.moving, lung.fixed_points, lung.moving_points, 10
    folder = datasets.data_folder()
    for subject in sorted((folder / "liver_mr_4d").iterdir()):
        images = sorted(path for path in subject.iterdir() if path.name.endswith((".nii.gz", ".nii", ".mha", ".nrrd")))
        master = next((path for path in images if "exhMaster" in path.name), None)
        for path in images:
            points = [_liver_points(each) for each in (master, path)] if master not in (None, path) else []
            if points and all(each is not None for each in points):
                volumes = [Volume.from_image(str(each)) for each in (master, path)]
                yield f"liver {subject.name} {_stem(path)}", *volumes, *points, 5
    slides = [folder / "histology_2d" / f"lesions_{side}" for side in ("fixed", "moving")]
    volumes = [Volume.from_image(f"{slide}.nii.gz") for slide in slides]
    pixels = [np.loadtxt(f"{slide}.csv", delimiter=",", skiprows=1)[:, 1:3] for slide in slides]
    points = [volume.grid.to_physical(each) for volume, each in zip(volumes, pixels, strict=True)]
    yield "histology", *volumes, *points, 5


def _stem(path: Path) -> str:
    return path.name.split(".")[0]


def _liver_points(path: Path) -> np.ndarray | None:
    table = next(path.parent.glob(f"{_stem(path)}*LMliver.csv"), None)
    return None if table is None else datasets.read_points(table, dimension=3)


def landmark_rows(wanted: Wanted, count: int | None) -> Iterator[Row]:
    """Errors at landmarks that guide and at the others."""
    for name, fixed, moving, own, other, some in landmark_cases():
        inside = fixed.grid.contains(own) & moving.grid.contains(other)
        own, other = own[inside], other[inside]
        rng = np.random.default_rng(0)
        order = rng.permutation(len(own))
        chosen, ten = order[:some], order[:AMONG]
        wrong = [
            rng.uniform(grid.corners().min(axis=0), grid.corners().max(axis=0), (WRONG, grid.dimension))
            for grid in (fixed.grid, moving.grid)
        ]
        wrong = [each[fixed.grid.contains(wrong[0]) & moving.grid.contains(wrong[1])] for each in wrong]
        points = {"fixed_points": own[chosen], "moving_points": other[chosen]}
        known = {
            "none": {},
            "some": points,
            "exact": {**points, "exact_points": True},
            "wrong among them": {
                "fixed_points": np.concatenate([own[ten], wrong[0]]),
                "moving_points": np.concatenate([other[ten], wrong[1]]),
            },
        }
        for guide, given in known.items():
            if not wanted(name, guide):
                continue
            used = ten if guide == "wrong among them" else chosen
            rest = np.setdiff1d(np.arange(len(own)), used)
            result = solved(fixed, moving, **given)
            errors = np.linalg.norm(own + result.field.at(own, outside="nearest") - other, axis=1)
            determinant = result.field.jacobian_determinant()
            obeyed = [not each.ignored for each in result.landmarks]
            yield {
                "pair": name, "guide": guide, "guided": errors[used].mean(), "others": errors[rest].mean(),
                "right obeyed": sum(obeyed[: len(used)]), "wrong obeyed": sum(obeyed[len(used) :]),
                "sd": sd_log_jacobian_plus_3(determinant), "folded": int((determinant <= 0).sum()),
            }  # fmt: skip


class Organs(nn.Module):
    """The organ network of a model, with probabilities as its answer."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Give the probabilities of the finest level."""
        return self.network(image)[0].softmax(1)


class Mind(nn.Module):
    """MIND-SSC of Heinrich et al. (MICCAI 2013), by plain torch, as a user would write it."""

    def __init__(self, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.dilations = dilations

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Give 12 features for each dilation."""
        return torch.cat([self._one(image, dilation) for dilation in self.dilations], dim=1)

    def _one(self, image: torch.Tensor, dilation: int) -> torch.Tensor:
        six = [(0, 1, 1), (1, 1, 0), (1, 0, 1), (1, 1, 2), (2, 1, 1), (1, 2, 1)]
        pairs = [(a, b) for a in range(6) for b in range(a) if np.square(np.subtract(six[a], six[b])).sum() == 2]
        padded = functional.pad(image, [dilation] * 6, mode="replicate")
        size = image.shape[2:]

        def shifted(place: tuple[int, int, int]) -> torch.Tensor:
            z, y, x = (dilation * p for p in place)
            return padded[:, :, z : z + size[0], y : y + size[1], x : x + size[2]]

        squares = [(shifted(six[a]) - shifted(six[b])) ** 2 for a, b in pairs]
        pooled = functional.avg_pool3d(functional.pad(torch.cat(squares, 1), [1] * 6, mode="replicate"), 3, 1)
        pooled = pooled - pooled.min(1, keepdim=True).values
        mean = pooled.mean(1, keepdim=True)
        # Limits as tensors: a trace would keep numbers as constants of its example.
        lowest = 1e-3 * mean.mean() + 1e-6
        return torch.exp(-pooled / torch.minimum(torch.maximum(mean, lowest), 1e6 * lowest))


def feature_rows(wanted: Wanted, count: int | None) -> Iterator[Row]:
    """Dice with a network as a model and as features."""
    folder, pairs = Path(tempfile.mkdtemp()), datasets.abdomen_pairs("validation")[:count]
    model = SemanticNetwork.from_folder(str(models.load("abdomen-ct").network))
    example = torch.zeros(1, 1, *[2 * model.card.network.fold * model.card.network.multiple] * 3)
    files = {"torchscript": folder / "organs.pt", "onnx": folder / "organs.onnx"}
    torch.jit.trace(Organs(model.network), example, check_trace=False).save(str(files["torchscript"]))
    if any(wanted(pair.name, "onnx") for pair in pairs):
        # The exporter cannot fold blocks of an unknown size: the file takes patches of one size.
        patch = torch.zeros(1, 1, *[PATCH] * 3)
        torch.onnx.export(Organs(model.network), (patch,), str(files["onnx"]), dynamo=False)
    card = {
        "spacing": model.card.image_spacing, "low": model.card.intensity.low, "high": model.card.intensity.high,
        "multiple": model.card.network.fold * model.card.network.multiple, "values": "probabilities",
    }  # fmt: skip
    torch.jit.trace(Mind((1, 3)), torch.rand(1, 1, 16, 16, 16), check_trace=False).save(str(folder / "mind.pt"))
    search = replace(models.DEFAULT, stages=models.DEFAULT.stages[:2], refinement=Refinement(iterations=0))
    organs: dict[str, tuple[Any, Row]] = {
        "abdomen-ct": ("abdomen-ct", {}),
        **{name: ("auto", {"features": str(path), "feature_card": card}) for name, path in files.items()},
    }
    for pair in [*pairs, *datasets.hippocampus_pairs("validation", 6)]:
        case = load_case(pair)
        mind = {"spacing": 2 * min(case.fixed.grid.spacing), "alone": True, "descent": 0}
        by_mind = {"features": str(folder / "mind.pt"), "feature_card": mind}
        known = (organs if pair in pairs else {}) | {"search": (search, {}), "MIND": (search, by_mind)}
        first: DisplacementField | None = None
        for name, (chosen, given) in known.items():
            if not wanted(pair.name, name):
                continue
            field = solved(case.fixed, case.moving, chosen, **given).field
            first = field if name in ("abdomen-ct", "search") else first
            apart = None if first is None else np.linalg.norm(field.vectors - first.vectors, axis=-1).mean()
            yield {
                "pair": pair.name, "guide": name, "apart_mm": apart,
                "dice": score(case, field, surfaces=False, similarity=False).mean(),
            }  # fmt: skip


def certainty_rows(wanted: Wanted, count: int | None) -> Iterator[Row]:
    """Coverage of the uncertainty with guides."""
    for seed in range(count or 4):
        name = f"synthetic {seed}"
        share = (0.2, 0.4, 0.6, 0.9)[seed % 4]
        made = make_pair((96, 88, 72), 2.0, seed=seed, displacement=28 * share, kind=("abdomen", "shapes")[seed % 2])
        body = np.random.default_rng(seed).permutation(np.argwhere(made.body))[:, ::-1].astype(float)
        points = made.fixed.grid.to_physical(body)
        seen = made.moving.grid.contains(points + made.truth.at(points))
        points = points[seen][:AMONG]
        marks = {"fixed_points": points, "moving_points": points + made.truth.at(points), "exact_points": True}
        known = {
            "none": {},
            "labels": {"fixed_labels": made.fixed_labels, "moving_labels": made.moving_labels},
            "landmarks": marks,
        }
        for guide, given in known.items():
            if not (wanted(name, guide) or (guide == "landmarks" and wanted(name, "near landmarks"))):
                continue
            result = solved(made.fixed, made.moving, uncertainty=True, **given)
            errors = np.linalg.norm(result.field.vectors - made.truth.vectors, axis=-1)
            radii = {share: result.uncertainty.radius(share).array for share in SHARES}
            near = cKDTree(points).query(made.fixed.grid.points())[0] < 10 * made.fixed.grid.spacing[0]
            for kind, where in ((guide, made.body), ("near landmarks", made.body & near)):
                if kind == guide or guide == "landmarks":
                    covered = {f"inside {share:.0%}": (errors <= radii[share])[where].mean() for share in SHARES}
                    yield {"pair": name, "guide": kind, "error_mm": errors[where].mean(), **covered}


def main() -> None:
    """Run a benchmark and print its rows and their means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("labels", "landmarks", "features", "certainty"))
    parser.add_argument("--pairs", type=int, help="the first N pairs")
    parser.add_argument("--only", help="guides that are tried, such as all,five; by default each of them")
    parser.add_argument("--pair", help="this pair alone")
    parser.add_argument("-o", "--output", type=Path, required=True, help="CSV file of the rows")
    options = parser.parse_args()
    rows: list[Row] = []
    if options.output.is_file():
        with options.output.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    done = {(row["pair"], row["guide"]) for row in rows}
    made = {"labels": label_rows, "landmarks": landmark_rows, "features": feature_rows, "certainty": certainty_rows}
    only = options.only and options.only.split(",")

    def wanted(pair: str, guide: str) -> bool:
        return (pair, guide) not in done and (not only or guide in only) and options.pair in (None, pair)

    for row in made[options.what](wanted, options.pairs):
        rows.append(row)
        columns = list(dict.fromkeys(key for each in rows for key in each))
        write_table(options.output, [{key: each.get(key, "") for key in columns} for each in rows], "rows")
        print(" ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
    for guide in dict.fromkeys(row["guide"] for row in rows):
        mine = [row for row in rows if row["guide"] == guide]
        figures = [k for k, v in mine[0].items() if k not in ("pair", "guide") and v not in ("", None)]
        means = {k: np.mean([float(row[k]) for row in mine if row[k] not in ("", None)]) for k in figures}
        print(f"mean of {len(mine)}, {guide}: " + ", ".join(f"{k} {v:.4f}" for k, v in means.items()))


if __name__ == "__main__":
    main()
