"""From a list of labelled scans to a model folder: the whole story of a training."""

from __future__ import annotations

import logging
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from itk_pdd._version import __version__
from itk_pdd.errors import RegistrationError
from itk_pdd.network.card import LabelClass, ModelCard
from itk_pdd.network.export import made_folder, rounded, write_model
from itk_pdd.network.preparation import Intensity
from itk_pdd.network.semantic import SemanticNetwork
from itk_pdd.network.storage import load_weights
from itk_pdd.network.unet import UNet, UNetSettings, count_weights
from itk_pdd.training.augmentation import Augmentation
from itk_pdd.training.cases import LabelledScan, folds, of_split
from itk_pdd.training.curve import write_table
from itk_pdd.training.dataset import Survey, load_samples, survey
from itk_pdd.training.distributed import Processes
from itk_pdd.training.evaluation import segmentation_dice, summary
from itk_pdd.training.loop import Loop
from itk_pdd.training.schedule import TrainingSettings
from itk_pdd.training.trainer import Trainer

__all__ = [
    "Recipe",
    "cross_validate",
    "default_spacing",
    "label_classes",
    "planned_iterations",
    "provenance",
    "tell_progress",
    "train_model",
    "work_folder",
]

log = logging.getLogger("itk_pdd")

_VOXELS = 1_000_000  # of the network's grid in a typical scan, where the spacing is not given
_CROP = 80_000  # voxels of a crop, where its shape is not given


@dataclass(frozen=True)
class Recipe:
    """What is trained, and how.

    Parameters
    ----------
    name, description, licence : str
        For the card.
    settings : TrainingSettings
        Length, learning rate, seed.
    minutes : float, optional
        Instead of ``settings.iterations``: as many iterations as a few first ones say will take about this long. The
        number is logged and kept in the checkpoint; a training is repeated exactly by giving the number.
    augmentation : Augmentation
        How crops vary.
    widths, blocks : tuple of int, int
        Size of the network.
    spacing : float, optional
        Of the network's answer in millimetres. By default that of the scans, or coarser, so that a scan has at most a
        million voxels.
    intensity : Intensity
        Normalisation of the intensities.
    class_names : mapping of int to str
        Names of label values; only these are learned if any are given.
    device : str
        "cpu" or "cuda".
    cache : path-like, optional
        Folder for scans on their working grid.
    command : str
        For the card.
    """

    name: str
    description: str = ""
    licence: str = ""
    settings: TrainingSettings = field(default_factory=TrainingSettings)
    minutes: float | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    widths: tuple[int, ...] = (16, 40, 80, 128)
    blocks: int = 1
    spacing: float | None = None
    intensity: Intensity = field(default_factory=Intensity)
    class_names: Mapping[int, str] = field(default_factory=dict)
    device: str = "cpu"
    cache: str | os.PathLike[str] | None = None
    command: str = ""


def train_model(
    scans: Sequence[LabelledScan],
    folder: str | os.PathLike[str],
    recipe: Recipe,
    *,
    processes: Processes | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> SemanticNetwork:
    """Train a segmentation network and write it as a model folder.

    Parameters
    ----------
    scans : sequence of LabelledScan
        Those of the split "train" are learned from, those of "validation" measured on.
    folder : path-like
        Gets card.json, weights.safetensors and, in the subfolder training, checkpoint, log.csv and curve.png. A
        training that was interrupted is resumed.
    recipe : Recipe
        What is trained, and how.
    processes : Processes, optional
        Which of several processes this is.
    progress : callable, optional
        Called with a fraction from 0 to 1 and the name of the step at hand.

    Returns
    -------
    SemanticNetwork

    Raises
    ------
    RegistrationError
        If the scans cannot be used.
    OutputError
        If the results cannot be written.
    """
    processes = processes or Processes()
    work = work_folder(folder)
    train, validation = of_split(scans, "train"), of_split(scans, "validation")
    if not train:
        raise RegistrationError("data: no scan is for training, expected at least one of the split 'train'")
    if not validation:
        log.warning("no scan is of the split 'validation': nothing will tell how good the model is")
    tell_progress(progress, 0.0, "reading")
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
    load: dict[str, Any] = {
        "spacing": spacing / network.fold,
        "intensity": recipe.intensity,
        "values": [c.value for c in classes],
        "cache": recipe.cache,
    }
    parts = [load_samples(part, **load) for part in (train, validation)]

    def trainer(settings: TrainingSettings) -> Trainer:
        return Trainer(
            work, network, *parts, settings=settings, augmentation=augmentation, names=[c.name for c in classes],
            source={"classes": load["values"], "spacing": load["spacing"], "intensity": asdict(recipe.intensity)},
            device=recipe.device, processes=processes,
        )  # fmt: skip

    settings = recipe.settings
    if recipe.minutes is not None:
        settings = replace(settings, iterations=planned_iterations(trainer(settings), recipe.minutes, processes))
    loop = trainer(settings)
    log.info(
        "%d classes, %d weights, an answer every %g mm, crops of %s voxels (z, y, x)",
        len(classes), count_weights(loop.network), spacing, " x ".join(str(n) for n in augmentation.shape),
    )  # fmt: skip

    def on_step(iteration: int, loss: float) -> None:
        tell_progress(progress, 0.98 * iteration / settings.iterations, f"training, loss {loss:.3f}")

    weights = loop.run(on_step=on_step)
    tell_progress(progress, 0.98, "validating")
    card = ModelCard(
        recipe.name, recipe.description, network, spacing, recipe.intensity, classes,
        training={
            **provenance(loop, train, licence=recipe.licence, command=recipe.command, device=recipe.device),
            "crop": list(augmentation.shape),
        },
    )  # fmt: skip
    return _finish(weights, card, validation, Path(folder), write=processes.rank == 0)


def cross_validate(
    scans: Sequence[LabelledScan],
    folder: str | os.PathLike[str],
    recipe: Recipe,
    count: int,
    *,
    processes: Processes | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> dict[str, float]:
    """Train ``count`` models, each validated on the scans that it has not seen.

    Parameters
    ----------
    scans, recipe, processes, progress
        See :func:`train_model`; see :func:`folds` for what is held back when.
    folder : path-like
        Gets a model folder fold-1, fold-2, ... for each, and cross-validation.csv: the Dice of each class in each scan.
    count : int
        Number of folds.

    Returns
    -------
    dict
        Mean Dice over the scans, "mean" and per class.
    """
    scores: dict[str, dict[int, float]] = {}
    card = None
    for number, split in enumerate(folds(scans, count)):
        part = Path(folder) / f"fold-{number + 1}"

        def tell(fraction: float, message: str, number: int = number) -> None:
            tell_progress(progress, (number + fraction) / count, f"fold {number + 1}: {message}")

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
    # What is measured is what is kept: rounded weights.
    network = network.cpu()
    load_weights(network, rounded(network))
    model = SemanticNetwork(network, card)
    if validation and write:
        scores = segmentation_dice(model, validation)
        model = SemanticNetwork(model.network, replace(card, validation=summary(scores, card)))
    if write:
        write_model(folder, model.network, model.card)
    return model


def work_folder(folder: str | os.PathLike[str]) -> Path:
    """The subfolder of a model for checkpoint, log and curve; it is made if it is not there."""
    return made_folder(Path(folder) / "training")


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
    """Working spacing in millimetres where none is given.

    Parameters
    ----------
    found : Survey
        The scans.
    voxels : int
        Upper limit for a scan of the usual size.
    slack : float
        By how many millimetres it may be finer than the limit says.

    Returns
    -------
    float
        The spacing of the scans, or the coarser one of the limit, rounded up to half a millimetre.
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


def planned_iterations(trainer: Loop, minutes: float, processes: Processes) -> int:
    """How many iterations fit, from the median of a few; the checkpoint's number if the training has begun."""
    begun = trainer.planned()
    if begun is not None:
        log.info("%d iterations were planned", begun)
        return begun
    seconds = []
    for _ in range(6):
        began = time.monotonic()
        trainer.step()
        seconds.append(time.monotonic() - began)
    # The first steps are slower: memory is claimed, kernels are compiled.
    count = max(20, int(minutes * 60 / processes.mean(statistics.median(seconds[2:]))))
    log.info("%g minutes are about %d iterations", minutes, count)
    return count


def provenance(loop: Loop, scans: Sequence[LabelledScan], *, licence: str, command: str, device: str) -> dict[str, Any]:
    """Where a model comes from, for its card.

    Parameters
    ----------
    loop : Loop
        The training.
    scans : sequence of LabelledScan
        What it learned from.
    licence, command, device : str
        See :class:`Recipe`.
    """
    return {
        "scans": [scan.name for scan in scans],
        "licence": licence,
        "command": command,
        "iterations": loop.iteration,
        "batch": loop.settings.batch * loop.processes.count,
        "seed": loop.settings.seed,
        "seconds": round(sum(row["seconds"] for row in loop.rows)),
        "device": device,
        "version": __version__,
    }


def tell_progress(progress: Callable[[float, str], None] | None, fraction: float, message: str) -> None:
    """Report progress to whoever wants to know."""
    if progress is not None:
        progress(fraction, message)
