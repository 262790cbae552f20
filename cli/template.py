"""pdd-template: make an unbiased template of a group of scans."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click
from itk_pdd.cli import _cohort
from itk_pdd.cli._console import COUNT, RESUMABLE, SETTINGS, file, option, running

from itk_pdd._version import __version__


@click.command(context_settings=SETTINGS)
@click.argument("scans", nargs=-1, required=True)
@file("-o", "--output", "FOLDER", "Folder for the results.", required=True)
@option("--iterations", "N", "Deformable rounds, after two affine ones.", type=COUNT, default=4)
@_cohort.MODEL
@_cohort.SMOOTHNESS
@_cohort.SPACING
@_cohort.where_to_register
@_cohort.QUIET
@click.version_option(__version__, prog_name="pdd-template")
def main(scans: tuple[str, ...], output: Path, quiet: bool, **options: Any) -> None:
    """Make an unbiased template of SCANS: their mean shape, and their intensities averaged robustly.

    SCANS is a folder of images, a pattern, a CSV file with the columns image and, if you like, name and labels, or
    several files. Give the same command again after an interruption: it goes on.

    Writes template.nii.gz, template_labels.nii.gz (where there are labels), jacobian_mean.nii.gz and jacobian_sd.nii.gz
    (of the logarithm: 0 is no change of volume), sharpness.csv, rounds/ with the average and a picture of each round,
    and scans/NAME/ with from_template.nii.gz and to_template.nii.gz, the transforms of each scan.

    \b
    Examples:
      pdd-template scans/ -o template/
      pdd-template scans.csv -o template/ --iterations 6

    \b
    Exit codes:
      0 done    1 a scan failed, or an input cannot be used    2 wrong usage
      3 a result cannot be written    130 interrupted    143, 129 ended by SIGTERM, SIGHUP
    """
    place = {name: options.pop(name) for name in _cohort.WHERE}
    with running(stopped=RESUMABLE):
        from itk_pdd.cohort.template import make_template

        told = (lambda text: None) if quiet else partial(click.echo, err=True)
        given = scans[0] if len(scans) == 1 else scans
        with _cohort.batch_progress(quiet) as progress:
            options |= {"place": _cohort.place_of(place), "progress": progress, "told": told}
            found = make_template(given, output, **options)
    if not quiet:
        overlap = "" if found.dice is None else f", mean Dice of the group {found.dice:.3f}"
        click.echo(f"{found.path}: sharpness {list(found.sharpness.values())[-1]:.4f}{overlap}")
    _cohort.end_with(found.failed)


if __name__ == "__main__":
    main()
