"""pdd-train: learn from labelled scans."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click
from itk_pdd.cli._pdd_options import check_options, pdd_options, pdd_recipe, take_pdd_options

from itk_pdd._version import __version__

PATH = click.Path(path_type=Path)


def _classes(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[int, str]:
    names = {}
    for value in values:
        number, separator, name = value.partition("=")
        if not (separator and name.strip() and number.strip().isdigit() and int(number) > 0):
            raise click.BadParameter(f"expected VALUE=NAME such as 1=spleen, found {value!r}.")
        names[int(number)] = name.strip()
    return names


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("data", type=PATH, required=False)
@click.option(
    "--method", type=click.Choice(["segmentation", "pdd", "descriptor"]), default="segmentation", show_default=True,
    help="A network that names organs, which guide the registration; the paper's network, end to end; or descriptors "
    "of voxels for any modality, from random shapes and no DATA.",
)  # fmt: skip
@click.option("-o", "--output", type=PATH, required=True, metavar="FOLDER", help="Folder of the model.")
@click.option("--name", help="Name of the model; by default that of the folder.")
@click.option("--description", default="", help="A sentence or two for the card.")
@click.option("--licence", default="", help="Where the data come from and under which terms, for the card.")
@click.option(
    "--class",
    "class_names",
    multiple=True,
    callback=_classes,
    metavar="VALUE=NAME",
    help="Name of a label value; if any is given, only these are learned. By default all that occur.",
)
@click.option(
    "--iterations",
    type=click.IntRange(min=1),
    help="Length of the training; by default 1600, 1000 with pdd, 1500 with descriptor.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="Instead of --iterations: about how long. To repeat a training exactly, give the iterations that -v tells.",
)
@click.option(
    "--spacing",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MM",
    help="Spacing of the network's answer, with pdd of the images it sees. By default that of the scans, or coarser "
    "for scans above a million voxels (eight with pdd).",
)
@click.option(
    "--intensity", nargs=2, type=float, metavar="LOW HIGH", help="Intensities of calibrated scans, e.g. -125 275 HU."
)
@click.option(
    "--percentiles",
    nargs=2,
    type=click.FloatRange(0, 100),
    default=(1.0, 99.0),
    show_default=True,
    metavar="LOW HIGH",
    help="Of each scan, where --intensity is not given.",
)
@click.option(
    "--crop", nargs=3, type=click.IntRange(min=1), metavar="X Y Z", help="Size of the crops at --spacing in voxels."
)
@click.option("--widths", default="16,40,80,128", show_default=True, metavar="N,...", help="Channels, finest first.")
@click.option("--blocks", type=click.IntRange(min=1), default=1, show_default=True, help="Residual blocks per level.")
@click.option(
    "--batch", type=click.IntRange(min=1), help="Crops or pairs per iteration; by default 2 crops, 1 pair otherwise."
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Learning rate; by default 0.002, 0.005 with pdd (for MIND-SSC features take 0.05), 0.0015 with descriptor.",
)
@click.option(
    "--elastic", type=click.FloatRange(min=0),
    help="Elastic deformation in units of the size of the images; by default 0.06, 0.04 with pdd.",
)  # fmt: skip
@click.option(
    "--validate-every", type=click.IntRange(min=1), metavar="N",
    help="Iterations between validations; by default 100, 50 with pdd. Checkpoints: then and every 5 minutes.",
)  # fmt: skip
@click.option(
    "--patience", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
    help="Stop after N validations without a better Dice and keep the best weights; 0: go on and keep the last.",
)  # fmt: skip
@click.option("--folds", type=click.IntRange(min=2), metavar="K", help="Cross-validation: K models in fold-1, ...")
@click.option("--cache", type=PATH, metavar="FOLDER", help="Keep the scans as the network sees them for the next time.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="cuda trains in mixed precision.",
)
@click.option(
    "--bfloat16", is_flag=True,
    help="Half precision on the CPU as well (not with pdd): twice as fast with AVX-512 BF16 or AMX, slow without.",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; all by default.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of weights and crops.")
@pdd_options
@click.option("-v", "--verbose", count=True, help="Tell what is done.")
@click.version_option(__version__, prog_name="pdd-train")
@click.pass_context
def main(
    context: click.Context,
    data: Path | None,
    output: Path,
    folds: int | None,
    threads: int | None,
    verbose: int,
    **options: Any,
) -> None:
    """Train a network on the labelled scans of DATA, and write it as a model.

    DATA is a CSV file with the columns image and labels and, if you like, split (train, validation, test) and name,
    paths relative to it; a folder with images and labels; or the JSON file of a Learn2Reg task. Scans may have any
    spacing and direction.

    The model's folder gets card.json and weights.safetensors, for pdd-register --model FOLDER, and in training/ the
    log, the curve and a checkpoint: the same command goes on where it was interrupted. The same command with the same
    number of threads gives the same curve. Several GPUs: torchrun --nproc-per-node 4 -m itk_pdd.cli.train ...
    """
    from itk_pdd.cli._console import INTERRUPTED, RESUMABLE, exit_codes, logging_to_stderr, progress_bar
    from itk_pdd.cli._interrupt import interruptible

    options["method"] = check_options(context)
    guard = interruptible(INTERRUPTED, RESUMABLE)
    with guard, logging_to_stderr(verbose), exit_codes(RESUMABLE), progress_bar() as progress:
        _train(data, output, folds, threads, options, progress)


def _train(
    data: Path | None, output: Path, folds: int | None, threads: int | None, options: dict[str, Any], progress: Any
) -> None:
    import torch

    from itk_pdd.training import cases
    from itk_pdd.training.distributed import processes
    from itk_pdd.training.recipe import cross_validate, train_model

    if threads is not None:
        torch.set_num_threads(threads)
    method, learned = options.pop("method"), take_pdd_options(options)
    recipe = _recipe(output, options, method, learned)
    scans = [] if data is None else cases.read_scans(data)
    with processes(recipe.device) as these:
        if method == "descriptor":
            from itk_pdd.training.descriptor_recipe import train_descriptor

            _, card = train_descriptor(output, recipe, processes=these, progress=progress)
            figures = card.validation
        elif method == "pdd":
            from itk_pdd.training.pdd_recipe import train_pdd

            trained = train_pdd(scans, output, recipe, processes=these, progress=progress)
            figures = trained.card.validation.get("registration_dice", {})
        elif folds is None:
            model = train_model(scans, output, recipe, processes=these, progress=progress)
            figures = model.card.validation.get("segmentation_dice", {})
        else:
            figures = cross_validate(scans, output, recipe, folds, processes=these, progress=progress)
    if these.rank == 0:
        for name, value in figures.items():
            click.echo(f"{name:24s} {value:.3f}")


def _recipe(output: Path, options: dict[str, Any], method: str, learned: dict[str, Any]) -> Any:
    """The recipe of a method; ``learned`` are the options of a PDD network."""
    from itk_pdd.network.preparation import Intensity
    from itk_pdd.solver.devices import checked_device
    from itk_pdd.training.augmentation import Augmentation
    from itk_pdd.training.recipe import Recipe
    from itk_pdd.training.schedule import TrainingSettings

    intensity, percentiles = options.pop("intensity"), options.pop("percentiles")
    options["intensity"] = Intensity("range", *intensity) if intensity is not None else Intensity(
        "percentiles", *percentiles
    )  # fmt: skip
    names = ("iterations", "batch", "rate", "validate_every", "patience", "seed", "bfloat16")
    given = {name: value for name in names if (value := options.pop(name)) is not None}
    crop, elastic = options.pop("crop"), options.pop("elastic")
    # Of several processes each has a GPU of its own: which one is not said here.
    options["device"] = checked_device(options["device"]).partition(":")[0]
    try:
        widths = tuple(int(width) for width in options.pop("widths").split(","))
    except ValueError:
        raise click.BadParameter("expected whole numbers such as 16,40,80,128.", param_hint="--widths") from None
    options["name"] = options.pop("name") or output.resolve().name
    options["command"] = shlex.join(["pdd-train", *sys.argv[1:]])
    if method == "descriptor":
        return _descriptor_recipe(options, given)
    if method == "pdd":
        options.pop("blocks")
        return pdd_recipe(options, learned, given, elastic)
    settings = TrainingSettings(**given)
    augmentation = Augmentation(shape=None if crop is None else crop[::-1], **_given(elastic=elastic))
    return Recipe(settings=settings, augmentation=augmentation, widths=widths, **options)


def _descriptor_recipe(options: dict[str, Any], settings: dict[str, Any]) -> Any:
    from dataclasses import replace

    from itk_pdd.training.descriptor_recipe import DESCRIPTOR_TRAINING, DescriptorRecipe

    names = ("name", "description", "command", "minutes", "device", "cache")
    # The others have been refused.
    return DescriptorRecipe(
        **{name: options[name] for name in names}, settings=replace(DESCRIPTOR_TRAINING, **settings)
    )


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


if __name__ == "__main__":
    main()
