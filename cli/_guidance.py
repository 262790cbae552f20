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
)
NAMES = ("guide", "label_map", "label_weight")
INPUTS = ("guide", "label_map")


def guidance_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def check_guidance(arguments: dict[str, Any]) -> None:
    """Refuse combinations that make no sense."""
    if arguments["guide"] is None:
        if arguments["label_map"] is not None:
            raise click.UsageError("--label-map is about labels that guide: give --guide, too.")
    elif arguments["fixed_labels"] is None or arguments["moving_labels"] is None:
        raise click.UsageError("--guide is about labels of both images: give --fixed-labels and --moving-labels.")
    elif arguments["stages"] != "all":
        raise click.UsageError("--guide has no meaning with --stages affine: leave one of them out.")
