"""The options of pdd-register for what a user knows about the images."""

from __future__ import annotations

from typing import Any

import click
from itk_pdd.cli._console import POSITIVE, file, flag, option, options

guidance_options = options(
    option(
        "--guide",
        "LABELS",
        "Let --fixed-labels and --moving-labels guide the registration: all, or numbers or names (1,2,liver). The "
        "labels may be probability maps and lie on grids of their own then.",
    ),
    file(
        "--label-map",
        "CSV",
        "Which label of FIXED corresponds to which of MOVING: columns fixed, moving and, if wanted, name.  "
        "[default: the same number]",
    ),
    option(
        "--label-weight",
        "FACTOR",
        "Of the guiding labels against the intensities; larger follows the labels more closely.",
        type=POSITIVE,
        default=1.0,
    ),
    file(
        "--fixed-points",
        "FILE",
        "Landmarks in FIXED (.csv, .fcsv, .mrk.json, .vtk and other surfaces; LPS mm where the file is silent), "
        "with --moving-points. The field is drawn to them; those that contradict the images are named, not obeyed.",
    ),
    file("--moving-points", "FILE", "The same points in MOVING; may be the same table."),
    option(
        "--point-uncertainty",
        "MM",
        "Standard deviation of the landmarks.  [default: half a voxel]",
        type=click.FloatRange(min=0),
    ),
    flag("--exact-points", "Let the field meet the landmarks exactly."),
    file(
        "--features",
        "FILE",
        "A network of your own whose features of both images are compared: TorchScript (.pt) or ONNX (.onnx), as "
        "for itk-impact. No Python of the file is run.",
    ),
    file(
        "--feature-card",
        "JSON",
        "What it takes and gives: spacing, intensities, padding, ...  [default: the .json beside it]",
    ),
    option("--rigid", "LABELS", "Labels of --fixed-labels that move rigidly, such as 20,21."),
    option(
        "--sliding",
        "LABEL",
        "Let the field slide along the border of this label of --fixed-labels and --moving-labels: each side is "
        "registered by itself. The field has no inverse at the border.",
    ),
)
INPUTS = (
    "guide", "label_map", "fixed_points", "moving_points", "point_uncertainty", "exact_points", "features",
    "feature_card", "rigid", "sliding",
)  # fmt: skip
NAMES = (*INPUTS[:2], "label_weight", *INPUTS[2:])


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
