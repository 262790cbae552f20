"""Segmentation by atlases and templates of groups, measured on the benchmark data (ITK_PDD_DATA).

    python tests/benchmarks/groups.py segment FOLDER --data hippocampus   # 10 validation subjects, 10 atlases of train
    python tests/benchmarks/groups.py segment FOLDER --data abdomen       # 4 validation patients, 8 atlases of train
    python tests/benchmarks/groups.py template FOLDER                     # 12 hippocampi

``--seconds`` ends the work after so long; the same command goes on. Settings of the fusion were chosen on subjects of
``train`` (``--split train``).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import SimpleITK

from itk_pdd.cohort.cluster import Place
from itk_pdd.cohort.fusion import fuse, majority
from itk_pdd.cohort.segment import Atlas, segment_files
from itk_pdd.cohort.template import make_template
from itk_pdd.evaluation.datasets import data_folder
from itk_pdd.evaluation.metrics import dice

COUNTS = {"hippocampus": (10, 10), "abdomen": (4, 8)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["segment", "template"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", choices=list(COUNTS), default="hippocampus")
    parser.add_argument("--split", choices=["validation", "train"], default="validation")
    parser.add_argument("--model", default="auto")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--count", type=int)
    parser.add_argument("--seconds", type=float, default=420)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    globals()[options.what](options)


def files_of(data: str) -> tuple[dict[str, list[str]], str, str]:
    folder = data_folder()
    splits = json.loads((folder / "splits.json").read_text())
    if data == "hippocampus":
        base = folder / "hippocampus_mr"
        return splits["hippocampus_mr"], f"{base}/images/{{}}.nii.gz", f"{base}/labels/{{}}.nii.gz"
    base = folder / "abdomen_ct"
    return splits["abdomen_ct"], f"{base}/image_{{}}.nii.gz", f"{base}/label_{{}}.nii.gz"


def read(path: str | Path) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def overlap(truth: np.ndarray, labels: np.ndarray) -> float:
    return float(np.nanmean([dice(truth, labels, [int(v)])[int(v)] for v in np.unique(truth) if v]))


def auroc(scores: np.ndarray, wrong: np.ndarray) -> float:
    """Probability that a wrong voxel has the larger score, ties half."""
    from scipy.stats import rankdata

    ranks, count = rankdata(scores), int(wrong.sum())
    return float((ranks[wrong].sum() - count * (count + 1) / 2) / max(count * (len(ranks) - count), 1))


def segment(options: argparse.Namespace) -> None:
    splits, image, label = files_of(options.data)
    subjects, atlases = COUNTS[options.data]
    train = splits["train"]
    targets = splits["validation"] if options.split == "validation" else train[atlases:]
    targets = targets[: options.count or subjects]
    listed = [Atlas(f"a{name}", image.format(name), label.format(name)) for name in train[:atlases]]
    started, rows = time.monotonic(), []
    for name in targets:
        if time.monotonic() - started > options.seconds:
            print("time is over: give the command again")
            break
        folder = options.folder / f"{options.data}_{options.split}_{options.model}_{name}"
        out = folder.with_suffix(".labels.nii.gz")
        segment_files(
            image.format(name), listed, out, folder=folder, model=options.model,
            initialise="center" if options.data == "hippocampus" else None, place=Place(workers=options.workers),
            entropy=folder.with_suffix(".entropy.nii.gz"),
        )  # fmt: skip
        rows.append(figures(folder, listed, read(image.format(name)), read(label.format(name))))
        print(name, " ".join(f"{key} {value:.4f}" for key, value in rows[-1].items()), flush=True)
    if rows:
        print("mean", " ".join(f"{key} {np.mean([row[key] for row in rows]):.4f}" for key in rows[0]))


def figures(folder: Path, atlases: list[Atlas], target: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Compare the fusion with the vote of the majority and with the single atlases, on the same registrations."""
    maps = [read(folder / atlas.name / "labels.nii.gz").astype(truth.dtype) for atlas in atlases]
    single = [overlap(truth, each) for each in maps]
    fused, entropy = (read(folder.with_suffix(f".{kind}.nii.gz")) for kind in ("labels", "entropy"))
    images = [read(folder / atlas.name / "warped.nii.gz") for atlas in atlases]
    hard = fuse(target, images, maps)
    wrong = fused != truth
    # Far from all labels there is nothing to find: only voxels near some label count.
    from scipy import ndimage

    near = ndimage.binary_dilation(np.any([each != 0 for each in maps], axis=0) | (truth != 0), iterations=3)
    return {
        "fused": overlap(truth, fused),
        "without_uncertainty": overlap(truth, hard.labels),
        "majority": overlap(truth, majority(maps).labels),
        "best_single": max(single),
        "mean_single": float(np.mean(single)),
        "auroc": auroc(entropy[near], wrong[near]),
    }


def template(options: argparse.Namespace) -> None:
    splits, image, label = files_of("hippocampus")
    names = splits["train"][: options.count or 12]
    lines = ["image,labels,name", *(f"{image.format(name)},{label.format(name)},{name}" for name in names)]
    (options.folder / "scans.csv").write_text("\n".join(lines) + "\n")
    found = make_template(
        options.folder / "scans.csv", options.folder / "template", place=Place(workers=options.workers),
        told=lambda text: print(text, flush=True),
    )  # fmt: skip
    print("sharpness", {name: round(value, 4) for name, value in found.sharpness.items()}, "Dice", found.dice)
    # The other way: each subject in turn is the template of all others.
    from itk_pdd.cohort.batch import register_batch

    scores = []
    for name in names[:3]:
        rows = [
            {"fixed": image.format(name), "moving": image.format(other), "moving_labels": label.format(other),
             "fixed_labels": label.format(name), "name": other}
            for other in names if other != name
        ]  # fmt: skip
        cohort = register_batch(
            rows, options.folder / f"chosen_{name}", initialise="affine", workers=options.workers, report=False
        )
        scores.append(np.mean([record["measures"]["dice"] for record in cohort.records.values()]))
        print(f"subject {name} as the template: Dice {scores[-1]:.4f}", flush=True)
    print(f"group Dice {found.dice:.4f}, of one subject {np.mean(scores):.4f} on average, {max(scores):.4f} at best")


if __name__ == "__main__":
    main()
