"""From a list of labelled scans to a model folder: the whole story of a training."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.network.card import LabelClass, ModelCard
from itk_pdd.network.export import as_kept, write_model
from itk_pdd.network.purpose import certainty
from itk_pdd.network.semantic import SemanticNetwork
from itk_pdd.network.settings import UNetSettings
from itk_pdd.network.unet import UNet, count_weights
from itk_pdd.training.cases import LabelledScan, folds, of_split
from itk_pdd.training.curve import write_table
from itk_pdd.training.dataset import Survey, load_samples, read_labelled, survey
from itk_pdd.training.distributed import Processes
from itk_pdd.training.evaluation import segmentation_dice, summary
from itk_pdd.training.running import Run, ScanRecipe
from itk_pdd.training.schedule import TrainingSettings
from itk_pdd.training.trainer import Trainer

__all__ = ["Recipe", "cross_validate", "default_spacing", "label_classes", "measured_purpose", "train_model"]

log = logging.getLogger("itk_pdd")

_VOXELS = 1_000_000  # of the network's grid in a typical scan, where the spacing is not given
_CROP = 80_000  # voxels of a crop, where its shape is not given
_SCANS_FOR_CERTAINTY = 4  # validation scans whose certainty stands in the card


@dataclass(frozen=True)
class Recipe(ScanRecipe):
    """Describe the training of a segmentation network.

    ``spacing`` is that of its answer: by default that of the scans, or coarser, so that a scan has at most a million
    voxels.
    """

    widths: tuple[int, ...] = (16, 40, 80, 128)  # size of the network
    blocks: int = 1


def train_model(
    scans: Sequence[LabelledScan],
    folder: str | os.PathLike[str],
    recipe: Recipe,
    *,
    processes: Processes | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> SemanticNetwork:
    """Train a segmentation network and write it as a model folder.

    Scans of the split "train" are learned from, those of "validation" measured on. The folder gets card.json,
    weights.safetensors and, in the subfolder training, checkpoint, log.csv and curve.png; a training that was
    interrupted is resumed. ``progress`` is called with a fraction from 0 to 1 and the name of the step at hand.
    RegistrationError if the scans cannot be used, OutputError if the results cannot be written.
    """
    run = Run(folder, processes or Processes(), progress)
    work = run.work
    train, validation = of_split(scans, "train"), of_split(scans, "validation")
    if not train:
        raise RegistrationError("data: no scan is for training, expected at least one of the split 'train'")
    if not validation:
        log.warning("no scan is of the split 'validation': nothing will tell how good the model is")
    run.tell(0.0, "reading")
    found = survey(train)
    classes = label_classes(found, recipe.class_names)
    network, spacing = _network(recipe, found, len(classes))
    augmentation = recipe.augmentation
    if augmentation.shape is None:
        augmentation = replace(augmentation, shape=_crop_shape(found, spacing, network.multiple))
    elif any(length % network.multiple for length in augmentation.shape):
        raise RegistrationError(
            f"crop has shape {augmentation.shape} (axes z, y, x), expected multiples of {network.multiple}"
        )
    load = recipe.loading(spacing / network.fold, [c.value for c in classes])
    parts = [load_samples(part, **load) for part in (train, validation)]

    def trainer(settings: TrainingSettings) -> Trainer:
        return Trainer(
            work, network, *parts, settings=settings, augmentation=augmentation, names=[c.name for c in classes],
            source={"classes": load["values"], "spacing": load["spacing"], "intensity": asdict(recipe.intensity)},
            device=recipe.device, processes=run.processes,
        )  # fmt: skip

    loop = run.loop(trainer, recipe)
    log.info(
        "%d classes, %d weights, an answer every %g mm, crops of %s voxels (z, y, x)",
        len(classes), count_weights(loop.network), spacing, " x ".join(str(n) for n in augmentation.shape),
    )  # fmt: skip

    weights = run.train(loop)
    run.tell(0.98, "validating")
    card = ModelCard(
        recipe.name, recipe.description, network, spacing, recipe.intensity, classes,
        training={
            **run.provenance(loop, recipe, train, licence=recipe.licence),
            "crop": list(augmentation.shape),
        },
    )  # fmt: skip
    return _finish(weights, card, validation, Path(folder), write=run.processes.rank == 0)


def cross_validate(
    scans: Sequence[LabelledScan],
    folder: str | os.PathLike[str],
    recipe: Recipe,
    count: int,
    *,
    processes: Processes | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> dict[str, float]:
    """Train ``count`` models, each validated on the scans that it has not seen (see :func:`folds`).

    The folder gets a model folder fold-1, fold-2, ... for each, and cross-validation.csv: the Dice of each class in
    each scan. Returns the mean Dice over the scans, "mean" and per class. For the rest see :func:`train_model`.
    """
    scores: dict[str, dict[int, float]] = {}
    card = None
    for number, split in enumerate(folds(scans, count)):
        part = Path(folder) / f"fold-{number + 1}"

        def tell(fraction: float, message: str, number: int = number) -> None:
            if progress is not None:
                progress((number + fraction) / count, f"fold {number + 1}: {message}")

        model = train_model(
            split, part, replace(recipe, name=f"{recipe.name}-{number + 1}"), processes=processes, progress=tell
        )
        scores |= segmentation_dice(model, of_split(split, "validation"))
        card = model.card
    assert card is not None
    if processes is None or processes.rank == 0:
        rows = [
            {"scan": scan, "label": value, "dice": f"{dice:.6g}"}
            for scan, by in scores.items()
            for value, dice in by.items()
        ]
        write_table(Path(folder) / "cross-validation.csv", rows, "cross-validation")
    return summary(scores, card)["segmentation_dice"]


def _finish(
    network: UNet, card: ModelCard, validation: Sequence[LabelledScan], folder: Path, *, write: bool
) -> SemanticNetwork:
    """Measure the model as it will be used, complete the card, and write both."""
    model = SemanticNetwork(as_kept(network), card)
    if validation and write:
        scores = segmentation_dice(model, validation)
        purpose = measured_purpose(model, validation)
        model = SemanticNetwork(model.network, replace(card, validation=summary(scores, card), purpose=purpose))
    if write:
        write_model(folder, model.network, model.card)
    return model


def measured_purpose(model: SemanticNetwork, scans: Sequence[LabelledScan]) -> dict[str, float]:
    """Measure what scans that a model is for look like to it: ``purpose`` of its card.

    Parameters
    ----------
    model : SemanticNetwork
        The model.
    scans : sequence of LabelledScan
        At least one; the first four are looked at, those of the validation where there are any.
    """
    held_out = of_split(scans, "validation") or list(scans)
    sure = [certainty(model.probabilities(read_labelled(scan)[0])[0]) for scan in held_out[:_SCANS_FOR_CERTAINTY]]
    return {"certainty": round(float(np.mean(sure)), 3)}


def label_classes(found: Survey, names: Mapping[int, str]) -> tuple[LabelClass, ...]:
    """The classes to learn, background first: all that occur, or those that are named."""
    missing = sorted(set(names) - set(found.volumes))
    if missing:
        raise RegistrationError(
            f"data: no training scan shows the class {missing[0]} ({names[missing[0]]}), found the label values "
            f"{', '.join(str(v) for v in found.volumes)}"
        )
    values = [value for value in found.volumes if value and (not names or value in names)]
    background = sum(volume for value, volume in found.volumes.items() if value not in values)
    return (
        LabelClass("background", 0, background),
        *(LabelClass(names.get(value, str(value)), value, found.volumes[value]) for value in values),
    )


def default_spacing(found: Survey, voxels: int, *, slack: float = 0.0) -> float:
    """Working spacing in mm where none is given: that of the scans, or one at which a usual scan has few voxels.

    It may be ``slack`` millimetres finer than the limit of ``voxels`` says, and is rounded up to half a millimetre.
    """
    coarsest = (float(np.prod(found.extent)) / voxels) ** (1 / 3)
    return found.spacing if coarsest <= found.spacing else float(np.ceil((coarsest - slack) * 2) / 2)


def _network(recipe: Recipe, found: Survey, classes: int) -> tuple[UNetSettings, float]:
    """Size of the network and the spacing of its answer."""
    spacing = recipe.spacing or default_spacing(found, _VOXELS, slack=0.05)
    # Where the scans are finer than the answer, the network sees their detail folded into channels.
    fold = 2 if found.spacing <= spacing / 1.6 else 1
    return UNetSettings(classes, recipe.widths, recipe.blocks, fold), spacing


def _crop_shape(found: Survey, spacing: float, multiple: int) -> tuple[int, int, int]:
    """Shape (z, y, x) of crops: the scan, or a box of like proportions of about :data:`_CROP` voxels."""
    size = np.asarray(found.extent[::-1]) / spacing
    shrink = min(1.0, (_CROP / float(np.prod(size))) ** (1 / 3))
    z, y, x = (max(1, round(float(n) * shrink / multiple)) * multiple for n in size)
    return z, y, x
