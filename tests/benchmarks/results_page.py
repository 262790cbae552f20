"""The tables of examples/results.md, from the folders that compare_all.py writes.

    python tests/benchmarks/results_page.py results [--data abdomen hippocampus lung] [--copy examples/results]
        [--plot examples/results.png]

Prints, for each data set, a row per method: means over the pairs of what ``summary.csv`` holds, and for the first
measure the corrected p of its test against the first method. --copy puts the rows of whole pairs of ``results.csv``
there.
"""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path

MEASURES = {
    "dice": ("Dice", "{:.3f}"),
    "tre_mean": ("error mm", "{:.2f}"),
    "hd95": ("HD95 mm", "{:.1f}"),
    "folding": ("folded %", "{:.2g}"),
    "sd_log_j3": ("SD log(J + 3)", "{:.3f}"),
    "cpu_seconds": ("processor s", "{:.3g}"),
    "memory_gib": ("GiB", "{:.1f}"),
}
"""Columns of the tables, where there is such a measure."""


def table(folder: Path) -> list[str]:
    """Lines of a Markdown table of one comparison."""
    with (folder / "summary.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if not row["label"].isdigit()]
    cells = {(row["method"], row["label"], row["measure"]): row for row in rows}
    with (folder / "results.csv").open(newline="") as file:
        runs = list(csv.DictReader(file))
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
                line.append(f"{float(first['p_holm']):.2g}" if first.get("p_holm") else "")
                line += [_shown(cells.get((method, group, name)), name) for group in groups if name == "dice"]
        lines.append(f"| {' | '.join(line)} |")
    return lines


def _shown(row: dict[str, str] | None, measure: str) -> str:
    if row is None or not row["mean"] or not math.isfinite(float(row["mean"])):
        return ""
    return MEASURES[measure][1].format(float(row["mean"]))


def copy(folder: Path, target: Path) -> None:
    """The rows of whole pairs and of groups of labels, so that the tables can be checked without a new run."""
    with (folder / "results.csv").open(newline="") as file:
        rows = csv.DictReader(file)
        kept = [row for row in rows if not row["label"].isdigit()]
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows.fieldnames or ()), lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)


def draw(results: Path, names: list[str], target: Path) -> None:
    """Overlap of each pair, and mean overlap against time and roughness, of the data sets with labels."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = {name: _pairs(results / name) for name in names}
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


def _pairs(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["label"] == "all"]


def _mean(rows: list[dict[str, str]], measure: str) -> float:
    return sum(float(row[measure]) for row in rows) / len(rows)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="folder that compare_all.py wrote")
    parser.add_argument("--data", nargs="+", default=["abdomen", "hippocampus", "lung"], help="data sets")
    parser.add_argument("--copy", type=Path, help="folder for results.csv of each data set without single labels")
    parser.add_argument("--plot", type=Path, help="PNG file with boxes of the overlap, and overlap against time")
    options = parser.parse_args()
    for name in options.data:
        print(f"## {name}\n", *table(options.results / name), sep="\n", end="\n\n")
        if options.copy:
            copy(options.results / name, options.copy / f"{name}.csv")
    if options.plot:
        draw(options.results, options.data, options.plot)


if __name__ == "__main__":
    main()
