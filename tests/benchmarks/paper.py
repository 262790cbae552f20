"""The paper's findings with organ features: what each part of the network brings, on pairs of abdominal CT.

    python tests/benchmarks/paper.py MODEL -o rows.csv                      # the 42 pairs of the published protocol
    python tests/benchmarks/paper.py MODEL -o rows.csv --patients 0021 0022 0023 0024 0025

MODEL is a segmentation network (``pdd-train segmentation``) that has not seen the patients. All methods compare its
probabilities, but for the hand-made features. It looks at every patient once. Dice is the mean over 13 organs; one that
a patient lacks counts as 0, as the published protocol has it. Rows are written as they come, and the same command goes
on after an interruption.

``folding`` (percent) and ``sd_log_j3`` are those of the fields as the searches give them; before a descent they are
unfolded.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, permutations
from pathlib import Path
from typing import Any

import numpy as np
from bench_accuracy import LARGE_ORGANS, mean_with_zeros, read_rows

from itk_pdd.evaluation import datasets
from itk_pdd.evaluation.scoring import Case, load_case, score
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.models import DEFAULT
from itk_pdd.models.combined import CombinedModel
from itk_pdd.models.organs import pdd_of_organs
from itk_pdd.models.pddmodel import PddModel, composed
from itk_pdd.network.card import PddCard
from itk_pdd.network.pddnet import PddNetwork
from itk_pdd.network.preparation import Intensity
from itk_pdd.network.semantic import SemanticNetwork
from itk_pdd.network.settings import InstanceOptimisation, PddSettings, Warp
from itk_pdd.solver.engine import DenseModel
from itk_pdd.solver.organs import Organs
from itk_pdd.solver.problem import Options, Problem
from itk_pdd.solver.settings import SMALLEST_JACOBIAN, Refinement
from itk_pdd.training.curve import write_table

TEMPERATURE, LOW_TEMPERATURE = 20_000.0, 500.0
# Hand-made features: alone, and before the instance optimisation, which finds the best displacement itself.
MIND_TEMPERATURE, LOW_MIND_TEMPERATURE = 4_800.0, 300.0
WARPS = (Warp(0.4, 15, 32), Warp(0.15, 11, 39), Warp(0.08, 9, 53))
# A low temperature makes flat distributions, which a smooth field outweighs more easily.
OPTIMISATION, LOW_OPTIMISATION = InstanceOptimisation(50, 3.0), InstanceOptimisation(50, 0.5)
NONE, MIND_OPTIMISATION = InstanceOptimisation(), InstanceOptimisation(50, 10.0)
EXTENT = (256.0, 160.0, 192.0)
CORRELATION = 0.04
Method = tuple[PddModel | DenseModel, int]
MEASURED = ("folding", "sd_log_j3", "bones", "body")


def settings(
    warps: int, *, optimisation: InstanceOptimisation = NONE, mean_field: bool = True, features: str = "obelisk"
) -> PddSettings:
    """The paper's network: 2 mm images, features every 3 voxels, 32^3 control points, 15^3 displacements."""
    return PddSettings(
        features=features, warps=WARPS[:warps], mean_field=mean_field, optimisation=optimisation, stride=3,
        extent=EXTENT,
    )  # fmt: skip


def hand_made(temperature: float, optimisation: InstanceOptimisation = NONE) -> PddModel:
    """MIND-SSC features, and no training at all."""
    network = PddNetwork(settings(1, features="mind-ssc", optimisation=optimisation))
    network.searches[0].regularisation.log_temperature.data.fill_(float(np.log(temperature)))
    card = PddCard("mind-ssc", "", network.settings, Intensity("range", -125, 275), 2.0)
    return PddModel(network, card, smallest_jacobian=None)


def methods(segmentation: SemanticNetwork) -> dict[str, Method]:
    """The rows of the table: a model, and how many of its searches are used."""
    refinement = Refinement.of_classes(CORRELATION)

    def learned(warps: int, *, temperature: float = TEMPERATURE, **options: Any) -> PddModel:
        network = settings(warps, **options)
        model = pdd_of_organs(segmentation, network, name="organs", temperatures=[temperature] * 3)
        return replace(model, smallest_jacobian=None)

    def descended(pdd: PddModel) -> CombinedModel:
        return CombinedModel.of(pdd, DEFAULT, name="descended", correlation=CORRELATION)

    two_plain, three = learned(2), learned(3, optimisation=OPTIMISATION)
    low = [learned(1, temperature=LOW_TEMPERATURE, optimisation=each) for each in (NONE, LOW_OPTIMISATION)]
    return {
        "MIND-SSC": (hand_made(MIND_TEMPERATURE), 1),
        "MIND-SSC, instance optimisation": (hand_made(LOW_MIND_TEMPERATURE, MIND_OPTIMISATION), 1),
        "without mean field": (learned(1, mean_field=False), 1),
        "full": (two_plain, 1),
        "two warps": (two_plain, 2),
        "low temperature": (low[0], 1),
        "low temperature, instance optimisation": (low[1], 1),
        "full, instance optimisation": (three, 1),
        "two warps, instance optimisation": (three, 2),
        "three warps, instance optimisation": (three, 3),
        "two warps, instance optimisation, descent": (descended(three), 2),
        "three warps, instance optimisation, descent": (descended(three), 3),
        "the default's searches with organs, descent": (
            replace(DEFAULT, class_weight=15.0, refinement=refinement), 0,
        ),
    }  # fmt: skip


def pairs_of(patients: list[str] | None) -> Iterator[datasets.Pair]:
    """All ordered pairs of some patients, by default those of the published protocol."""
    if patients is None:
        yield from datasets.abdomen_pairs("test", protocol="abdomen_ct_learn2reg")
        return
    folder = datasets.data_folder() / "abdomen_ct"
    for a, b in permutations(patients, 2):
        images = (folder / f"image_{n}.nii.gz" for n in (a, b))
        labels = (folder / f"label_{n}.nii.gz" for n in (a, b))
        yield datasets.Pair(*images, *labels)


def fields_of(wanted: dict[str, Method], case: Case, organs: Organs) -> Iterator[DisplacementField]:
    """Register by several methods with organs that are known already; those of one network share its searches."""
    problem, options = Problem((case.fixed,), (case.moving,)), Options()
    searched: dict[int, list[DisplacementField]] = {}
    for model, count in wanted.values():
        pdd = model.pdd if isinstance(model, CombinedModel) else model
        if not isinstance(pdd, PddModel):
            yield model.registered(problem, options, organs=organs).field
            continue
        grid = pdd.working_grid(case.fixed.grid)
        if id(pdd) not in searched:
            own = organs if pdd.network.organs is not None else None
            searched[id(pdd)] = pdd.fields(problem, options, own)
        fields = searched[id(pdd)][:count]
        if isinstance(model, CombinedModel):
            start = composed(fields, grid, SMALLEST_JACOBIAN)
            yield model.registered(problem, options, start=start, organs=organs).field
        else:
            yield DisplacementField.from_function(composed(fields, grid, None), case.fixed.grid)


def main() -> None:
    """Register and measure all pairs with all methods."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of the segmentation network")
    parser.add_argument("-o", "--output", type=Path, required=True, help="CSV file for the rows")
    parser.add_argument("--patients", nargs="+", help="other patients than those of the protocol")
    parser.add_argument("--methods", nargs="+", help="only these rows")
    parser.add_argument("--part", type=int, nargs=2, default=(0, 1), metavar=("I", "N"), help="every N-th pair from I")
    parser.add_argument("--surfaces", action="store_true", help="measure HD95 as well (slower)")
    options = parser.parse_args()
    segmentation = SemanticNetwork.from_folder(options.model)
    wanted = methods(segmentation)
    rows = read_rows(options.output)
    answers: dict[str, tuple[np.ndarray, object]] = {}
    part, parts = options.part
    for pair in list(pairs_of(options.patients))[part::parts]:
        todo = [n for n in ("before", *(options.methods or wanted)) if not any(_is(r, pair, n) for r in rows)]
        if not todo:
            continue
        case = load_case(pair)
        for path, volume in ((pair.fixed, case.fixed), (pair.moving, case.moving)):
            if str(path) not in answers:
                answers[str(path)] = segmentation.probabilities(volume)
        organs = Organs(segmentation.card, answers[str(pair.fixed)], answers[str(pair.moving)])
        before = [DisplacementField.zeros(case.fixed.grid)] if "before" in todo else []
        fields = fields_of({name: wanted[name] for name in todo if name != "before"}, case, organs)
        for name, field in zip(todo, chain(before, fields), strict=True):
            found = score(case, field, surfaces=options.surfaces, similarity=options.surfaces)
            row = {"data": "abdomen", "pair": pair.name, "model": name, "dice": mean_with_zeros(found)}
            row["dice5"] = found.mean("dice", LARGE_ORGANS)
            if options.surfaces:
                row["hd95_mm"] = found.mean("hd95")
            rows.append(row | {key: found.overall[key] for key in MEASURED if key in found.overall})
            columns = list(dict.fromkeys(key for each in rows for key in each))
            write_table(options.output, [{key: each.get(key, "") for key in columns} for each in rows], "rows")
        print(pair.name, flush=True)
    table(rows)


def _is(row: dict, pair: datasets.Pair, name: str) -> bool:
    return row["pair"] == pair.name and row["model"] == name


def table(rows: list[dict]) -> None:
    """Print the means of all methods."""
    for name in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == name]
        figures = [key for key, value in mine[0].items() if isinstance(value, float)]
        means = " ".join(f"{key} {np.mean([row[key] for row in mine if key in row]):.3f}" for key in figures)
        print(f"{name}, {len(mine)} pairs: {means}")


if __name__ == "__main__":
    main()
