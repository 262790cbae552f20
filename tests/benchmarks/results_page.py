"""The tables of docs/results.md, from the folders that compare_all.py writes.

    python tests/benchmarks/results_page.py results [--data abdomen hippocampus lung] [--copy docs/results]
        [--plot docs/images/results.png] [--earlier docs/results]

Prints, for each data set, a row per method: means over the pairs of ``results.csv``, and for the first measure the
corrected p of its test against the first method. Methods that were not run again are taken from --earlier, what --copy
wrote another time: the rows of whole pairs.
"""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path
from typing import Any

import compare_all

from itk_pdd.evaluation import tables

MEASURES = {
    "dice": ("Dice", "{:.3f}"),
    "tre_mean": ("error mm", "{:.2f}"),
    "hd95": ("HD95 mm", "{:.1f}"),
    "outline": ("outline", "{:.3f}"),
    "bones": ("bones", "{:.3f}"),
    "body": ("body", "{:.3f}"),
    "unlabelled": ("unlabelled", "{:.3f}"),
    "folding": ("folded %", "{:.2g}"),
    "sd_log_j3": ("SD log(J + 3)", "{:.3f}"),
    "cpu_seconds": ("processor s", "{:.3g}"),
    "memory_gib": ("GiB", "{:.1f}"),
}
"""Columns of the tables, where there is such a measure."""


def rows_of(results: Path, name: str, earlier: Path | None = None) -> list[dict[str, str]]:
    """Rows of whole pairs and groups of labels of a comparison, the methods in the order of compare_all.py."""
    path = results / name / "results.csv"
    rows = _read(path) if path.exists() else []
    kept = earlier / f"{name}.csv" if earlier else None
    if not rows and not (kept and kept.exists()):
        raise SystemExit(f"there are no results of {name}: no file {path}")
    if kept and kept.exists():
        known = {row["method"] for row in rows}
        rows += [row for row in _read(kept) if row["method"] not in known]
    order = ["initial", *compare_all.METHODS.split(",")]
    # Programs that joined come last, as they are.
    return sorted(rows, key=lambda row: order.index(row["method"]) if row["method"] in order else len(order))


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if not row["label"].isdigit()]


def table(runs: list[dict[str, str]]) -> list[str]:
    """Lines of a Markdown table of one comparison."""
    rows = tables.summary([{key: value or None for key, value in row.items()} for row in runs])
    cells = {(row["method"], row["label"], row["measure"]): row for row in rows}
    methods = list(dict.fromkeys(row["method"] for row in runs))
    groups = [label for label in dict.fromkeys(row["label"] for row in rows) if label != "all"]
    measures = [name for name in MEASURES if any(row["measure"] == name for row in rows)]
    columns = ["method", "pairs"]
    for name in measures:
        columns.append(MEASURES[name][0])
        if name == measures[0]:
            columns += ["p", *(f"{group}, {MEASURES[name][0]}" for group in groups if name == "dice")]
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for method in methods:
        first = cells.get((method, "all", measures[0]), {})
        failed = sum(row["method"] == method and row["status"] == "failed" for row in runs)
        line = [method, str(first.get("n", 0)) + (f" ({failed} failed)" if failed else "")]
        for name in measures:
            line.append(_shown(cells.get((method, "all", name)), name))
            if name == measures[0]:
                line.append(f"{first['p_holm']:.2g}" if math.isfinite(first.get("p_holm", math.nan)) else "")
                line += [_shown(cells.get((method, group, name)), name) for group in groups if name == "dice"]
        lines.append(f"| {' | '.join(line)} |")
    return lines


def _shown(row: dict[str, Any] | None, measure: str) -> str:
    return "" if row is None else MEASURES[measure][1].format(row["mean"])


def draw(data: dict[str, list[dict[str, str]]], target: Path) -> None:
    """Overlap of each pair, and mean overlap against time and roughness, of the data sets with labels."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = {name: [row for row in rows if row["label"] == "all"] for name, rows in data.items()}
    shown = {name: rows for name, rows in shown.items() if any(row["dice"] for row in rows)}
    marks: dict[str, tuple[str, str]] = {}
    for method in (row["method"] for rows in shown.values() for row in rows):
        marks.setdefault(method, (f"C{len(marks) % 10}", "os^vD<>ph*X"[len(marks) % 11]))
    figure, axes = pyplot.subplots(len(shown), 3, figsize=(13, 4 * len(shown)), layout="constrained", squeeze=False)
    for (name, rows), (boxes, times, rough) in zip(shown.items(), axes, strict=True):
        methods = [m for m in dict.fromkeys(row["method"] for row in rows) if m != "initial"]
        of = {m: [row for row in rows if row["method"] == m and row["dice"]] for m in methods}
        methods = sorted((m for m in methods if of[m]), key=lambda m: _mean(of[m], "dice"))
        boxes.boxplot([[float(row["dice"]) for row in of[m]] for m in methods], orientation="horizontal")
        boxes.set(yticklabels=methods, xlabel="Dice of each pair", title=name)
        for method in methods:
            dice, (color, marker) = _mean(of[method], "dice"), marks[method]
            for axis, measure in ((times, "cpu_seconds"), (rough, "sd_log_j3")):
                axis.plot(_mean(of[method], measure), dice, marker, color=color, label=method)
        times.set(xscale="log", xlabel="processor seconds", ylabel="mean Dice")
        rough.set(xscale="log", xlabel="SD of log(J + 3): smooth left, rough right", ylabel="mean Dice")
        for axis, ticks in ((times, (1, 3, 10, 30, 100, 300)), (rough, (0.03, 0.1, 0.3, 1))):
            low, high = axis.get_xlim()
            axis.set_xticks([tick for tick in ticks if low <= tick <= high])
            axis.xaxis.set_major_formatter("{x:g}")
            axis.minorticks_off()
        rough.legend(fontsize=7)
    figure.savefig(target, dpi=80)


def _mean(rows: list[dict[str, str]], measure: str) -> float:
    return sum(float(row[measure]) for row in rows) / len(rows)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="folder that compare_all.py wrote")
    parser.add_argument("--data", nargs="+", default=["abdomen", "hippocampus", "lung"], help="data sets")
    parser.add_argument("--copy", type=Path, help="folder for the rows of each data set without single labels")
    parser.add_argument("--earlier", type=Path, help="such a folder, for methods that were not run again")
    parser.add_argument("--plot", type=Path, help="PNG file with boxes of the overlap, and overlap against time")
    options = parser.parse_args()
    data = {name: rows_of(options.results, name, options.earlier) for name in options.data}
    for name, rows in data.items():
        print(f"## {name}\n", *table(rows), sep="\n", end="\n\n")
        if options.copy:
            options.copy.mkdir(parents=True, exist_ok=True)
            tables.write_csv(rows, options.copy / f"{name}.csv")
    if options.plot:
        draw(data, options.plot)


if __name__ == "__main__":
    main()
