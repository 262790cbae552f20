"""Learn the calibration of the uncertainty of PDD networks that compare organs, and judge it on other patients.

    pdd-train organs itk_pdd/models/abdomen-ct -o runs/pdd --descent runs/pdd-descent --warp 0.4 15 32 \
        --warp 0.15 11 39 --warp 0.08 9 53 --extent 192 160 256
    python tests/benchmarks/calibrate_pdd.py runs/pdd-descent --cases runs/pdd-cases [--write]

The segmentation network must not have seen patients 0021 to 0025 (``abdomen-ct`` has not). Registered are pairs of
them, copies of them deformed by known fields, and pairs that are started wrongly, each with the searches alone and with
the descent. To save time only the slices around the organs are registered; the network looks at the whole images, and
at the copies as they are. What is in the folder of cases is not computed again, so the same command goes on.

Coverage is that of patients left out: for each of the five, a calibration is learned from the registrations whose fixed
image is another's. With --write the calibration learned from all becomes the package's (itk_pdd/models/
pdd.uncertainty.json and pdd-descent.uncertainty.json), which ``pdd-train organs`` writes into cards.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from bench_uncertainty import measure
from calibrate_uncertainty import AMBIGUITY, FEATURES, FLOOR, SHARES, group_of, learn, minimise, negative_log_likelihood
from uncertainty_cases import Case, misplaced, organs, read_cases, warped, write_cases

from itk_pdd import models
from itk_pdd.evaluation import datasets, scoring
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.volume import Volume
from itk_pdd.models.combined import CombinedModel
from itk_pdd.models.pddmodel import PddModel
from itk_pdd.network.semantic import SemanticNetwork
from itk_pdd.solver.organs import Organs
from itk_pdd.solver.problem import Options, Problem
from itk_pdd.uncertainty.calibration import DESCENT, PDD, Calibration, calibration_of_package

PATIENTS = ("0021", "0022", "0023", "0024", "0025")
MARGIN, SLICES = 12, 56
"""Voxels around the organs, and slices about their middle, that are registered."""
POINTS = 400  # of each case, for the fit
LITERAL = -np.log(3.0)  # scale per axis of a Student distribution of 3 degrees of freedom, width of 1
PRIOR = 0.02
WRONG = ("structure residual", "decorrelation near", "bending near")
"""Features of a wrong match: few, since the patients are."""
SHOWN = ("pairs", "points", "error mm", "cover 50%", "cover 90%", "cover 95%", "NLL", "rank", "AUROC")


@dataclass(frozen=True, eq=False)
class Known(PddModel):
    """A PDD network that knows the organs of some images already, by the checksums of their voxels."""

    answers: dict[int, tuple[np.ndarray, Grid]] = field(default_factory=dict)

    def organs(self, problem: Problem, options: Options) -> Organs:
        """See :meth:`PddModel.organs`."""
        network = SemanticNetwork(self.network.organs.unet, self.card.segmentation())
        both = [self.answers.get(_key(v)) or network.probabilities(v) for v in (problem.fixed, problem.moving)]
        return Organs(network.card, *both)


def _key(volume: Volume) -> int:
    return zlib.crc32(np.ascontiguousarray(volume.array).tobytes())


def cropped(case: scoring.Case, model: Known) -> scoring.Case:
    """A case without what lies far from the organs of the fixed image; what they are in both is kept."""
    network = SemanticNetwork(model.network.organs.unet, model.card.segmentation())
    where = np.argwhere(case.fixed_labels.array)[:, ::-1]
    low, high = where.min(axis=0) - MARGIN, where.max(axis=0) + MARGIN + 1
    middle = (low[2] + high[2]) // 2
    low[2], high[2] = max(low[2], middle - SLICES // 2), min(high[2], middle + SLICES // 2)
    low, high = np.maximum(low, 0), np.minimum(high, case.fixed.grid.size)
    names = ("fixed", "moving", "fixed_labels", "moving_labels")
    parts = {name: _part(getattr(case, name), low, high) for name in names}
    for name in names[:2]:
        model.answers[_key(parts[name])] = network.probabilities(getattr(case, name))
    return replace(case, **parts)


def _part(volume: Volume, low: np.ndarray, high: np.ndarray) -> Volume:
    window = tuple(slice(a, b) for a, b in zip(low[::-1], high[::-1], strict=True))
    grid = volume.grid.padded([-int(n) for n in low], [int(h) - n for h, n in zip(high, volume.grid.size, strict=True)])
    return Volume(np.ascontiguousarray(volume.array[window]), grid)


def jobs(load) -> Iterator[tuple[str, object]]:
    """Name and maker of each case; the name begins with the kind and the fixed patient."""

    def pair(a: str, b: str) -> datasets.Pair:
        folder = datasets.data_folder() / "abdomen_ct"
        images, labels = ([folder / f"{what}_{n}.nii.gz" for n in (a, b)] for what in ("image", "label"))
        return datasets.Pair(*images, *labels)

    following = list(zip(PATIENTS, PATIENTS[1:] + PATIENTS[:1], PATIENTS[2:] + PATIENTS[:2], strict=True))
    for a, b, c in following:
        yield f"warped {a}", lambda a=a, **o: warped([pair(a, a)], seed=int(a), load=load, units=True, **o)
        yield f"organs {a} {b}", lambda a=a, b=b, **o: organs([pair(a, b)], load=load, **o)
        yield f"organs {a} {c}", lambda a=a, c=c, **o: organs([pair(a, c)], load=load, **o)
    for a, _, c in following[:4]:  # enough to tell failures from the rest
        yield (
            f"misplaced {a} {c}",
            lambda a=a, c=c, **o: organs([pair(a, c)], load=load, start=misplaced, kind="misplaced", **o),
        )


def gather(model: CombinedModel, folder: Path) -> dict[str, dict[str, Case]]:
    """Cases by name, of the searches alone and with the descent; those in the folder are read."""
    known = Known(model.pdd.network, model.pdd.card)
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, Case]] = {PDD: {}, DESCENT: {}}
    for name, make in jobs(lambda pair: cropped(scoring.load_case(pair), known)):
        for kind, own in ((PDD, known), (DESCENT, replace(model, pdd=known))):
            path = folder / f"{name}.{kind}.npz"
            if not path.is_file():
                write_cases(list(make(model=own, force=True)), path)
            (found[kind][name],) = read_cases(path)
            print(kind, name, f"dice {found[kind][name].dice:.3f}", flush=True)
    return found


def scaled(cases: list[Case]) -> dict:
    """Maximum likelihood of a factor of the last search's width, and of the possibility of a wrong match.

    The width hardly tells where surfaces of organs are off, so that nothing would be left of it. But where there is no
    organ, nothing else says so. Its exponent is 1, therefore, and its factor is drawn to the one at which the variance
    is that of the network.
    """
    rng, groups = np.random.default_rng(0), []
    used = [case for case in cases if group_of(case) in SHARES]
    for case in used:
        index = rng.choice(len(case.errors), min(POINTS, len(case.errors)), replace=False)
        values = {n: torch.as_tensor(v[index], dtype=torch.float64) for n, v in case.features.items()}
        logs = torch.stack([torch.log(values[name] + FEATURES[name]) for name in WRONG], dim=-1)
        shapes = {n: torch.as_tensor(v[index], dtype=torch.float64) for n, v in case.spread.items()}
        share = SHARES[group_of(case)] / sum(group_of(other) == group_of(case) for other in used)
        errors = torch.as_tensor(case.errors[index], dtype=torch.float64)
        groups.append((share, values, logs, errors, shapes if errors.ndim == 2 else None))
    numbers = torch.tensor([LITERAL, 0.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64, requires_grad=True)
    roots = torch.full((len(WRONG),), 0.6, dtype=torch.float64, requires_grad=True)

    def loss() -> torch.Tensor:
        tail, shares = 3 + torch.nn.functional.softplus(numbers[2]), torch.softmax(numbers[3:], dim=0)
        total = 0.01 * (roots**2).sum() + PRIOR * (numbers[0] - LITERAL) ** 2
        for share, values, logs, errors, shapes in groups:
            fine = torch.exp(numbers[0]) * (values["width0"] + FEATURES["width0"])
            square = fine.clamp(min=FLOOR) ** 2 + torch.exp(2 * (numbers[1] + logs @ roots**2))
            square = square + (AMBIGUITY * values["ambiguity"]) ** 2
            total = total + share * negative_log_likelihood(errors, torch.log(square) / 2, tail, shares, shapes)
        return total

    minimise(loss, [numbers, roots], max_iter=150)
    structure, marginals, _ = torch.softmax(numbers[3:].detach(), dim=0).tolist()
    return {
        "intercept": float(numbers[0].detach()),
        "weights": {"width0": 1.0},
        "mismatch": {
            "intercept": float(numbers[1].detach()),
            "weights": dict(zip(WRONG, (roots**2).tolist(), strict=True)),
        },
        "tail": float(3 + torch.nn.functional.softplus(numbers[2].detach())),
        "structure": structure,
        "marginals": marginals,
    }


def judged(cases: dict[str, Case]) -> tuple[Calibration, dict[str, dict[str, float]]]:
    """The calibration learned from all, and by kind the figures of those that were learned without the patient."""
    patients = sorted({name.split()[1] for name in cases})
    rows: dict[str, list[tuple[Case, Calibration]]] = {}
    for patient in patients:
        own = learn([case for name, case in cases.items() if name.split()[1] != patient], scaled)
        for name, case in cases.items():
            if name.split()[1] == patient:
                rows.setdefault(name.split()[0], []).append((case, own))
    figures = {}
    for kind, pairs in rows.items():
        each = [measure([case], own) for case, own in pairs]
        weights = [row["points"] for row in each]
        figures[kind] = {key: float(np.average([row[key] for row in each], weights=weights)) for key in SHOWN[2:]}
        figures[kind] |= {"pairs": len(each), "points": sum(weights)}
    # The probabilities of the distributions are those of the network itself.
    found = replace(learn(list(cases.values()), scaled), temperature=1.0)
    # The default model's quality weighs what both directions of its search say.
    return found if "disagreement0" not in found.quality.get("weights", {}) else replace(found, quality={}), figures


def main() -> None:
    """Gather, fit, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of a model of pdd-train organs --descent")
    parser.add_argument("--cases", type=Path, required=True, help="where cases are kept")
    parser.add_argument("--write", action="store_true", help="make them the calibrations of the package")
    options = parser.parse_args()
    model = models.load(options.model)
    for kind, cases in gather(model, options.cases).items():
        before = calibration_of_package(kind)
        calibration, figures = judged(cases)
        for name, row in figures.items():
            print(f"| {kind} {name} | " + " | ".join(f"{row[key]:.3g}" for key in SHOWN) + " |")
            default = measure([c for n, c in cases.items() if n.startswith(name)], before)
            print("  with the package's: " + ", ".join(f"{key} {default[key]:.3g}" for key in SHOWN[3:]))
        if options.write:
            path = Path(models.__file__).parent / f"{kind}.uncertainty.json"
            path.write_text(json.dumps(calibration.to_dict(), indent=2) + "\n")


if __name__ == "__main__":
    main()
