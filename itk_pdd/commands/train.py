"""Trainings from the options of a command line to a model folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from itk_pdd.errors import RegistrationError
from itk_pdd.models.organs import pdd_of_organs
from itk_pdd.network.card import CombinedCard
from itk_pdd.network.export import write_card
from itk_pdd.network.preparation import Intensity
from itk_pdd.network.semantic import SemanticNetwork
from itk_pdd.network.settings import InstanceOptimisation, PddSettings, Warp
from itk_pdd.solver.devices import checked_device
from itk_pdd.training.augmentation import Augmentation
from itk_pdd.training.cases import read_scans
from itk_pdd.training.descriptor_recipe import DESCRIPTOR_TRAINING, DescriptorRecipe, train_descriptor
from itk_pdd.training.distributed import Processes, processes
from itk_pdd.training.objective import ObjectiveSettings
from itk_pdd.training.pdd_recipe import PDD_AUGMENTATION, PDD_TRAINING, PddRecipe, train_pdd
from itk_pdd.training.recipe import Recipe, cross_validate, measured_purpose, train_model
from itk_pdd.training.schedule import TrainingSettings
from itk_pdd.uncertainty.calibration import DESCENT, PDD, calibration_of_package

__all__ = ["from_organs", "train"]

Options = dict[str, Any]
_SETTINGS = ("iterations", "batch", "rate", "validate_every", "patience", "seed", "bfloat16")


def train(
    method: str,
    *,
    output: Path,
    command: str,
    progress: Callable[[float, str], None] | None,
    data: Path | None = None,
    threads: int | None = None,
    **options: Any,
) -> dict[str, float]:
    """Train a model by ``method`` "segmentation", "pdd" or "descriptor" and write it into a folder.

    ``command`` goes to the card; ``options`` are those of the command ``pdd-train`` of that name, None where one is not
    given. Returns figures of the validation; none but in the first of several processes.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    # Of several processes each has a GPU of its own: which one is not said here.
    options["device"] = checked_device(options["device"]).partition(":")[0]
    options["name"] = options["name"] or output.resolve().name
    options["command"] = command
    settings = {name: value for name in _SETTINGS if (value := options.pop(name, None)) is not None}
    if "percentiles" in options:
        percentiles, limits = options.pop("percentiles"), options.pop("intensity")
        options["intensity"] = Intensity("range", *limits) if limits else Intensity("percentiles", *percentiles)
    run = {"segmentation": _segmentation, "pdd": _pdd, "descriptor": _descriptor}[method](options, settings)
    scans = [] if data is None else read_scans(data)
    with processes(options["device"]) as these:
        figures = run(scans, output, these, progress)
    return figures if these.rank == 0 else {}


Run = Callable[[list, Path, Processes, Any], dict[str, float]]


def from_organs(
    segmentation: Path,
    *,
    output: Path,
    command: str,
    name: str | None,
    description: str,
    warps: Sequence[tuple[float, int, int]],
    stride: int,
    extent: tuple[float, float, float] | None,
    temperature: float,
    optimisation: int,
    diffusion: float,
    descent: Path | None,
    scans: Path | None,
) -> None:
    """Write a PDD network that compares the answers of a segmentation network; nothing is trained.

    The options are those of ``pdd-train organs``; ``descent`` is the folder, beside ``output``, of a model that
    descends on organs and intensities afterwards, and ``scans`` are images that the model is for, on which its
    certainty is measured.
    """
    if descent is not None and descent.resolve().parent != output.resolve().parent:
        raise RegistrationError(f"descent is {descent}, expected a folder beside {output}, which it names")
    settings = PddSettings(
        warps=tuple(Warp(*warp) for warp in warps) or (Warp(), Warp(0.15, 11, 39)),
        stride=stride,
        extent=None if extent is None else extent[::-1],
        optimisation=InstanceOptimisation(optimisation, diffusion),
    )
    found = SemanticNetwork.from_folder(segmentation)
    named = name or output.resolve().name
    model = pdd_of_organs(
        found, settings, name=named, description=description or found.card.description,
        temperatures=[temperature] * len(settings.warps),
    )  # fmt: skip
    card = replace(
        model.card,
        training={**found.card.training, "organs": command},
        uncertainty=calibration_of_package(PDD).to_dict(),
    )
    if scans is not None:
        card = replace(card, purpose=measured_purpose(found, read_scans(scans)))
    replace(model, card=card).write(output)
    if descent is not None:
        text = f"{named}, then a descent on its organ probabilities and the intensities."
        uncertainty = calibration_of_package(DESCENT).to_dict()
        write_card(descent, CombinedCard(descent.resolve().name, text, output.resolve().name, uncertainty=uncertainty))


def _segmentation(options: Options, settings: Options) -> Run:
    crop, elastic, folds = options.pop("crop"), options.pop("elastic"), options.pop("folds")
    augmentation = Augmentation(shape=None if crop is None else crop[::-1])
    if elastic is not None:
        augmentation = replace(augmentation, elastic=elastic)
    recipe = Recipe(settings=TrainingSettings(**settings), augmentation=augmentation, **options)

    def run(scans: list, output: Path, these: Processes, progress: Any) -> dict[str, float]:
        if folds is not None:
            return cross_validate(scans, output, recipe, folds, processes=these, progress=progress)
        model = train_model(scans, output, recipe, processes=these, progress=progress)
        return dict(model.card.validation.get("segmentation_dice", {}))

    return run


def _pdd(options: Options, settings: Options) -> Run:
    elastic, size, synthetic = options.pop("elastic"), options.pop("size"), options.pop("synthetic")
    network = PddSettings(
        warps=tuple(Warp(*warp) for warp in options.pop("warps")) or (Warp(),),
        optimisation=InstanceOptimisation(options.pop("optimisation")),
        **{name: options.pop(name) for name in ("features", "channels", "mean_field", "norm")},
    )
    names = ("loss", "diffusion", "ramp", "pretrain", "auxiliary", "block", "images", "keep_moving")
    objective = {name: options.pop(name) for name in names}
    augmentation = replace(PDD_AUGMENTATION, intensity=options.pop("contrast"))
    recipe = PddRecipe(
        network=network,
        objective=ObjectiveSettings(**objective),
        settings=replace(PDD_TRAINING, **settings),
        augmentation=augmentation if elastic is None else replace(augmentation, elastic=elastic),
        synthetic=size[::-1] if synthetic else None,
        **options,
    )

    def run(scans: list, output: Path, these: Processes, progress: Any) -> dict[str, float]:
        model = train_pdd(scans, output, recipe, processes=these, progress=progress)
        return dict(model.card.validation.get("registration_dice", {}))

    return run


def _descriptor(options: Options, settings: Options) -> Run:
    recipe = DescriptorRecipe(settings=replace(DESCRIPTOR_TRAINING, **settings), **options)

    def run(scans: list, output: Path, these: Processes, progress: Any) -> dict[str, float]:
        _, card = train_descriptor(output, recipe, processes=these, progress=progress)
        return dict(card.validation)

    return run
