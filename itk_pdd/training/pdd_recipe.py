"""From labelled scans, or from none, to the folder of a trained PDD network."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.models.pddmodel import PddModel
from itk_pdd.network.card import PddCard
from itk_pdd.network.export import as_kept, write_model
from itk_pdd.network.settings import PddSettings
from itk_pdd.network.unet import count_weights
from itk_pdd.registration import register_volumes
from itk_pdd.solver.settings import MAX_WORKING_VOXELS
from itk_pdd.training.augmentation import Augmentation
from itk_pdd.training.cases import LabelledScan, of_split
from itk_pdd.training.dataset import load_samples, survey
from itk_pdd.training.distributed import Processes
from itk_pdd.training.evaluation import registration_scores
from itk_pdd.training.objective import ObjectiveSettings
from itk_pdd.training.pairs import PairSource, ScanPairs, SyntheticPairs
from itk_pdd.training.pdd_trainer import PddTrainer
from itk_pdd.training.recipe import default_spacing, label_classes
from itk_pdd.training.running import Run, ScanRecipe
from itk_pdd.training.schedule import TrainingSettings

__all__ = ["PDD_AUGMENTATION", "PDD_TRAINING", "PddRecipe", "train_pdd"]

log = logging.getLogger("itk_pdd")

PDD_TRAINING = TrainingSettings(iterations=1000, batch=1, rate=5e-3, decay=0.0, average=0.98, validate_every=50)
"""The paper's, but for the averaged weights and the falling rate."""
PDD_AUGMENTATION = Augmentation(rotation=8.0, scale=0.1, shear=0.05, elastic=0.04)
"""Weaker than for segmentation: what a pair of patients differs by is there already."""

_FEATURES = 150_000  # positions of features in it, where the stride is not given


@dataclass(frozen=True)
class PddRecipe(ScanRecipe):
    """Describe the training of a PDD network."""

    settings: TrainingSettings = PDD_TRAINING
    augmentation: Augmentation = PDD_AUGMENTATION
    network: PddSettings = field(default_factory=PddSettings)  # what is trained; its extent is set to that of the scans
    # Image voxels per voxel of the features instead of the network's; by default so many that a typical scan has at
    # most 150,000 of them.
    stride: int | None = None
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)  # what for
    pairs: int = 6  # upper limit of the validation pairs
    # Shape (z, y, x) of synthetic pairs to learn from instead of scans. They have no millimetres, units or names of
    # their own: ``spacing``, an ``intensity`` of a range, ``class_names``, ``augmentation`` and ``cache`` are refused.
    synthetic: tuple[int, int, int] | None = None


def train_pdd(
    scans: Sequence[LabelledScan],
    folder: str | os.PathLike[str],
    recipe: PddRecipe,
    *,
    processes: Processes | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> PddModel:
    """Train a PDD network and write it as a model folder; see :func:`itk_pdd.training.recipe.train_model`.

    There are no scans for a training on synthetic pairs.
    """
    run = Run(folder, processes or Processes(), progress)
    work = run.work
    if recipe.objective.loss == "truth" and recipe.synthetic is None:
        raise RegistrationError(
            "loss is 'truth', but the true displacements of scans are not known: use another one, or synthetic pairs"
        )
    run.tell(0.0, "reading")
    source, network, spacing = (_synthetic if recipe.synthetic else _from_scans)(scans, recipe)

    def trainer(settings: TrainingSettings, objective: ObjectiveSettings = recipe.objective) -> PddTrainer:
        return PddTrainer(
            work, network, source, objective=objective, settings=settings, device=recipe.device,
            source={
                "scans": [scan.name for scan in of_split(scans, "train")], "shape": list(source.shape),
                "spacing": spacing, "intensity": asdict(recipe.intensity), "augmentation": asdict(recipe.augmentation),
            },
            processes=run.processes,
        )  # fmt: skip

    # Steps that only name classes are faster than those that count here.
    loop = run.loop(trainer, recipe, timed=lambda each: trainer(each, replace(recipe.objective, pretrain=0)))
    layouts = [loop.network.network.lattice(source.shape, warp=number) for number in range(len(network.warps))]
    log.info(
        "%d classes, %d weights, images of %s voxels of %s mm (z, y, x), control points %s",
        len(source.names), count_weights(loop.network.network), _by(source.shape), spacing or 1.0,
        ", ".join(_by(layout.control.shape) for layout in layouts),
    )  # fmt: skip

    weights = as_kept(run.train(loop).network)
    licence = recipe.licence or ("random synthetic anatomies only" if recipe.synthetic else "")
    card = PddCard(
        recipe.name, recipe.description, network, recipe.intensity, spacing,
        training={
            **run.provenance(loop, recipe, of_split(scans, "train"), licence=licence),
            "objective": asdict(recipe.objective),
            "shape": list(source.shape),
        },
    )  # fmt: skip
    model = PddModel(weights, card)
    if run.processes.rank == 0:
        run.tell(0.98, "validating")
        model = PddModel(weights, replace(card, validation=_validated(model, scans, recipe, loop)))
        write_model(folder, model.network, model.card)
    return model


def _from_scans(scans: Sequence[LabelledScan], recipe: PddRecipe) -> tuple[PairSource, PddSettings, float]:
    train, validation = of_split(scans, "train"), of_split(scans, "validation")
    if len(train) < 2:
        raise RegistrationError(
            f"data: {len(train)} scans are for training, expected two or more of the split 'train' to make pairs of"
        )
    if len(validation) < 2:
        log.warning("fewer than two scans are of the split 'validation': nothing will tell how good the model is")
    found = survey(train)
    # By the limit of the registration, which would otherwise show the network coarser images than it learned from.
    spacing = recipe.spacing or default_spacing(found, MAX_WORKING_VOXELS)
    classes = label_classes(found, recipe.class_names)
    shape = tuple(max(8, round(length / spacing)) for length in reversed(found.extent))
    network = replace(
        recipe.network,
        stride=recipe.stride or max(1, int(np.ceil((np.prod(shape) / _FEATURES) ** (1 / 3) - 0.05))),
        extent=shape,
    )
    load = recipe.loading(spacing, [c.value for c in classes])
    samples = [load_samples(part, **load) for part in (train, validation)]
    names, values = zip(*((c.name, c.value) for c in classes), strict=True)
    pairs = ScanPairs(
        *samples, names, values, shape, augmentation=recipe.augmentation, pairs=recipe.pairs, seed=recipe.settings.seed
    )
    return pairs, network, spacing


def _synthetic(scans: Sequence[LabelledScan], recipe: PddRecipe) -> tuple[PairSource, PddSettings, None]:
    if scans:
        raise RegistrationError("scans are given together with synthetic pairs, expected one or the other")
    assert recipe.synthetic is not None
    plain = PddRecipe(recipe.name)
    for name in ("spacing", "class_names", "augmentation", "cache"):
        if getattr(recipe, name) != getattr(plain, name):
            raise RegistrationError(f"{name} has no meaning with synthetic pairs: leave it out")
    pairs = SyntheticPairs(recipe.synthetic, intensity=recipe.intensity, pairs=recipe.pairs, seed=recipe.settings.seed)
    # No spacing and no extent: what is learned is as large as the image, whatever that shows.
    return pairs, replace(recipe.network, stride=recipe.stride or recipe.network.stride, extent=None), None


def _validated(model: PddModel, scans: Sequence[LabelledScan], recipe: PddRecipe, loop: PddTrainer) -> dict[str, Any]:
    """Figures of registrations as a user gets them; of synthetic pairs those of the last validation."""
    validation = of_split(scans, "validation")
    if recipe.synthetic is not None:
        return {"synthetic_pairs": recipe.pairs, "registration_dice": {"mean": round(loop.rows[-1]["dice"], 4)}}
    if len(validation) < 2:
        return {}
    rows = list(
        registration_scores(
            validation,
            lambda fixed, moving: register_volumes(fixed, moving, model=model, device=recipe.device).field,
            count=recipe.pairs,
            seed=recipe.settings.seed,
        )
    )
    return {
        "scans": [scan.name for scan in validation],
        "pairs": len(rows),
        "registration_dice": {"mean": round(float(np.mean([row["dice"] for row in rows])), 4)},
        "folding_pct": round(float(np.mean([row["folding"] for row in rows])), 4),
        "sd_log_j3": round(float(np.mean([row["sd_log_j3"] for row in rows])), 4),
    }


def _by(shape: Sequence[int]) -> str:
    return " x ".join(str(n) for n in shape)
