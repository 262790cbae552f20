"""pdd-batch: register the pairs of a cohort on the workers of a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from itk_pdd.cli import _cohort
from itk_pdd.cli._console import PATH, POSITIVE, RESUMABLE, SETTINGS, file, flag, names, option, running

from itk_pdd._version import __version__
from itk_pdd.errors import counted

OUTPUTS = ("field", "warped", "labels", "transform", "inverse", "uncertainty", "report")


def _chunk(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    first, slash, count = value.partition("/")
    if not (slash and first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)):
        raise click.BadParameter(f"expected I/N with I from 1 to N, such as 3/20, found {value!r}.")
    return int(first), int(count)


@click.command(context_settings=SETTINGS)
@click.argument("pairs", type=PATH, required=False)
@file("-o", "--output", "FOLDER", "Folder for the results.", required=True)
@file("--fixed", "IMAGE", "One fixed image for all --moving images or for --bids.")
@option("--moving", "PATTERN", "The moving images: 'scans/*.nii.gz', in quotes.")
@file("--bids", "FOLDER", "The images of a BIDS folder, to --fixed, or each session to the first one of its subject.")
@option("--suffix", "NAME", "Kind of the images of --bids.", default="T1w")
@option(
    "--outputs",
    "NAME,...",
    f"What to write for each pair: {', '.join(OUTPUTS)}.",
    callback=names,
    default="field,warped,labels",
)
@_cohort.MODEL
@_cohort.INITIALISE
@_cohort.SMOOTHNESS
@_cohort.SPACING
@option("--device", "NAME", "auto, cpu, cuda or cuda:1.", default="auto")
@flag("--force", "Use a trained model even on images that it is not made for.")
@_cohort.where_to_register
@option("--chunk", "I/N", "Register part I of N of the list alone, in a job array.", callback=_chunk)
@option("--time-limit", "SECONDS", "End a registration that takes longer.", type=POSITIVE)
@flag("--no-report", "Write no report.html.")
@_cohort.QUIET
@click.version_option(__version__, prog_name="pdd-batch")
def main(pairs: Path | None, output: Path, quiet: bool, **options: Any) -> None:
    """Register the pairs of a list, start again where it stopped, and report on all of them.

    PAIRS is a CSV file with the columns fixed and moving and, if you like, name, fixed_mask, moving_mask,
    initial_transform, moving_labels (warped too), fixed_labels, fixed_points, moving_points (measured) and model; paths
    are relative to it. Instead of it give --fixed and --moving, or --bids.

    The pairs are registered by worker processes of this machine, of a Dask scheduler, or of a queueing system. What is
    done is not done again: give the same command again after an interruption. A pair that cannot be registered is
    reported, and the others go on.

    Writes a folder for each pair (field.nii.gz, warped.nii.gz, ...), records/NAME.json, summary.csv and report.html,
    which shows every pair, the worst first.

    \b
    Examples:
      pdd-batch pairs.csv -o out/
      pdd-batch --fixed atlas.nii.gz --moving 'scans/*.nii.gz' --initialise affine -o out/
      pdd-batch pairs.csv -o out/ --chunk $SLURM_ARRAY_TASK_ID/100

    \b
    Exit codes:
      0 all pairs are done    1 a pair failed, or an input cannot be used    2 wrong usage
      3 a result cannot be written    130 interrupted    143, 129 ended by SIGTERM, SIGHUP
    """
    sources = [
        name
        for name, value in (("PAIRS", pairs), ("--moving", options["moving"]), ("--bids", options["bids"]))
        if value
    ]
    if len(sources) != 1:
        raise click.UsageError(f"Give one of PAIRS, --moving and --bids, found {' and '.join(sources) or 'none'}.")
    if options["moving"] and not options["fixed"]:
        raise click.UsageError("--moving needs --fixed.")
    if pairs is not None and options["fixed"]:
        raise click.UsageError("--fixed has no meaning with PAIRS, which has a column of that name: leave it out.")
    with running(stopped=RESUMABLE):
        from itk_pdd.cohort.batch import register_batch

        with _cohort.batch_progress(quiet) as progress:
            found = register_batch(pairs, output, report=not options.pop("no_report"), progress=progress, **options)
    if not quiet:
        words = [f"{counted(len(found.records) - len(found.failed), 'pair')} done ({found.made} of them now)"]
        words += [f"{len(found.failed)} failed"] * bool(found.failed) + [f"{found.waiting} waiting"] * bool(
            found.waiting
        )
        click.echo(f"{', '.join(words)}: {output / 'summary.csv'}")
    _cohort.end_with(found.failed)


if __name__ == "__main__":
    main()
