"""pdd-compare: register a list of pairs by several methods and compare the results."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import click
from itk_pdd.cli import _console
from itk_pdd.cli._console import COUNT, PATH, POSITIVE, SETTINGS, Number, choice, file, flag, names, option

from itk_pdd._version import __version__


def _groups(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for value in values:
        name, _, members = (part.strip() for part in value.partition("="))
        if name in groups:
            raise click.BadParameter(f"the name {name!r} is given twice.")
        try:
            groups[name] = [int(n) for n in members.split(",")]
        except ValueError:
            name = ""
        if not name or name.isdigit() or name == "all":
            raise click.BadParameter(f"expected NAME=LABEL,LABEL,... such as large=1,2,3,6,7, found {value!r}.")
    return groups


def _show_methods(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if not value or context.resilient_parsing:
        return
    from itk_pdd.evaluation.methods import available

    for name, about in available().items():
        click.echo(f"{name:17s} {about}")
    context.exit()


@click.command(context_settings=SETTINGS)
@click.argument("pairs", type=PATH)
@file("-o", "--output", "FOLDER", "Folder for the results.", required=True)
@option(
    "--methods",
    "NAME,...",
    "Methods, separated by commas; the others are tested against the first.",
    callback=names,
    default="pdd",
)
@option(
    "--command",
    "commands",
    "TEMPLATE",
    "Any other program: 'mytool {fixed} {moving} -o {field}', or 'NAME=mytool ...' to name it. It has to write "
    "a field of LPS millimetres; {fixed_mask}, {fixed_labels}, {fixed_points}, those of the moving image, {threads} "
    "and {folder} can be asked for, too.",
    multiple=True,
)
@flag("--list-methods", "List the methods and stop.", is_eager=True, expose_value=False, callback=_show_methods)
@option("--settings", "FOLDER", "Settings of the methods: a folder, or a preset of the package.")
@option("--clamp", "LOW HIGH", "Clamp the intensities for all methods.", nargs=2, type=float)
@choice(
    "--start",
    ["none", "centre"],
    "centre: shift the moving image so that the centres of both grids coincide, for all methods.",
    default="none",
)
@option(
    "--group", "groups", "NAME=LABEL,...", "Also report the mean over these labels.", multiple=True, callback=_groups
)
@flag("--inverse-consistency", "Also register the swapped pairs and compare both fields.")
@flag("--fields", "Keep the displacement fields.")
@click.option("--jobs", type=COUNT, default=1, show_default=True, help="Registrations at a time.")
@click.option("--threads", type=COUNT, default=1, show_default=True, help="Threads of each.")
@option("--time-limit", "SECONDS", "Longest time of one registration.", type=POSITIVE)
@option("--memory-limit", "GIB", "Most memory of one registration.", type=POSITIVE)
@flag("--retry-failed", "Do again what failed before.")
@flag("--no-report", "Write the tables only, and keep no pictures.")
@option(
    "--report-size",
    "MB",
    "About how large report.html may become: a larger one shows more pairs, and finer images.",
    type=Number(min=1),
    default=60.0,
)
@option("--seed", "N", "Seed of the bootstrap.", type=int, default=0)
@flag("-q", "--quiet", "Say nothing but errors.")
@click.version_option(__version__, prog_name="pdd-compare")
def main(pairs: Path, output: Path, quiet: bool, **options: Any) -> None:
    """Register PAIRS by several methods under one set of rules and compare the results.

    PAIRS is a CSV file with the columns fixed and moving and, if you like, fixed_labels, moving_labels, fixed_points,
    moving_points, fixed_mask and moving_mask; paths are relative to it. Points are files as pdd-transform reads them,
    or one CSV file for both images with the columns fixed_x, fixed_y, fixed_z, moving_x, moving_y, moving_z. Every
    registration runs in a process of its own. What is done is not done again: start an interrupted comparison again
    with the same command. A method that fails is a row that says why.

    Writes results.csv (a row per pair, method and label), summary.csv (mean, SD, median, confidence interval and
    paired test of each measure, the last two from 5 pairs on), report.html (both with charts, and a viewer of the
    images of each pair, in one file), comparison.json (what was run where), runs/, views/ and logs/.

    \b
    Exit codes:
      0 done    1 a pair or another input cannot be used, or every registration failed    2 wrong usage
      3 a result cannot be written    130 interrupted    143, 129 ended by SIGTERM, SIGHUP
    """
    from itk_pdd.cli._interrupt import interruptible

    clamp = options["clamp"]
    if clamp is not None and not clamp[0] < clamp[1]:
        raise click.BadParameter(
            f"expected the lower value first, found {clamp[0]:g} {clamp[1]:g}.", param_hint="--clamp"
        )
    try:
        with interruptible(_console.INTERRUPTED, _console.RESUMABLE), _console.exit_codes(_console.RESUMABLE):
            from itk_pdd.commands.compare import compare_files
            from itk_pdd.evaluation.run import Rules

            logging.captureWarnings(True)
            names = ("clamp", "start", "threads", "time_limit", "memory_limit")
            found = compare_files(
                pairs,
                output,
                rules=Rules(**{name: options.pop(name) for name in names}),
                templates=options.pop("commands"),
                report=not options.pop("no_report"),
                megabytes=options.pop("report_size"),
                progress=None if quiet else partial(click.echo, err=True),
                **options,
            )
    except OSError as error:
        raise click.ClickException(f"{error.filename or output}: {error.strerror or error}") from None
    if not quiet:
        click.echo(found.table)
    for problem in found.problems:
        click.echo(f"Error: {problem}.", err=True)
    if found.problems:
        click.get_current_context().exit(_console.FAILED)


if __name__ == "__main__":
    main()
