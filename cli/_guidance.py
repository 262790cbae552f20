"""The options of pdd-register for what a user knows about the images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from itk_pdd.cli._console import PATH, POSITIVE

_OPTIONS = (
    click.option(
        "--guide",
        metavar="LABELS",
        help="Let --fixed-labels and --moving-labels guide the registration: all, or numbers or names (1,2,liver). The "
        "labels may be probability maps and lie on grids of their own then.",
    ),
    click.option(
        "--label-map",
        type=PATH,
        metavar="CSV",
        help="Which label of FIXED corresponds to which of MOVING: columns fixed, moving and, if wanted, name.  "
        "[default: the same number]",
    ),
    click.option(
        "--label-weight",
        type=POSITIVE,
        default=1.0,
        show_default=True,
        metavar="FACTOR",
        help="Of the guiding labels against the intensities; larger follows the labels more closely.",
    ),
    click.option(
        "--fixed-points",
        type=PATH,
        metavar="FILE",
        help="Landmarks in FIXED (.csv, .fcsv, .mrk.json, .vtk and other surfaces; LPS mm where the file is silent), "
        "with --moving-points. The field is drawn to them; those that contradict the images are named, not obeyed.",
    ),
    click.option(
        "--moving-points", type=PATH, metavar="FILE", help="The same points in MOVING; may be the same table."
    ),
    click.option(
        "--point-uncertainty",
        type=click.FloatRange(min=0),
        metavar="MM",
        help="Standard deviation of the landmarks.  [default: half a voxel]",
    ),
    click.option("--exact-points", is_flag=True, help="Let the field meet the landmarks exactly."),
    click.option(
        "--features",
        type=PATH,
        metavar="FILE",
        help="A network of your own whose features of both images are compared: TorchScript (.pt) or ONNX (.onnx), as "
        "for itk-impact. No Python of the file is run.",
    ),
    click.option(
        "--feature-card",
        type=PATH,
        metavar="JSON",
        help="What it takes and gives: spacing, intensities, padding, ...  [default: the .json beside it]",
    ),
    click.option("--rigid", metavar="LABELS", help="Labels of --fixed-labels that move rigidly, such as 20,21."),
    click.option(
        "--sliding",
        metavar="LABEL",
        help="Let the field slide along the border of this label of --fixed-labels and --moving-labels: each side is "
        "registered by itself. The field has no inverse at the border.",
    ),
)
INPUTS = (
    "guide", "label_map", "fixed_points", "moving_points", "point_uncertainty", "exact_points", "features",
    "feature_card", "rigid", "sliding",
)  # fmt: skip
NAMES = (*INPUTS[:2], "label_weight", *INPUTS[2:])


def guidance_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def check_guidance(arguments: dict[str, Any]) -> None:
    """Refuse combinations that make no sense."""
    if (arguments["fixed_points"] is None) != (arguments["moving_points"] is None):
        raise click.UsageError("--fixed-points and --moving-points belong together: give both.")
    if arguments["fixed_points"] is None and (arguments["point_uncertainty"] is not None or arguments["exact_points"]):
        raise click.UsageError("--point-uncertainty and --exact-points are about landmarks: give --fixed-points.")
    if arguments["fixed_points"] is not None and arguments["stages"] != "all":
        raise click.UsageError("--fixed-points has no meaning with --stages affine: leave one of them out.")
    if arguments["features"] is None and arguments["feature_card"] is not None:
        raise click.UsageError("--feature-card is about --features: give that, too.")
    if arguments["features"] is not None and arguments["stages"] != "all":
        raise click.UsageError("--features has no meaning with --stages affine: leave one of them out.")
    if arguments["rigid"] is not None and arguments["fixed_labels"] is None:
        raise click.UsageError("--rigid names labels of --fixed-labels: give that, too.")
    if arguments["sliding"] is not None and (arguments["fixed_labels"] is None or arguments["moving_labels"] is None):
        raise click.UsageError("--sliding names a label of both images: give --fixed-labels and --moving-labels.")
    if arguments["guide"] is None:
        if arguments["label_map"] is not None:
            raise click.UsageError("--label-map is about labels that guide: give --guide, too.")
    elif arguments["fixed_labels"] is None or arguments["moving_labels"] is None:
        raise click.UsageError("--guide is about labels of both images: give --fixed-labels and --moving-labels.")
    elif arguments["stages"] != "all":
        raise click.UsageError("--guide has no meaning with --stages affine: leave one of them out.")
