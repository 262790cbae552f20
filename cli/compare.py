"""pdd-compare: register a list of pairs by several methods and compare the results."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from itk_pdd._version import __version__

PATH = click.Path(path_type=Path)


def _groups(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, list[int]]:
    groups = {}
    for value in values:
        name, separator, members = value.partition("=")
        try:
            groups[name.strip()] = [int(n) for n in members.split(",")]
        except ValueError:
            separator = ""
        if not separator or not name.strip() or name.strip().isdigit() or name.strip() == "all":
            raise click.BadParameter(f"expected NAME=LABEL,LABEL,... such as large=1,2,3,6,7, found {value!r}.")
    return groups


def _show_methods(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if not value or context.resilient_parsing:
        return
    from itk_pdd.evaluation.methods import available

    for name, about in available().items():
        click.echo(f"{name:17s} {about}")
    context.exit()


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("pairs", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, metavar="FOLDER", help="Folder for the results.")
@click.option(
    "--methods",
    default="pdd",
    show_default=True,
    metavar="NAME,...",
    help="Methods, separated by commas; the others are tested against the first.",
)
@click.option(
    "--command",
    "commands",
    multiple=True,
    metavar="TEMPLATE",
    help="Any other program: 'mytool {fixed} {moving} -o {field}', or 'NAME=mytool ...' to name it. It has to write "
    "a field of LPS millimetres; {fixed_mask}, {moving_mask}, {threads} and {folder} can be asked for too.",
)
@click.option(
    "--list-methods",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_methods,
    help="List the methods and stop.",
)
@click.option("--settings", metavar="FOLDER", help="Settings of the methods: a folder, or a preset of the package.")
@click.option("--clamp", nargs=2, type=float, metavar="LOW HIGH", help="Clamp the intensities for all methods.")
@click.option(
    "--start",
    type=click.Choice(["none", "centre"]),
    default="none",
    show_default=True,
    help="centre: shift the moving image so that the centres of both grids coincide, for all methods.",
)
@click.option(
    "--group",
    "groups",
    multiple=True,
    callback=_groups,
    metavar="NAME=LABEL,...",
    help="Also report the mean over these labels.",
)
@click.option("--inverse-consistency", is_flag=True, help="Also register the swapped pairs and compare both fields.")
@click.option("--fields", is_flag=True, help="Keep the displacement fields.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Registrations at a time.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of each.")
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Longest time of one registration.",
)
@click.option(
    "--memory-limit",
    type=click.FloatRange(min=0, min_open=True),
    metavar="GIB",
    help="Most memory of one registration.",
)
@click.option("--retry-failed", is_flag=True, help="Do again what failed before.")
@click.option("--no-report", is_flag=True, help="Write the tables only, and keep no pictures.")
@click.option(
    "--report-size",
    type=click.FloatRange(min=1),
    default=60.0,
    show_default=True,
    metavar="MB",
    help="About how large report.html may become: a larger one shows more pairs, and finer images.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the bootstrap.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
@click.version_option(__version__, prog_name="pdd-compare")
def main(
    pairs: Path,
    output: Path,
    methods: str,
    commands: tuple[str, ...],
    groups: dict[str, list[int]],
    settings: str | None,
    quiet: bool,
    seed: int,
    **options: Any,
) -> None:
    """Register PAIRS by several methods under one set of rules and compare the results.

    PAIRS is a CSV file with the columns fixed and moving and, if you like, fixed_labels, moving_labels, fixed_points,
    moving_points, fixed_mask and moving_mask; paths are relative to it. Every registration runs in a process of its
    own. What is done is not done again: start an interrupted comparison again with the same command. A method that
    fails is a row that says why.

    Writes results.csv (a row per pair, method and label), summary.csv (mean, SD, median, confidence interval and
    paired test of each measure), report.html (both with charts, and a viewer of the images of each pair, in one file),
    comparison.json (what was run where), runs/, views/ and logs/.
    """
    from itk_pdd.cli._console import INTERRUPTED, RESUMABLE, exit_codes
    from itk_pdd.cli._interrupt import interruptible

    try:
        with interruptible(INTERRUPTED, RESUMABLE), exit_codes(RESUMABLE):
            _compare(pairs, output, methods, commands, groups, settings, quiet, seed, **options)
    except OSError as error:
        raise click.ClickException(f"{error.filename or output}: {error.strerror or error}") from None


def _compare(
    pairs: Path,
    output: Path,
    methods: str,
    commands: tuple[str, ...],
    groups: dict[str, list[int]],
    settings: str | None,
    quiet: bool,
    seed: int,
    **options: Any,
) -> None:
    from itk_pdd.evaluation.compare import compare, pair_names
    from itk_pdd.evaluation.datasets import read_pairs
    from itk_pdd.evaluation.methods import candidates
    from itk_pdd.evaluation.run import Rules
    from itk_pdd.evaluation.tables import SUMMARY_COLUMNS, rows, summary, write_csv
    from itk_pdd.report.comparison import write_comparison_report

    clamp = options.pop("clamp")
    if clamp is not None and not clamp[0] < clamp[1]:
        raise click.BadParameter(
            f"expected the lower value first, found {clamp[0]:g} {clamp[1]:g}.", param_hint="--clamp"
        )
    rules = Rules(
        clamp=clamp, **{name: options.pop(name) for name in ("start", "threads", "time_limit", "memory_limit")}
    )
    names = [name.strip() for name in methods.split(",") if name.strip()]
    listed = read_pairs(pairs)
    chosen = candidates(names, commands, settings=settings)

    def progress(done: int, total: int, run: Any, result: Any) -> None:
        text = result["reason"] if result["status"] != "ok" else _line(result)
        click.echo(f"[{done}/{total}] {run.pair} {run.method}: {text}", err=True)

    logging.captureWarnings(True)
    report, megabytes = not options.pop("no_report"), options.pop("report_size")
    results = compare(
        listed, chosen, output, rules=rules, views=report, progress=None if quiet else progress, **options
    )
    table = rows(results, groups=groups)
    write_csv(table, output / "results.csv")
    summarised = summary(table, seed=seed)
    write_csv(summarised, output / "summary.csv", SUMMARY_COLUMNS)
    if report:
        named = list(zip(pair_names(listed), listed, strict=True))
        write_comparison_report(output / "report.html", named, results, table, summarised, output, megabytes=megabytes)
    if not quiet:
        _show(summarised, {run.method: None for run, _ in results}, table)


def _line(result: Any) -> str:
    dice = [values["dice"] for values in result["labels"].values()]
    words = [f"Dice {sum(dice) / len(dice):.3f}"] if dice else []
    if "tre_mean" in result["overall"]:
        words.append(f"TRE {result['overall']['tre_mean']:.2f} mm")
    words.append(f"folded {result['overall']['folding']:.3g} %")
    if "seconds" in result:
        words.append(f"{result['seconds']:.1f} s, {result['memory'] / 2**30:.2f} GiB")
    return ", ".join(words)


def _show(summarised: list[dict[str, Any]], methods: dict[str, None], table: list[dict[str, Any]]) -> None:
    """Print the means over all labels, a line per method."""
    wanted = ("dice", "hd95", "tre_mean", "folding", "sd_log_j3", "seconds", "memory_gib")
    means = {(row["method"], row["measure"]): row["mean"] for row in summarised if row["label"] == "all"}
    shown = [measure for measure in wanted if any((method, measure) in means for method in methods)]
    click.echo(f"{'method':17s}" + "".join(f"{measure:>12s}" for measure in shown) + f"{'failed':>8s}")
    for method in methods:
        cells = [means.get((method, measure)) for measure in shown]
        failures = sum(row["method"] == method and row["status"] == "failed" for row in table)
        words = ["" if cell is None else f"{round(cell, 6):.4g}" for cell in cells]
        click.echo(f"{method:17s}" + "".join(f"{word:>12s}" for word in words) + f"{failures:8d}")


if __name__ == "__main__":
    main()
