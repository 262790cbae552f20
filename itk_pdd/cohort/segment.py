"""Segment an image by several labelled atlases: choose, register, and fuse their labels."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from itk_pdd.cohort.batch import Progress, register_items
from itk_pdd.cohort.cluster import Place, Workers
from itk_pdd.cohort.fusion import Fused, fuse
from itk_pdd.cohort.listing import Item, distinct_names
from itk_pdd.errors import RegistrationError, warn
from itk_pdd.evaluation.datasets import read_table
from itk_pdd.evaluation.verdict import FAILED
from itk_pdd.geometry.resampling import resample
from itk_pdd.io import files, outputs
from itk_pdd.io.images import simpleitk_image
from itk_pdd.io.volume import Volume
from itk_pdd.registration import prepare

__all__ = ["Atlas", "Segmentation", "choose", "read_atlases", "segment_files"]

log = logging.getLogger("itk_pdd")

_LOOK = 32  # voxels along the longest side at which atlases are chosen


@dataclass(frozen=True)
class Atlas:
    """An image with labels."""

    name: str
    image: str
    labels: str


@dataclass(frozen=True)
class Segmentation:
    """Outcome of :func:`segment_files`."""

    fused: Fused  # labels, probabilities and entropy
    used: tuple[str, ...]  # atlases whose labels were fused
    left: dict[str, str]  # atlases that were not used, with the reasons


def read_atlases(path: str | os.PathLike[str]) -> list[Atlas]:
    """Read a list of atlases from a CSV file with the columns ``image``, ``labels`` and, if you like, ``name``."""
    base = Path(os.path.abspath(path)).parent
    rows = read_table(path, ("image", "labels", "name"), required=("image", "labels"), what="list of atlases")
    names = distinct_names([cells["image"] for _, cells in rows])
    found = []
    for (line, cells), name in zip(rows, names, strict=True):
        if not cells["image"] or not cells["labels"]:
            raise RegistrationError(f"list of atlases {path}, line {line}: image and labels must both be given")
        paths = [os.path.normpath(base / cells[role]) for role in ("image", "labels")]
        found.append(Atlas(cells.get("name") or name, *paths))
    if len({atlas.name for atlas in found}) < len(found):
        raise RegistrationError(f"list of atlases {path} has a name twice: give other names")
    return found


def segment_files(
    image: str | os.PathLike[str],
    atlases: str | os.PathLike[str] | Sequence[Atlas],
    output: str | os.PathLike[str],
    *,
    probabilities: str | os.PathLike[str] | None = None,
    entropy: str | os.PathLike[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
    count: int | None = None,
    initialise: str | None = None,
    model: str | os.PathLike[str] = "auto",
    smoothness: float = 1.0,
    spacing: float | None = None,
    place: Place | None = None,
    progress: Progress | None = None,
) -> Segmentation:
    """Segment an image by atlases, from files to files.

    Parameters
    ----------
    image, output : path-like
        The image, and the label image to write.
    atlases : path-like or sequence of Atlas
        A list as :func:`read_atlases` reads it.
    probabilities, entropy : path-like, optional
        Images of the probability of each label (a component for each, ascending, 0 first) and of their entropy in nats.
    folder : path-like, optional
        Keep the registrations here: the same call goes on from them. By default they are removed at the end.
    count : int, optional
        Use so many atlases, those most similar to the image before the deformable registration; by default all.
    initialise, model, smoothness, spacing, place, progress
        As for :func:`itk_pdd.register` and :func:`itk_pdd.register_batch`.
    """
    targets = [
        outputs.Output(path, name, files.IMAGE_EXTENSIONS)
        for name, path in (("output", output), ("probabilities", probabilities), ("entropy", entropy))
        if path is not None
    ]
    listed = read_atlases(atlases) if isinstance(atlases, str | os.PathLike) else list(atlases)
    inputs = [os.fspath(image), *(path for atlas in listed for path in (atlas.image, atlas.labels))]
    outputs.check_outputs(targets, inputs=inputs)
    target = Volume.from_image(image, name="image")
    left: dict[str, str] = {}
    chosen = listed if count is None or count >= len(listed) else choose(image, listed, count, initialise, left)
    with ExitStack() as stack:
        hands = stack.enter_context(Workers(place or Place()))
        if folder is None:
            where = Path(tempfile.mkdtemp(prefix=".segmenting-", dir=Path(os.path.abspath(output)).parent))
            stack.callback(shutil.rmtree, where, ignore_errors=True)
        else:
            where = Path(folder)
        items = [
            Item(atlas.name, {"fixed": os.path.abspath(image), "moving": atlas.image, "moving_labels": atlas.labels})
            for atlas in chosen
        ]
        options = {
            "initialise": initialise, "model": os.fspath(model), "smoothness": smoothness, "spacing": spacing
        }  # fmt: skip
        found = register_items(items, where, options, ["warped", "labels", "uncertainty"], hands, progress=progress)
        left.update(found.failed)
        for name, record in found.records.items():
            if name not in left and (record.get("verdict") or {}).get("word") == FAILED:
                left[name] = "its registration has probably failed"
        used = [atlas.name for atlas in chosen if atlas.name not in left]
        if not used and set(left) == set(found.failed):
            raise RegistrationError(f"no atlas could be registered: {next(iter(left.values()), 'there is none')}")
        if not used:
            warn("all registrations of the atlases have probably failed: the labels are those of all")
            used = [name for name in found.records if name not in found.failed]
        read = {
            kind: [Volume.components_from_image(where / name / f"{kind}.nii.gz", name=kind)[0].array for name in used]
            for kind in ("warped", "uncertainty")
        }
        maps = [Volume.labels_from_image(where / name / "labels.nii.gz", name="labels").array for name in used]
        fused = fuse(
            target.array, read["warped"], maps, read["uncertainty"], spacing=tuple(target.grid.spacing)[::-1]
        )  # fmt: skip
    pictures: dict[str, Any] = {
        "output": lambda: Volume(fused.labels, target.grid).to_simpleitk(),
        "probabilities": lambda: simpleitk_image(np.moveaxis(fused.probabilities, 0, -1), target.grid),
        "entropy": lambda: Volume(fused.entropy, target.grid).to_simpleitk(),
    }
    outputs.write_all([(each, partial(files.write_image, pictures[each.name]())) for each in targets])
    log.info("labels %s of %d atlases", ", ".join(map(str, fused.values)), len(used))
    return Segmentation(fused, tuple(used), left)


def choose(
    image: str | os.PathLike[str],
    atlases: Sequence[Atlas],
    count: int,
    initialise: str | None,
    left: dict[str, str],
) -> list[Atlas]:
    """Choose the atlases that correlate best with an image after the rough alignment ``initialise``, seen coarsely.

    ``left`` takes the reasons why the others are left out.
    """
    scores: dict[str, float] = {}
    for atlas in atlases:
        try:
            problem = prepare(image, atlas.image, initialise=initialise)
        except RegistrationError as error:
            left[atlas.name] = str(error)
            continue
        grid = problem.fixed.grid
        coarse = grid.with_spacing(np.maximum(grid.spacing, max(grid.extent) / _LOOK))
        first = resample(problem.fixed, coarse).array.ravel()
        second = resample(problem.moving, coarse, mapping=problem.initial).array.ravel()
        scores[atlas.name] = float(np.nan_to_num(np.corrcoef(first, second)[0, 1]))
    best = set(sorted(scores, key=lambda name: -scores[name])[:count])
    for name in scores.keys() - best:
        left[name] = f"{count} others are more similar (correlation {scores[name]:.2f})"
    return [atlas for atlas in atlases if atlas.name in best]
