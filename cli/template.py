"""pdd-template: make an unbiased template of a group of scans."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click
from itk_pdd.cli._cohort import MODEL, QUIET, SMOOTHNESS, SPACING, WHERE, batch_progress, place_of, where_to_register
from itk_pdd.cli._console import COUNT, PATH, SETTINGS

from itk_pdd._version import __version__


@click.command(context_settings=SETTINGS)
@click.argument("scans", nargs=-1, required=True)
@click.option("-o", "--output", type=PATH, required=True, metavar="FOLDER", help="Folder for the results.")
@click.option(
    "--iterations",
    type=COUNT,
    default=4,
    show_default=True,
    metavar="N",
    help="Deformable rounds, after two affine ones.",
)
@MODEL
@SMOOTHNESS
@SPACING
@where_to_register
@QUIET
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
    from itk_pdd.cli._console import FAILED, INTERRUPTED, RESUMABLE, exit_codes, logging_to_stderr
    from itk_pdd.cli._interrupt import interruptible

    place = {name: options.pop(name) for name in WHERE}
    with interruptible(INTERRUPTED, RESUMABLE), exit_codes(RESUMABLE), logging_to_stderr(0):
        from itk_pdd.cohort.template import make_template

        told = (lambda text: None) if quiet else partial(click.echo, err=True)
        with batch_progress(quiet) as progress:
            found = make_template(
                scans[0] if len(scans) == 1 else scans, output, place=place_of(place), progress=progress, told=told,
                **options,
            )  # fmt: skip
    if not quiet:
        overlap = "" if found.dice is None else f", mean Dice of the group {found.dice:.3f}"
        click.echo(f"{found.path}: sharpness {list(found.sharpness.values())[-1]:.4f}{overlap}")
    for name, reason in found.failed.items():
        click.echo(f"Error: {name}: {reason}.", err=True)
    if found.failed:
        click.get_current_context().exit(FAILED)


if __name__ == "__main__":
    main()
