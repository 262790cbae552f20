"""Compare registration methods on a list of pairs: register, measure, and write the tables and the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itk_pdd.evaluation.compare import Run, compare, pair_names
from itk_pdd.evaluation.datasets import read_pairs
from itk_pdd.evaluation.methods import INITIAL, candidates
from itk_pdd.evaluation.run import Rules
from itk_pdd.evaluation.tables import ALL, SUMMARY_COLUMNS, few_pairs, rows, summary, write_csv
from itk_pdd.evaluation.verdict import FAILED, GOOD
from itk_pdd.report.comparison import write_comparison_report

__all__ = ["Comparison", "compare_files"]

_SHOWN = ("dice", "hd95", "tre_mean", "folding", "sd_log_j3", "seconds", "memory_gib")


@dataclass(frozen=True)
class Comparison:
    """Outcome of a comparison."""

    table: str  # means over all labels, one line per method
    problems: list[str]  # one sentence for each pair that could not be used, and one if every registration failed


def compare_files(
    pairs: Path,
    output: Path,
    *,
    methods: Sequence[str],
    templates: Sequence[str] = (),
    settings: str | None = None,
    groups: Mapping[str, Sequence[int]] | None = None,
    rules: Rules | None = None,
    report: bool = True,
    megabytes: float = 60.0,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> Comparison:
    """Register the pairs of a CSV file by several methods; write tables and a report into a folder.

    Parameters
    ----------
    pairs, output : path
        The list, as :func:`itk_pdd.evaluation.datasets.read_pairs` reads it, and the folder, made if needed.
    methods, templates, settings
        As for :func:`itk_pdd.evaluation.methods.candidates`.
    groups : mapping, optional
        Names of groups of labels with their members, for means over them.
    report, megabytes : bool, float
        Write ``report.html``, and keep the pictures it shows; about how large it may become.
    seed : int
        Seed of the bootstrap.
    progress : callable, optional
        Called with one line of text after each registration.
    rules, **options
        As for :func:`itk_pdd.evaluation.compare.compare`.
    """
    listed, chosen = read_pairs(pairs), candidates(methods, templates, settings=settings)

    def tell(done: int, total: int, run: Run, result: Mapping[str, Any]) -> None:
        text = result["reason"] if result["status"] != "ok" else _line(result)
        if progress is not None:
            progress(f"[{done}/{total}] {run.pair} {run.method}: {text}")

    program = "itk_pdd.commands.comparison_run"
    results = compare(listed, chosen, output, rules=rules, views=report, program=program, progress=tell, **options)
    table = rows(results, groups=groups)
    write_csv(table, output / "results.csv")
    summarised = summary(table, seed=seed)
    write_csv(summarised, output / "summary.csv", SUMMARY_COLUMNS)
    if report:
        named = list(zip(pair_names(listed), listed, strict=True))
        write_comparison_report(output / "report.html", named, results, table, summarised, output, megabytes=megabytes)
    return Comparison(_text_table(summarised, table), _problems(results))


def _problems(results: Sequence[tuple[Run, Mapping[str, Any]]]) -> list[str]:
    skipped = {run.pair: f"pair {run.pair} was skipped: {run.problem}" for run, _ in results if run.skipped}
    registered = [result["status"] for run, result in results if run.method != INITIAL]
    failed = registered and "ok" not in registered
    return [*skipped.values(), *["every registration failed: results.csv says why"] * bool(failed)]


def _line(result: Mapping[str, Any]) -> str:
    """Describe a finished registration in one line."""
    dice = [values["dice"] for values in result["labels"].values()]
    words = [f"Dice {sum(dice) / len(dice):.3f}"] if dice else []
    if "tre_mean" in result["overall"]:
        words.append(f"TRE {result['overall']['tre_mean']:.2f} mm")
    words.append(f"folded {result['overall']['folding']:.3g} %")
    if "seconds" in result:
        words.append(f"{result['seconds']:.1f} s, {result['memory'] / 2**30:.2f} GiB")
    verdict = result.get("verdict", {})
    if verdict.get("word", GOOD) != GOOD:
        words.append(f"{verdict['word']}: {'; '.join(verdict['reasons'])}")
    return ", ".join(words)


def _text_table(summarised: Sequence[Mapping[str, Any]], table: Sequence[Mapping[str, Any]]) -> str:
    """Format the means over all labels, a line per method."""
    cells = {(row["method"], row["measure"]): row for row in summarised if row["label"] == ALL}
    methods = list(dict.fromkeys(row["method"] for row in table))
    shown = [measure for measure in _SHOWN if any((method, measure) in cells for method in methods)]
    lines = [f"{'method':17s}" + "".join(f"{measure:>12s}" for measure in shown) + f"{'suspect':>9s}{'failed':>8s}"]
    for method in methods:
        known = [cells.get((method, measure)) for measure in shown]
        words = ["" if cell is None else f"{round(cell['mean'], 6):.4g}" for cell in known]
        suspects = sum(row["method"] == method and row.get("verdict") == FAILED for row in table)
        failures = sum(row["method"] == method and row["status"] == "failed" for row in table)
        lines.append(f"{method:17s}" + "".join(f"{word:>12s}" for word in words) + f"{suspects:9d}{failures:8d}")
    few = few_pairs(cells.values())
    return "\n".join([*lines, *[few] * bool(few)])
