"""pdd-segment: segment an image by several labelled atlases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from itk_pdd.cli._cohort import (
    INITIALISE,
    MODEL,
    QUIET,
    SMOOTHNESS,
    SPACING,
    WHERE,
    batch_progress,
    place_of,
    where_to_register,
)
from itk_pdd.cli._console import COUNT, PATH, SETTINGS

from itk_pdd._version import __version__


@click.command(context_settings=SETTINGS)
@click.argument("image", type=PATH)
@click.option(
    "--atlases",
    type=PATH,
    required=True,
    metavar="CSV",
    help="List of atlases: columns image, labels and, if wanted, name.",
)
@click.option(
    "-o", "--output", type=PATH, required=True, metavar="LABELS", help="The label image, on the grid of IMAGE."
)
@click.option(
    "--probabilities", type=PATH, metavar="IMAGE", help="Probability of each label, one component per label, 0 first."
)
@click.option("--entropy", type=PATH, metavar="IMAGE", help="Entropy of the labels in nats; larger is less certain.")
@click.option("--count", type=COUNT, metavar="N", help="Use the N most similar atlases.  [default: all]")
@INITIALISE
@MODEL
@SMOOTHNESS
@SPACING
@click.option(
    "--folder",
    type=PATH,
    metavar="FOLDER",
    help="Keep the registrations here; an interrupted command goes on from them.",
)
@where_to_register
@QUIET
@click.version_option(__version__, prog_name="pdd-segment")
def main(image: Path, quiet: bool, **options: Any) -> None:
    """Segment IMAGE: register labelled atlases to it and fuse their labels.

    At each voxel the atlases count by their similarity to IMAGE around it (joint label fusion), and each votes by
    probabilities: the borders of its labels are blurred by the calibrated uncertainty of its registration. Atlases
    whose registration has probably failed are left out, and named.

    \b
    Examples:
      pdd-segment image.nii.gz --atlases atlases.csv -o labels.nii.gz --entropy entropy.nii.gz
      pdd-segment image.nii.gz --atlases atlases.csv --count 8 --initialise affine -o labels.nii.gz

    \b
    Exit codes:
      0 done    1 no atlas or another input can be used    2 wrong usage
      3 a result cannot be written    130 interrupted    143, 129 ended by SIGTERM, SIGHUP
    """
    from itk_pdd.cli._console import INTERRUPTED, RESUMABLE, STOPPED, exit_codes, logging_to_stderr
    from itk_pdd.cli._interrupt import interruptible

    place, message = {name: options.pop(name) for name in WHERE}, RESUMABLE if options["folder"] else STOPPED
    with interruptible(INTERRUPTED, message), exit_codes(message), logging_to_stderr(0):
        from itk_pdd.cohort.segment import segment_files

        with batch_progress(quiet) as progress:
            found = segment_files(image, place=place_of(place), progress=progress, **options)
    for name, reason in found.left.items():
        click.echo(f"{name} is left out: {reason}.", err=True)
    if not quiet:
        atlases = f"{len(found.used)} atlas{'es' * (len(found.used) != 1)}"
        click.echo(f"{options['output']}: labels {', '.join(map(str, found.fused.values))} of {atlases}")


if __name__ == "__main__":
    main()
