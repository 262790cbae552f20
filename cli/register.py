"""pdd-register: register two images from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import click
from itk_pdd.cli import _console, _guidance, _series
from itk_pdd.cli._console import COUNT, PATH, POSITIVE, SETTINGS, choice, file, flag, option, progress_bar, running

import itk_pdd
from itk_pdd._version import __version__
from itk_pdd.uncertainty import IMAGES, LABEL_IMAGES

_FILES = ("output", "warped", "transform", "composite", "inverse", "elastix", "warped_labels", "report", "record")
_OUTPUTS = (*_FILES, *IMAGES)
_INPUTS = ("initial_transform", "fixed_mask", "moving_mask", "fixed_labels", "moving_labels", *_guidance.INPUTS)


class _Groups(click.Command):
    """A command whose help lists the options under headings."""

    headings: ClassVar = {
        "Outputs": (*_FILES, "record_paths", "default"),
        "Uncertainty": IMAGES,
        "Inputs": ("initial_transform", "initialise", "fixed_mask", "moving_mask", "fixed_labels", "moving_labels"),
        "Guidance": _guidance.NAMES,
        "Series": _series.NAMES,
        "Registration": (
            "model",
            "smoothness",
            "spacing",
            "device",
            "threads",
            "memory",
            "seed",
            "quality",
            "stages",
            "force",
            "strict",
        ),
    }

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the words of the command line for the record."""
        ctx.obj = list(args)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one definition list per heading."""
        records = {p.name: p.get_help_record(ctx) for p in self.get_params(ctx) if isinstance(p, click.Option)}
        grouped = {name for names in self.headings.values() for name in names}
        rest = tuple(name for name in records if name not in grouped)
        for heading, names in {**self.headings, "Other": rest}.items():
            with formatter.section(heading):
                formatter.write_dl([record for record in map(records.get, names) if record])


class _Model(click.Option):
    """An option whose help lists the models of the package."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Look for the models when the help is shown; loading the package's models would take a second."""
        trained = sorted(card.parent.name for card in (Path(itk_pdd.__file__).parent / "models").glob("*/card.json"))
        # Names are not to be broken at their hyphens: they are copied from here.
        names = "\n".join(("mind-ssc (auto)", *trained))
        self.help = f"The folder of a model, or one of\n\n\b\n{names}"
        return super().get_help_record(ctx)


@click.command(cls=_Groups, context_settings=SETTINGS)
@click.argument("fixed", type=PATH, required=False)
@click.argument("moving", type=PATH, required=False)
@file(
    "-o",
    "--output",
    "FIELD",
    "Displacement field on the grid of FIXED: vectors "
    "from fixed to moving points in mm (LPS). .nii.gz, .nii, .mha, .nrrd; .h5 or .tfm for a transform.",
)
@file("--warped", "IMAGE", "MOVING resampled onto FIXED (linear, pixel type kept, all volumes of a series).")
@option("--default", "VALUE", "Value of --warped outside MOVING.  [default: its background as found]", type=float)
@file("--transform", "FILE", "The field as an ITK transform: .h5, .tfm, .mat.")
@file(
    "--composite", "FILE", "An ITK composite of the initial transform and the deformable part, kept apart: .h5, .tfm."
)
@file(
    "--inverse",
    "FIELD",
    "Displacement field on the grid of MOVING, from moving to fixed points in mm; formats as --output. "
    "-v tells its error.",
)
@file(
    "--elastix",
    "FILE",
    "elastix' parameter file (.txt) for transformix, and the field it names beside it (.field.nii.gz); run "
    "transformix in their folder.",
)
@file("--warped-labels", "IMAGE", "The --moving-labels resampled onto FIXED (nearest neighbour, pixel type kept).")
@file(
    "--report",
    "HTML",
    "A page to look at the result: the verdict with its signs, a viewer in three planes, the Jacobian.",
)
@file(
    "--record",
    "JSON",
    "A record: versions, command, options, model, inputs with checksums and geometry, time, memory, verdict and "
    "warnings. Folders are left out of file names.",
)
@flag("--record-paths", "Keep the folders of file names in the --record.")
@file(
    "--uncertainty",
    "IMAGE",
    "How far the result can be believed: standard deviation of the displacement in mm, on the grid of FIXED. "
    "Also tells within how many mm half of the body, and 95 % of it, is located (the body: where FIXED shows "
    "something, or its mask), and draws the map in the --report.",
)
@file(
    "--covariance",
    "IMAGE",
    "Covariance of the displacement in mm^2, with the components xx, xy, xz, yy, yz, zz of ITK's symmetric tensors.",
)
@file("--entropy", "IMAGE", "Entropy of the displacement in nats; larger is less certain.")
@file(
    "--label-probabilities",
    "IMAGE",
    "Probability of each of the --moving-labels on FIXED, one component per label, 0 first.",
)
@file("--label-entropy", "IMAGE", "Entropy of the carried labels in nats; 0 where certain.")
@option(
    "--initial-transform",
    "FILE",
    "Start here: a transform from fixed to moving points (.h5, .tfm, .txt, .mat; ANTs' 0GenericAffine.mat and "
    "elastix' TransformParameters.txt too) or a displacement field image in mm. Several are given in ANTs' order "
    "(1Warp.nii.gz, then 0GenericAffine.mat); '[file,1]' inverts a linear one. It becomes part of the result.",
    multiple=True,
)
@choice(
    "--initialise",
    ["none", "center", "affine"],
    "Find a start: put the centres (of both masks, if given) on each other, or search an affine.",
    default="none",
)
@file("--fixed-mask", "IMAGE", "Voxels other than 0 count; on the grid of FIXED.")
@file("--moving-mask", "IMAGE", "The same for MOVING.")
@file(
    "--fixed-labels",
    "IMAGE",
    "Label image on the grid of FIXED: with --moving-labels their Dice overlap before and after is told (-v), "
    "recorded and reported, and the --report draws the contours of both.",
)
@file(
    "--moving-labels",
    "IMAGE",
    "Label image in the space of MOVING, warped to --warped-labels and drawn in the --report.",
)
@_guidance.guidance_options
@_series.series_options
@option("--model", "NAME", "A model.", cls=_Model, default="auto")
@option("--device", "NAME", "auto, cpu, cuda or cuda:1.", default="auto")
@option("--threads", "N", "CPU threads  [default: all]", type=COUNT)
@option(
    "--memory",
    "GB",
    "Hold no more than this in memory: slower, and coarser (with a warning) where that is not enough.  "
    "[default: what is free]",
    type=POSITIVE,
)
@option(
    "--spacing",
    "MM",
    "Compare the images at this voxel size in mm; smaller is more exact and slower.  [default: the model's]",
    type=POSITIVE,
)
@option(
    "--smoothness",
    "FACTOR",
    "Of the model's regularisation: 2 gives a smoother field, 0.5 one that fits more closely.",
    type=POSITIVE,
    default=1.0,
)
@option(
    "--seed",
    "N",
    "Not used: nothing is random, and the same input gives the same result. Accepted for compatibility.",
    type=int,
    default=0,
)
@choice(
    "--stages",
    ["all", "affine"],
    "affine: stop after the alignment (--initialise, affine by default). --transform writes it as a linear "
    "transform, -o its displacements.",
    default="all",
)
@flag("--force", "Use a trained model even on images that it is not made for, which else is an error.")
@click.option(
    "--quality/--no-quality",
    default=True,
    show_default=True,
    help="Judge the result: good, look, or probably failed, with the reasons; where in doubt, small copies are "
    "registered again, in a second or two. Told on a terminal or with -v, and always where it is not good.",
)
@flag("--strict", "End with exit code 4 if the registration has probably failed; files are written.")
@file(
    "--demo",
    "DIR",
    "Make a labelled synthetic abdominal pair in DIR, register it and draw overview.png; takes no other input.",
)
@click.option("-v", "--verbose", count=True, help="Say what is done; -vv says more.")
@click.version_option(__version__, prog_name="pdd-register")
def main(**arguments: Any) -> None:
    """Register MOVING to FIXED, two 2-D or 3-D images, deformably.

    The images are files of any format ITK reads (NIfTI, MetaImage, NRRD, ...) or folders of DICOM slices. All
    outputs are written whole or not at all. Positions and displacements are physical millimetres (LPS, as in ITK).

    \b
    Examples:
      pdd-register fixed.nii.gz moving.nii.gz --initialise affine -o field.nii.gz --warped warped.nii.gz
      pdd-register ct/ mr.nii.gz --initialise affine --transform t.h5 --record run.json --strict
      pdd-register --demo demo

    \b
    Exit codes:
      0 done, whatever the verdict    1 an input cannot be used, or there is an error    2 wrong usage
      3 an output cannot be written    4 with --strict: written, but it has probably failed
      130 interrupted    143, 129 ended by SIGTERM, SIGHUP
    """
    fixed, moving = arguments.pop("fixed"), arguments.pop("moving")
    folder, verbosity, summary = arguments.pop("demo"), arguments.pop("verbose"), ""
    strict, failed, context = arguments.pop("strict"), False, click.get_current_context()
    series = {name: arguments.pop(name) for name in _series.NAMES}
    _series.check(fixed, moving, series, {**arguments, "demo": folder, "strict": strict})
    if folder is None:
        if not series["series"]:
            _check_usage(fixed, moving, arguments)
    elif fixed or moving or any(arguments[name] for name in (*_OUTPUTS, *_INPUTS)):
        raise click.UsageError("--demo makes its own images and names its own files: leave the others out.")
    elif arguments["stages"] != "all":
        raise click.UsageError("--stages has no meaning with --demo: leave it out.")
    if arguments["default"] is not None and arguments["warped"] is None:
        raise click.UsageError("--default is the value outside of --warped: give that too.")
    if arguments["record_paths"] and arguments["record"] is None:
        raise click.UsageError("--record-paths is about the --record: give that too.")
    if strict and (arguments["stages"] != "all" or not arguments["quality"] or folder is not None):
        raise click.UsageError("--strict needs a verdict: leave --stages affine, --no-quality and --demo out.")
    if arguments["initialise"] == "none":
        arguments["initialise"] = None
    with running(verbosity), progress_bar() as progress:
        if series["series"]:
            _series.register(fixed, moving, series, arguments, progress)
        elif folder is None:
            from itk_pdd.commands.register import register_files

            arguments["initial_transform"] = list(arguments["initial_transform"]) or None
            words = [context.command_path, *context.obj]
            result = register_files(fixed, moving, progress=progress, command=words, **arguments)
            failed = strict and result.verdict is not None and result.verdict.failed
        else:
            from itk_pdd.commands.demo import run_demo

            keys = ("initialise", "model", "smoothness", "spacing", "device", "threads", "memory", "seed")
            summary = run_demo(folder, progress=progress, **{key: arguments[key] for key in keys})
    if summary:
        click.echo(summary)
    if failed:
        context.exit(_console.PROBABLY_FAILED)


def _check_usage(fixed: Path | None, moving: Path | None, arguments: dict[str, Any]) -> None:
    if fixed is None or moving is None:
        raise click.UsageError(f"Missing argument {'FIXED' if fixed is None else 'MOVING'!r}.")
    if not any(arguments[name] for name in _OUTPUTS):
        raise click.UsageError("Nothing to write: give -o or another of the outputs (see --help).")
    _guidance.check_guidance(arguments)
    carried = any(arguments[name] is not None for name in ("warped_labels", *LABEL_IMAGES))
    used = carried or (arguments["fixed_labels"] is not None and arguments["rigid"] is None)
    if used if arguments["moving_labels"] is None else not used and arguments["report"] is None:
        raise click.UsageError(
            "--fixed-labels, --warped-labels and other outputs of labels belong together with --moving-labels: give it."
            if arguments["moving_labels"] is None
            else "--moving-labels and its use (--warped-labels, --fixed-labels, --report) belong together: give both."
        )
    if arguments["initial_transform"] and arguments["initialise"] != "none":
        raise click.UsageError("--initial-transform and --initialise exclude each other: give one.")


if __name__ == "__main__":
    main()
