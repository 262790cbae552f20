"""pdd-segment: segment an image by several labelled atlases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from itk_pdd.cli import _cohort
from itk_pdd.cli._console import COUNT, PATH, RESUMABLE, SETTINGS, STOPPED, file, option, running

from itk_pdd._version import __version__


@click.command(context_settings=SETTINGS)
@click.argument("image", type=PATH)
@file("--atlases", "CSV", "List of atlases: columns image, labels and, if wanted, name.", required=True)
@file("-o", "--output", "LABELS", "The label image, on the grid of IMAGE.", required=True)
@file("--probabilities", "IMAGE", "Probability of each label, one component per label, 0 first.")
@file("--entropy", "IMAGE", "Entropy of the labels in nats; larger is less certain.")
@option("--count", "N", "Use the N most similar atlases.  [default: all]", type=COUNT)
@_cohort.INITIALISE
@_cohort.MODEL
@_cohort.SMOOTHNESS
@_cohort.SPACING
@file("--folder", "FOLDER", "Keep the registrations here; an interrupted command goes on from them.")
@_cohort.where_to_register
@_cohort.QUIET
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
    place, message = {name: options.pop(name) for name in _cohort.WHERE}, RESUMABLE if options["folder"] else STOPPED
    with running(stopped=message):
        from itk_pdd.cohort.segment import segment_files

        with _cohort.batch_progress(quiet) as progress:
            found = segment_files(image, place=_cohort.place_of(place), progress=progress, **options)
    for name, reason in found.left.items():
        click.echo(f"{name} is left out: {reason}.", err=True)
    if not quiet:
        atlases = f"{len(found.used)} atlas{'es' * (len(found.used) != 1)}"
        click.echo(f"{options['output']}: labels {', '.join(map(str, found.fused.values))} of {atlases}")


if __name__ == "__main__":
    main()
