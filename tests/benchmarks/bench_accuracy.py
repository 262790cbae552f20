"""Accuracy, time and memory of the default registration on the benchmark data.

    python tests/benchmarks/bench_accuracy.py [--data abdomen hippocampus lung classic ct-mr contrasts learn2reg]
        [--model auto] [--smoothness 1] [--pairs N] [-o ROWS.csv]

Each registration runs in this process, one after another; the first one also compiles the kernels where they are not
cached. The peak memory is that of the process so far. Dice is the mean over all labels of a pair. What no label names
is measured beside them (itk_pdd/evaluation/whole_image.py): outline of the body, correlation within it, bones in CT.

``learn2reg`` is the published protocol of Learn2Reg's abdominal CT task: the 42 ordered pairs of patients 0034 to 0040,
13 organs, of which one that a patient lacks counts as 0 (not in HD95); before registration Dice is .309. Models must
not have been chosen by these patients. It takes a while: with ``-o`` the rows are written as they come, and the same
command goes on after an interruption.
"""

from __future__ import annotations

import argparse
import csv
import functools
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK
import two_contrasts

from itk_pdd import registration
from itk_pdd.evaluation import datasets
from itk_pdd.evaluation.scoring import Score, load_case, score
from itk_pdd.evaluation.whole_image import MEASURES
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.training.curve import write_table

LARGE_ORGANS = (1, 2, 3, 6, 7)
ORGANS = range(1, 14)
_FOLDER = tempfile.TemporaryDirectory()


def pairs_of(name: str, split: str, count: int | None = None) -> list[datasets.Pair]:
    """The benchmark pairs of a data set, ``count`` of the hippocampi."""
    if name == "abdomen":
        return datasets.abdomen_pairs(split)
    if name == "learn2reg":
        return datasets.abdomen_pairs("test", protocol="abdomen_ct_learn2reg")
    if name == "hippocampus":
        return datasets.hippocampus_pairs(split, count or 20)
    if name == "lung":
        return [datasets.lung_pair()]
    if name == "ct-mr":
        return two_contrasts.ct_mr_pairs(Path(_FOLDER.name) / name)
    if name == "contrasts":
        return two_contrasts.synthetic_pairs(Path(_FOLDER.name) / name)
    names = [
        ("BrainProtonDensitySliceBorder20.png", "BrainProtonDensitySliceR10X13Y17S12.png"),
        ("BrainProtonDensitySlice256x256.png", "BrainProtonDensitySliceBSplined10.png"),
        ("BrainT1SliceBorder20.png", "BrainProtonDensitySliceBorder20.png"),
        ("CT_2D_head_fixed.mha", "CT_2D_head_moving.mha"),
    ]
    return [datasets.Pair(_grey(fixed), _grey(moving)) for fixed, moving in names]


@functools.cache
def _grey(name: str) -> Path:
    """A classic picture as an image of scalars: some are stored as grey RGB, whose channels are equal."""
    image = SimpleITK.ReadImage(str(datasets.data_folder() / "classic_2d" / name))
    if image.GetNumberOfComponentsPerPixel() > 1:
        image = SimpleITK.VectorIndexSelectionCast(image, 0)
    path = Path(_FOLDER.name) / f"{Path(name).stem}.mha"
    SimpleITK.WriteImage(image, str(path))
    return path


def mean_with_zeros(found: Score) -> float:
    """Mean Dice of the 13 organs as the published protocol has it: an organ that a patient lacks counts as 0."""
    return sum(found.labels[organ]["dice"] for organ in ORGANS if organ in found.labels) / len(ORGANS)


def measure(
    pair: datasets.Pair, model: str, smoothness: float, surfaces: bool, zeros: bool = False
) -> dict[str, float | str]:
    """Register one pair and measure the result; ``zeros`` for organs that a patient lacks."""
    case = load_case(pair)
    before = score(case, DisplacementField.zeros(case.fixed.grid), surfaces=surfaces and zeros)
    started = time.perf_counter()
    result = registration.register_volumes(
        case.fixed, case.moving, fixed_mask=case.fixed_mask, moving_mask=case.moving_mask, model=model,
        smoothness=smoothness,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    after = score(case, result.field, surfaces=surfaces)
    row: dict[str, float | str] = {"pair": pair.name}
    if after.labels:
        row |= {"dice_before": before.mean(), "dice": after.mean()}
        if len(after.labels) > 5:
            row |= {"dice5_before": before.mean("dice", LARGE_ORGANS), "dice5": after.mean("dice", LARGE_ORGANS)}
        if surfaces:
            row["hd95_mm"] = after.mean("hd95")
        row |= {name: after.overall[name] for name in MEASURES if name in after.overall}
        if zeros:
            row |= {"dice_before": mean_with_zeros(before), "dice": mean_with_zeros(after)}
            row["hd95_before_mm"] = before.mean("hd95")
    if "tre_mean" in after.overall:
        row |= {"tre_before_mm": before.overall["tre_mean"], "tre_mm": after.overall["tre_mean"]}
    row |= {
        "mi_before": before.overall["mi"],
        "mi": after.overall["mi"],
        "folding_pct": after.overall["folding"],
        "sd_log_j3": after.overall["sd_log_j3"],
        "seconds": seconds,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    return row


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ("abdomen", "hippocampus", "lung", "classic")
    parser.add_argument(
        "--data", nargs="+", choices=(*names, "ct-mr", "contrasts", "learn2reg"), default=names, help="data sets to run"
    )
    parser.add_argument("--split", default="validation", choices=("train", "validation"), help="patients to take")
    parser.add_argument("--model", default="auto", help="model to register with")
    parser.add_argument("--smoothness", type=float, default=1.0, help="factor of the model's regularisation")
    parser.add_argument("--pairs", type=int, help="the first N pairs of each data set (by default all, 20 hippocampi)")
    parser.add_argument("--surfaces", action="store_true", help="measure HD95 as well (slower)")
    parser.add_argument("-o", "--output", type=Path, help="CSV file for the rows; those that are there are kept")
    options = parser.parse_args()
    asked = {"model": options.model, "smoothness": f"{options.smoothness:g}"}
    rows = read_rows(options.output)
    for name in options.data:
        mine = []
        for pair in pairs_of(name, options.split, options.pairs)[: options.pairs]:
            published = name == "learn2reg"
            key = {"data": name, "pair": pair.name, **asked}
            row = next((r for r in rows if key.items() <= r.items()), None)
            if row is None:
                surfaces = options.surfaces or published
                row = {**key, **measure(pair, options.model, options.smoothness, surfaces, published)}
                rows.append(row)
                if options.output:
                    columns = list(dict.fromkeys(k for row in rows for k in row))
                    write_table(options.output, [{k: r.get(k, "") for k in columns} for r in rows], "rows")
            mine.append(row)
            print(" ".join(f"{k} {v:.3f}" if isinstance(v, float) else str(v) for k, v in row.items()), flush=True)
        figures = [k for k, v in mine[0].items() if isinstance(v, float)]
        means = {k: (max if k == "peak_gb" else np.mean)([r[k] for r in mine]) for k in figures}
        print(f"== {name}, {len(mine)} pairs:", " ".join(f"{k} {v:.3f}" for k, v in means.items()), flush=True)


def read_rows(path: Path | None) -> list[dict[str, float | str]]:
    """The rows of an earlier run; numbers but for the settings, which tell rows apart."""
    if path is None or not path.is_file():
        return []
    with path.open(newline="") as file:
        return [
            {k: v if k in ("data", "pair", "model", "smoothness") else float(v) for k, v in row.items() if v}
            for row in csv.DictReader(file)
        ]


if __name__ == "__main__":
    sys.exit(main())
