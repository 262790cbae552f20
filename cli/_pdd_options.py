"""Options of pdd-train for the paper's network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import click
from click.core import ParameterSource

__all__ = ["check_options", "pdd_options", "pdd_recipe", "take_pdd_options"]

_ONLY_SEGMENTATION = ("crop", "widths", "blocks", "folds", "bfloat16")
_ONLY_SCANS = ("intensity", "spacing", "class_names", "elastic", "cache")
_DESCRIPTOR = (
    "method", "output", "name", "description", "iterations", "minutes", "batch", "rate", "validate_every", "cache",
    "device", "threads", "seed", "verbose",
)  # fmt: skip
_SPELLED = {"warps": "warp", "class_names": "class"}
_OPTIONS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (
        ("--features",),
        {
            "type": click.Choice(["obelisk", "mind-ssc"]), "default": "obelisk", "show_default": True,
            "help": "Learned features, or hand-made ones with a learned regularisation.",
        },
    ),
    (
        ("--channels",),
        {"type": click.IntRange(min=1), "default": 16, "show_default": True, "help": "Number of learned features."},
    ),
    (
        ("--loss",),
        {
            "type": click.Choice(["non-local", "warped", "self-similarity", "truth"]), "default": "non-local",
            "show_default": True,
            "help": "Labels expected over all displacements; labels warped by the expected one; MIND-SSC features in "
            "place of labels; likelihood of the true displacement (with --synthetic).",
        },
    ),
    (("--mean-field/--no-mean-field",), {"default": True, "help": "Average costs of neighbouring control points."}),
    (
        ("--warp", "warps"),
        {
            "nargs": 3, "type": (float, int, int), "multiple": True, "metavar": "REACH DISPLACEMENTS POINTS",
            "help": "A search: its reach in half extents, displacements and control points per axis; again for each "
            "further one. By default 0.4 15 32. Fewer points and displacements are faster.",
        },
    ),
    (
        ("--optimisation",),
        {
            "type": click.IntRange(min=0), "default": 50, "show_default": True, "metavar": "N",
            "help": "Steps of the instance optimisation in use; 0 for none.",
        },
    ),
    (
        ("--diffusion",),
        {
            "type": click.FloatRange(min=0), "default": 1.5, "show_default": True,
            "help": "Smoothness of the displacements in the loss.",
        },
    ),
    (
        ("--pretrain",),
        {
            "type": click.IntRange(min=0), "default": 0, "show_default": True, "metavar": "N",
            "help": "First iterations, which only teach the features to name the classes.",
        },
    ),
    (
        ("--auxiliary",),
        {
            "type": click.FloatRange(min=0), "default": 0.0, "show_default": True,
            "help": "Weight of naming the classes beside the loss afterwards.",
        },
    ),
    (
        ("--block",),
        {
            "type": click.IntRange(min=2), "metavar": "N",
            "help": "Control points per axis of the random block that an iteration looks at; all by default.",
        },
    ),
    (
        ("--stride",),
        {
            "type": click.IntRange(min=1), "metavar": "N",
            "help": "Voxels per feature along each axis. By default so many that a scan has at most 150,000 features.",
        },
    ),
    (
        ("--pairs",),
        {
            "type": click.IntRange(min=1), "default": 6, "show_default": True, "metavar": "N",
            "help": "Upper limit of the validation pairs.",
        },
    ),
    (
        ("--synthetic",),
        {"is_flag": True, "help": "Learn from random shapes in random contrasts instead of scans; no DATA."},
    ),
    (
        ("--size",),
        {
            "nargs": 3, "type": click.IntRange(min=16), "default": (96, 80, 64), "show_default": True,
            "metavar": "X Y Z", "help": "Of the synthetic images.",
        },
    ),
)  # fmt: skip
_NAMES = (
    "features", "channels", "loss", "mean_field", "warps", "optimisation", "diffusion", "pretrain", "auxiliary",
    "block", "stride", "pairs", "synthetic", "size",
)  # fmt: skip


def pdd_options(command: Callable) -> Callable:
    """Decorator: add the options."""
    for names, settings in reversed(_OPTIONS):
        settings = {**settings, "help": f"[pdd] {settings['help']}"}
        command = click.option(*names, **settings)(command)
    return command


def check_options(context: click.Context) -> str:
    """The method; options that have no effect on it are refused instead of ignored."""
    values = context.params
    # Only the PDD network can learn from synthetic pairs: then the method need not be said.
    said = context.get_parameter_source("method") == ParameterSource.COMMANDLINE
    method = "pdd" if values["synthetic"] and not said else values["method"]
    pdd = method == "pdd"

    def refuse(names: Sequence[str], what: str, advice: str) -> None:
        for name in names:
            if context.get_parameter_source(name) == ParameterSource.COMMANDLINE:
                option = f"--{_SPELLED.get(name, name).replace('_', '-')}"
                raise click.UsageError(f"{option} has no meaning {what}: {advice}.")

    if method == "descriptor":
        if values["data"] is not None:
            raise click.UsageError("DATA is given, but a descriptor learns from random shapes: leave it out.")
        refuse([name for name in values if name not in _DESCRIPTOR], f"with --method {method}", "leave it out")
        return method
    refuse(
        _ONLY_SEGMENTATION if pdd else _NAMES, f"with --method {method}", "leave it out" if pdd else "add --method pdd"
    )
    if values["features"] != "obelisk":
        refuse(("channels",), f"with --features {values['features']}", "leave it out")
    if values["synthetic"]:
        refuse(_ONLY_SCANS, "with --synthetic", "leave it out")
    else:
        refuse(("size",), "without --synthetic", "leave it out, or add --synthetic")
    if values["synthetic"] and values["data"] is not None:
        raise click.UsageError("DATA and --synthetic are both given, expected one of them.")
    if not values["synthetic"] and values["data"] is None:
        raise click.UsageError("Missing argument 'DATA'.")
    return method


def take_pdd_options(options: dict[str, Any]) -> dict[str, Any]:
    """Take these options out of all of them."""
    return {name: options.pop(name) for name in _NAMES}


def pdd_recipe(
    options: dict[str, Any], learned: dict[str, Any], settings: dict[str, Any], elastic: float | None
) -> Any:
    """The recipe of a PDD network.

    Parameters
    ----------
    options, learned : dict
        Options of every training and of this one.
    settings, elastic
        Training settings that were given, and the elastic deformation if it was.
    """
    from itk_pdd.network.settings import InstanceOptimisation, PddSettings, Warp
    from itk_pdd.training.objective import ObjectiveSettings
    from itk_pdd.training.pdd_recipe import PDD_AUGMENTATION, PDD_TRAINING, PddRecipe

    network = PddSettings(
        features=learned["features"],
        channels=learned["channels"],
        warps=tuple(Warp(*warp) for warp in learned["warps"]) or (Warp(),),
        mean_field=learned["mean_field"],
        optimisation=InstanceOptimisation(learned["optimisation"]),
    )
    objective = ObjectiveSettings(
        **{name: learned[name] for name in ("loss", "diffusion", "pretrain", "auxiliary", "block")}
    )
    return PddRecipe(
        network=network,
        objective=objective,
        settings=replace(PDD_TRAINING, **settings),
        augmentation=PDD_AUGMENTATION if elastic is None else replace(PDD_AUGMENTATION, elastic=elastic),
        stride=learned["stride"],
        pairs=learned["pairs"],
        synthetic=learned["size"][::-1] if learned["synthetic"] else None,
        **options,
    )
