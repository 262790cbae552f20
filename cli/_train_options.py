"""Options of pdd-train: those of every training, of one on scans, and of each kind of network."""

from __future__ import annotations

from collections.abc import Mapping

import click
from click.core import ParameterSource
from itk_pdd.cli._console import COUNT, PATH, POSITIVE, Decorator, Number, Whole, file


def _classes(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[int, str]:
    names = {}
    for value in values:
        number, separator, name = value.partition("=")
        if not (separator and name.strip() and number.strip().isdigit() and int(number) > 0):
            raise click.BadParameter(f"expected VALUE=NAME such as 1=spleen, found {value!r}.")
        names[int(number)] = name.strip()
    return names


def _widths(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        return tuple(int(width) for width in value.split(","))
    except ValueError:
        raise click.BadParameter("expected whole numbers such as 16,40,80,128.") from None


_MODEL = (
    file("-o", "--output", "FOLDER", "Folder of the model.", required=True),
    click.option("--name", help="Name of the model; by default that of the folder."),
    click.option("--description", default="", help="A sentence or two for the card."),
)


def common(
    *, iterations: int = 1600, batch: str = "2 crops", rate: str = "0.002", validate_every: int = 100
) -> tuple[Decorator, ...]:
    """Options of every training; the arguments are the defaults that the help names."""
    return (
        *_MODEL,
        click.option("--iterations", type=COUNT, help=f"Length of the training; by default {iterations}. A finished "
                     "training is extended by the same command with more."),
        click.option(
            "--minutes", type=POSITIVE,
            help="Instead of --iterations: about how long. To repeat a training exactly, give the iterations that -v "
            "tells.",
        ),
        click.option("--batch", type=COUNT, help=f"Crops or pairs per iteration; by default {batch}."),
        click.option("--rate", type=POSITIVE, help=f"Learning rate; by default {rate}."),
        click.option(
            "--validate-every", type=COUNT, metavar="N",
            help=f"Iterations between validations; by default {validate_every}. Checkpoints: then and every 5 minutes.",
        ),
        click.option(
            "--cache", type=PATH, metavar="FOLDER",
            help="Keep the training data as the network sees them for the next time.",
        ),
        click.option(
            "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True,
            help="Where to train; cuda trains a segmentation network in mixed precision.",
        ),
        click.option("--threads", type=COUNT, help="CPU threads; all by default."),
        click.option(
            "--seed", type=Whole(min=0), default=0, show_default=True, help="Seed of weights and crops."
        ),
        click.option("-v", "--verbose", count=True, help="Tell what is done."),
    )  # fmt: skip


def of_scans(
    *, spacing: str = "of the network's answer", voxels: str = "a million", elastic: float = 0.06
) -> tuple[Decorator, ...]:
    """Options of a training on scans; the arguments are what the help says of spacing and elastic deformation."""
    return (
        click.option(
            "--licence", default="", help="Where the data come from and under which terms, for the card."
        ),
        click.option(
            "--class", "class_names", multiple=True, callback=_classes, metavar="VALUE=NAME",
            help="Name of a label value; if any is given, only these are learned. By default all that occur.",
        ),
        click.option(
            "--spacing", type=POSITIVE, metavar="MM",
            help=f"Spacing {spacing}. By default that of the scans, or coarser for scans above {voxels} voxels.",
        ),
        click.option(
            "--intensity", nargs=2, type=float, metavar="LOW HIGH",
            help="Intensities of calibrated scans, e.g. -125 275 HU.",
        ),
        click.option(
            "--percentiles", nargs=2, type=Number(0, 100), default=(1.0, 99.0), show_default=True,
            metavar="LOW HIGH", help="Of each scan, where --intensity is not given.",
        ),
        click.option(
            "--elastic", type=Number(min=0),
            help=f"Elastic deformation in units of the size of the images; by default {elastic}.",
        ),
        click.option(
            "--patience", type=Whole(min=0), default=0, show_default=True, metavar="N",
            help="Stop after N validations without a better Dice and keep the best weights; 0: go on and keep the "
            "last.",
        ),
    )  # fmt: skip


SCANS = of_scans()
SEGMENTATION = (
    click.option(
        "--crop", nargs=3, type=COUNT, metavar="X Y Z", help="Size of the crops at --spacing in voxels."
    ),
    click.option(
        "--widths", default="16,40,80,128", callback=_widths, show_default=True, metavar="N,...",
        help="Channels, finest first.",
    ),
    click.option("--blocks", type=COUNT, default=1, show_default=True, help="Residual blocks per level."),
    click.option(
        "--folds", type=Whole(min=2), metavar="K", help="Cross-validation: K models in fold-1, ..."
    ),
    click.option(
        "--bfloat16", is_flag=True,
        help="Half precision on the CPU as well: twice as fast with AVX-512 BF16 or AMX, slow without.",
    ),
)  # fmt: skip
"""Options of a segmentation network."""
PDD = (
    click.option(
        "--features", type=click.Choice(["obelisk", "mind-ssc"]), default="obelisk", show_default=True,
        help="Learned features, or hand-made ones with a learned regularisation.",
    ),
    click.option("--channels", type=COUNT, default=16, show_default=True, help="Number of learned features."),
    click.option(
        "--loss", type=click.Choice(["non-local", "warped", "self-similarity", "truth"]), default="non-local",
        show_default=True,
        help="Labels expected over all displacements; labels warped by the expected one; MIND-SSC features in place of "
        "labels; likelihood of the true displacement (with --synthetic).",
    ),
    click.option(
        "--mean-field/--no-mean-field", default=True, help="Average costs of neighbouring control points."
    ),
    click.option(
        "--warp", "warps", nargs=3, type=(float, int, int), multiple=True, metavar="REACH DISPLACEMENTS POINTS",
        help="A search: its reach in half extents, displacements and control points per axis; again for each further "
        "one. By default 0.4 15 32. Fewer points and displacements are faster.",
    ),
    click.option(
        "--optimisation", type=Whole(min=0), default=50, show_default=True, metavar="N",
        help="Steps of the instance optimisation in use; 0 for none.",
    ),
    click.option(
        "--diffusion", type=Number(min=0), default=1.5, show_default=True,
        help="Smoothness of the displacements in the loss.",
    ),
    click.option(
        "--pretrain", type=Whole(min=0), default=0, show_default=True, metavar="N",
        help="First iterations, which only teach the features to name the classes.",
    ),
    click.option(
        "--auxiliary", type=Number(min=0), default=0.0, show_default=True,
        help="Weight of naming the classes beside the loss afterwards.",
    ),
    click.option(
        "--block", type=Whole(min=2), metavar="N",
        help="Control points per axis of the random block that an iteration looks at; all by default. With --norm "
        "running only the features that the block needs are computed.",
    ),
    click.option(
        "--keep-moving", type=Whole(min=0), default=0, show_default=True, metavar="N",
        help="Keep the features of the moving scans, by the averaged network, for so many iterations; only those of "
        "the fixed scan's block are computed in each. Three times as fast; needs --block, --norm running and scans on "
        "one grid. 0 computes both in each iteration.",
    ),
    click.option(
        "--norm", type=click.Choice(["group", "running"]), default="group", show_default=True,
        help="Normalisation of the learned features: by the statistics of each image, or by those of the training so "
        "far, which lets an iteration compute parts of the features.",
    ),
    click.option(
        "--images", type=Whole(min=2), default=2, show_default=True, metavar="N",
        help="Images of an iteration, which sees one pair of 2 and all ordered pairs of more; the features of each are "
        "computed once. Less time per pair, less variety per iteration.",
    ),
    click.option(
        "--ramp", type=Number(0, 1), default=0.3, show_default=True, metavar="SHARE",
        help="Share of the iterations in which the diffusion grows to its weight.",
    ),
    click.option(
        "--contrast", type=Number(min=0), default=1.0, show_default=True,
        help="Strength of the random changes of the intensities: gamma, contrast, brightness, noise and blur.",
    ),
    click.option(
        "--stride", type=COUNT, metavar="N",
        help="Voxels per feature along each axis. By default so many that a scan has at most 150,000 features.",
    ),
    click.option(
        "--pairs", type=COUNT, default=6, show_default=True, metavar="N", help="Upper limit of the validation pairs."
    ),
    click.option(
        "--synthetic", is_flag=True, help="Learn from random shapes in random contrasts instead of scans; no DATA."
    ),
    click.option(
        "--size", nargs=3, type=Whole(min=16), default=(96, 80, 64), show_default=True, metavar="X Y Z",
        help="Of the synthetic images.",
    ),
)  # fmt: skip
"""Options of a PDD network."""
ORGANS = (
    click.argument("segmentation", type=PATH),
    *_MODEL,
    click.option(
        "--warp", "warps", nargs=3, type=(float, int, int), multiple=True, metavar="REACH DISPLACEMENTS POINTS",
        help="A search, as in pdd-train pdd. By default 0.4 15 32 and then 0.15 11 39.",
    ),
    click.option(
        "--stride", type=COUNT, default=3, show_default=True, metavar="N",
        help="Voxels of the network's images per feature along each axis.",
    ),
    click.option(
        "--extent", nargs=3, type=POSITIVE, metavar="X Y Z",
        help="Size in voxels of the network's images that reach and numbers of control points refer to, so that larger "
        "images get more control points. By default each image's own.",
    ),
    click.option(
        "--temperature", type=POSITIVE, default=20_000.0, show_default=True,
        help="Factor of the costs; larger gives sharper distributions.",
    ),
    click.option(
        "--optimisation", type=Whole(min=0), default=50, show_default=True, metavar="N",
        help="Steps of the instance optimisation; 0 for none.",
    ),
    click.option(
        "--diffusion", type=Number(min=0), default=3.0, show_default=True,
        help="Smoothness of the displacements in the instance optimisation.",
    ),
    click.option(
        "--descent", type=PATH, metavar="FOLDER",
        help="Also write a model that goes on with a descent on organs and intensities, to a folder beside the other.",
    ),
    click.option(
        "--scans", type=PATH, metavar="DATA",
        help="Scans that the model is for, as pdd-train segmentation takes them: how certain the network is there goes "
        "into the card, so that other images are refused. Validation scans count, else training ones. By default what "
        "the card of SEGMENTATION says.",
    ),
)  # fmt: skip
"""Options of a PDD network that compares the answers of a segmentation network."""
METHOD = click.option(
    "--method", type=click.Choice(["segmentation", "pdd", "descriptor"]), default="segmentation", show_default=True,
    help="The same as the command of that name.",
)  # fmt: skip
"""The way of earlier versions to say what is trained."""
_ONLY_SCANS = ("intensity", "spacing", "class_names", "elastic", "cache", "images", "contrast", "keep_moving")
_SPELLED = {"warps": "warp", "class_names": "class"}


def _refuse(context: click.Context, name: str, what: str, advice: str = "leave it out") -> None:
    """Raise if an option that has no effect is given."""
    if context.get_parameter_source(name) == ParameterSource.COMMANDLINE:
        option = f"--{_SPELLED.get(name, name).replace('_', '-')}"
        raise click.UsageError(f"{option} has no meaning {what}: {advice}.")


def check_method(context: click.Context, commands: Mapping[str, click.Command]) -> str:
    """The method of a command line without a command's name; options that it does not have are refused."""
    values = context.params
    # Only the PDD network can learn from synthetic pairs: then the method need not be said.
    said = context.get_parameter_source("method") == ParameterSource.COMMANDLINE
    method = "pdd" if values["synthetic"] and not said else values["method"]
    if method == "descriptor" and values["data"] is not None:
        raise click.UsageError("DATA is given, but a descriptor learns from random shapes: leave it out.")
    known = {name: {parameter.name for parameter in command.params} for name, command in commands.items()}
    for name in values:
        if name not in known[method] | {"method"}:
            add = method == "segmentation" and name in known["pdd"]
            _refuse(context, name, f"with --method {method}", "add --method pdd" if add else "leave it out")
    if method == "segmentation" and values["data"] is None:
        raise click.UsageError("Missing argument 'DATA'.")
    if method == "pdd":
        check_pairs(context)
    return method


def check_pairs(context: click.Context) -> None:
    """Refuse options of a PDD network that have no effect on the pairs or features that it learns from."""
    values = context.params
    if values["features"] != "obelisk":
        for name in ("channels", "norm"):
            _refuse(context, name, f"with --features {values['features']}")
    if values["synthetic"]:
        for name in _ONLY_SCANS:
            _refuse(context, name, "with --synthetic")
        if values["data"] is not None:
            raise click.UsageError("DATA and --synthetic are both given, expected one of them.")
        return
    _refuse(context, "size", "without --synthetic", "leave it out, or add --synthetic")
    if values["data"] is None:
        raise click.UsageError("Missing argument 'DATA'.")
