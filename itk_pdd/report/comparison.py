"""Make the report of a comparison: summary, charts, a section per pair with the viewer, methods and machine."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from itk_pdd.evaluation.compare import Run
from itk_pdd.evaluation.datasets import Pair
from itk_pdd.evaluation.methods import INITIAL
from itk_pdd.evaluation.tables import ALL, few_pairs, label_order
from itk_pdd.evaluation.verdict import FAILED, GOOD
from itk_pdd.report import charts
from itk_pdd.report.assets import Assets
from itk_pdd.report.page import LAMPS, LIGHTS, Cell, Table, fill, write_page
from itk_pdd.report.selection import pictures_of

__all__ = ["comparison_page", "write_comparison_report"]

Rows = Sequence[Mapping[str, Any]]
Cells = Mapping[tuple[str, str], Mapping[str, Any]]

MEASURES = {
    "dice": ("Dice", "", "{:.3f}", True),
    "hd95": ("HD95", " mm", "{:.2f}", False),
    "asd": ("ASD", " mm", "{:.2f}", False),
    "tre_mean": ("TRE", " mm", "{:.2f}", False),
    "folding": ("Folding", " %", "{:.3f}", False),
    "sd_log_j3": ("SD log(J + 3)", "", "{:.3f}", False),
    "inverse_mean": ("Inverse error", " mm", "{:.2f}", False),
    "outline": ("Outline", "", "{:.3f}", True),
    "bones": ("Bones", "", "{:.3f}", True),
    "body": ("Body", "", "{:.3f}", True),
    "unlabelled": ("Unlabelled", "", "{:.3f}", True),
    "ncc": ("NCC", "", "{:.3f}", True),
    "mi": ("MI", "", "{:.3f}", True),
    "seconds": ("Time", " s", "{:.1f}", False),
    "memory_gib": ("Memory", " GiB", "{:.2f}", False),
}
"""Measures on the page: name, unit, format, True if more is better."""
PARTS = {
    "Structures and field": ("dice", "hd95", "asd", "tre_mean", "folding", "sd_log_j3", "inverse_mean"),
    "Whole image": ("outline", "bones", "body", "unlabelled", "ncc", "mi"),
    "Cost": ("seconds", "memory_gib"),
}
"""Tables of the summary, each narrow enough for a page."""


def comparison_page(
    pairs: Sequence[tuple[str, Pair]],
    results: Sequence[tuple[Run, Mapping[str, Any]]],
    table: Rows,
    summary: Rows,
    folder: Path,
    *,
    megabytes: float = 60.0,
    title: str = "Comparison of registration methods",
) -> str:
    """Make the HTML page of a comparison.

    Parameters
    ----------
    pairs, results
        The pairs with their names, and what :func:`itk_pdd.evaluation.compare.compare` returned.
    table, summary
        What :func:`itk_pdd.evaluation.tables.rows` and :func:`itk_pdd.evaluation.tables.summary` returned.
    folder : pathlib.Path
        Folder of the results, with the views of the runs.
    megabytes : float
        About how large the page may become; a larger value shows more pairs, and finer images.
    """
    methods = list(dict.fromkeys(run.method for run, _ in results))
    assets = Assets()
    described, unshown = pictures_of(pairs, results, folder, assets, megabytes, _ranking(table, methods))
    shown = {pair["name"]: pair["id"] for pair in described}
    about = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    cells = _means(summary)
    groups = sorted({row["label"] for row in summary if not row["label"].isdigit()} - {ALL})
    return fill(
        "comparison.html",
        title=title,
        subtitle=f"{len(pairs)} pair{'s' * (len(pairs) != 1)}, {len(methods)} methods",
        assets=assets,
        pictures=described,
        summary=_summary_tables(cells, table, methods),
        caption=_summary_caption(cells, methods),
        groups={name: _group_table(_means(summary, name), methods) for name in groups},
        trade_off=_trade_off(summary, methods),
        boxes=_boxes(table, methods),
        pairs=_pair_table([name for name, _ in pairs], table, methods, shown),
        left=len(pairs) - len(shown),
        shown=[
            {"name": name, "id": identity, "note": unshown.get(name, ""), "tables": _pair_tables(name, table, methods)}
            for name, identity in shown.items()
        ],
        problems=_problems(table),
        facts=_facts(about),
        methods=[
            {**m, "settings_text": json.dumps(m["settings"], indent=2, ensure_ascii=False)} for m in about["methods"]
        ],
    )


def write_comparison_report(path: Path, *arguments: Any, **options: Any) -> None:
    """Write the page of a comparison to a file, whole or not at all; parameters as :func:`comparison_page`."""
    write_page(path, comparison_page(*arguments, **options))


# ---- Summary --------------------------------------------------------------------------------------------------------


def _means(summary: Rows, label: str = ALL) -> dict[tuple[str, str], Mapping[str, Any]]:
    return {(row["method"], row["measure"]): row for row in summary if row["label"] == label}


def _measured(measures: Iterable[str], cells: Cells, methods: Sequence[str]) -> list[str]:
    """Keep the measures of which some method has a value."""
    return [measure for measure in measures if any((method, measure) in cells for method in methods)]


def _summary_tables(cells: Cells, table: Rows, methods: Sequence[str]) -> dict[str, Table]:
    """Make a table for each of ``PARTS`` of which something was measured; the first one counts failures."""
    tables = {}
    for name, part in PARTS.items():
        measures = _measured(part, cells, methods)
        best = {
            m: _best([cells[n, m]["mean"] for n in methods if (n, m) in cells and n != INITIAL], m) for m in measures
        }
        counted = {"Suspect": ("verdict", FAILED), "Failed": ("status", "failed")} if not tables else {}
        rows: list[list[str | Cell]] = [
            [
                method,
                *(_mean_cell(m, cells.get((method, m)), best[m]) for m in measures),
                *(
                    str(sum(row["method"] == method and row.get(column) == word for row in table))
                    for column, word in counted.values()
                ),
            ]
            for method in methods
        ]
        if measures or counted:
            tables[name] = Table(["Method", *map(_heading, measures), *counted], rows)
    return tables


def _summary_caption(cells: Cells, methods: Sequence[str]) -> str:
    reference = next((m for m in methods if m != INITIAL), "")
    caption = (
        "Mean over the pairs ± standard deviation, below it the 95 % confidence interval of the mean. Best in bold. "
        f"* marks a difference from {reference} with p < 0.05 (Wilcoxon signed-rank test, corrected by Holm). "
        "Suspect are results whose verdict is that they probably failed."
    )
    few = few_pairs(cells.values())
    return f"{caption} {few}" if few else caption


def _group_table(cells: Cells, methods: Sequence[str]) -> Table:
    measures = _measured(("dice", "hd95", "asd"), cells, methods)
    rows = [[method, *(_mean_cell(m, cells.get((method, m)), None) for m in measures)] for method in methods]
    return Table(["Method", *map(_heading, measures)], rows)


def _best(values: Sequence[float], measure: str) -> float | None:
    known = [value for value in values if np.isfinite(value)]
    return (max if MEASURES[measure][3] else min)(known) if len(known) > 1 else None


def _colours(methods: Sequence[str]) -> dict[str, str]:
    """One colour for each method in all charts; grey for the row before registration."""
    others = [method for method in methods if method != INITIAL]
    return {INITIAL: "#8C8C8C", **{m: charts.COLOURS[i % len(charts.COLOURS)] for i, m in enumerate(others)}}


def _heading(measure: str) -> str:
    name, unit = MEASURES[measure][:2]
    return f"{name} ({unit.strip()})" if unit else name


def _mean_cell(measure: str, found: Mapping[str, Any] | None, best: float | None) -> Cell:
    if found is None:
        return Cell()
    style = MEASURES[measure][2].format
    text = style(found["mean"])
    registered = found["method"] != INITIAL
    p = found.get("p_holm")
    interval = [style(found[end]) for end in ("ci_low", "ci_high") if np.isfinite(found[end])]
    return Cell(
        text + "*" * (registered and p is not None and p < 0.05),
        found["mean"],
        "best" if registered and best is not None and text == style(best) else "",
        f" ± {style(found['sd'])}" if np.isfinite(found["sd"]) else "",
        "–".join(interval),
    )


def _trade_off(summary: Rows, methods: Sequence[str]) -> Any:
    cells = _means(summary)
    measure = next(iter(_measured(("dice", "tre_mean", "mi"), cells, methods)), None)
    points = {}
    for name in methods:
        quality, time = cells.get((name, measure or "")), cells.get((name, "seconds"))
        if quality is not None and time is not None and time["mean"] > 0:
            ends = {"low": quality["ci_low"], "high": quality["ci_high"]}
            points[name] = {"x": time["mean"], "y": quality["mean"], **ends}
    if measure is None or not points:
        return ""
    name, unit = MEASURES[measure][:2]
    options = {"colours": _colours(methods), "across": "seconds per pair", "along": f"{name}{unit}"}
    return charts.scatter(f"{name} against time", points, **options)


def _boxes(table: Rows, methods: Sequence[str]) -> list[dict[str, Any]]:
    """For each measure its name and a chart per label."""
    parts: list[dict[str, Any]] = []
    labels = sorted({row["label"] for row in table if row["status"] == "ok"}, key=label_order)
    for measure in ("dice", "hd95", "tre_mean", "folding"):
        by_label_too = measure in ("dice", "hd95")
        by_label = {n: _values(table, measure, n, methods) for n in (labels if by_label_too else [ALL])}
        known = [v for rows in by_label.values() for values in rows.values() for v in values if np.isfinite(v)]
        if not known:
            continue
        name, unit = MEASURES[measure][:2]
        # One axis for all charts of a measure, so that they can be compared.
        limits = (0.0, max(known))
        if measure == "dice":
            limits = (np.floor(10 * min(known)) / 10, np.ceil(10 * max(known)) / 10)
        elif measure == "hd95":
            limits = (0.0, float(np.percentile(known, 99)) or 1.0)
        drawn = []
        for label, rows in by_label.items():
            if any(np.isfinite(v) for values in rows.values() for v in values):
                what = f"label {label}" if label.isdigit() else label
                if label == ALL:
                    what = "mean over the labels" if by_label_too else ""
                inside = {method: [min(v, limits[1]) for v in values] for method, values in rows.items()}
                title = f"{name}, {what}" if what else f"{name} of the pairs"
                drawn.append(charts.box_plot(title, inside, limits=limits, colours=_colours(methods), unit=unit))
        parts.append({"name": name, "open": measure == "dice" or not parts, "charts": drawn})
    return parts


def _values(table: Rows, measure: str, label: str, methods: Sequence[str]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {method: [] for method in methods}
    for row in table:
        if row["label"] == label and row["status"] == "ok" and row.get(measure) is not None:
            found[row["method"]].append(float(row[measure]))
    return found


# ---- Pairs, problems and methods ------------------------------------------------------------------------------------


def _rows_of(table: Rows, pair: str) -> dict[str, Mapping[str, Any]]:
    return {row["method"]: row for row in table if row["pair"] == pair and row["label"] == ALL}


def _value_cell(measure: str, value: Any, otherwise: str = "") -> Cell:
    return Cell(otherwise) if value is None else Cell(MEASURES[measure][2].format(value), float(value))


def _pair_table(names: Sequence[str], table: Rows, methods: Sequence[str], shown: Mapping[str, str]) -> Table:
    known = [m for m in ("dice", "tre_mean", "mi") if any(row.get(m) is not None for row in table)]
    measure = known[0] if known else "seconds"
    rows: list[list[str | Cell]] = []
    for name in names:
        found = _rows_of(table, name)
        of_methods = [found.get(method, {}) for method in methods]
        cells = [_value_cell(measure, row.get(measure), row.get("status", "")) for row in of_methods]
        cells = [_judged(cell, row) for cell, row in zip(cells, of_methods, strict=True)]
        rows.append([Cell(name, link=shown.get(name, "")), *cells])
    caption = (
        f"{MEASURES[measure][0]}{MEASURES[measure][1]} of each pair. Open a pair to look at it. ▲ marks what to look "
        "at, ■ what has probably failed."
    )
    return Table(["Pair", *methods], rows, caption)


def _judged(cell: Cell, row: Mapping[str, Any]) -> Cell:
    """Mark a cell by the verdict on its registration, unless that is good."""
    word = row.get("verdict") or GOOD
    return cell if word == GOOD else replace(cell, kind=LIGHTS[word], beside=f" {LAMPS[word][0]}")


def _pair_tables(name: str, table: Rows, methods: Sequence[str]) -> tuple[Table, Table]:
    """Tabulate the verdict on each method's registration of a pair, and its measures."""
    found = _rows_of(table, name)
    measures = [m for m in MEASURES if any(row.get(m) is not None for row in found.values())]
    rows: list[list[str | Cell]] = []
    words: list[list[str | Cell]] = []
    for method in methods:
        row = found.get(method, {})
        word, why = row.get("verdict"), row.get("reason") or row.get("why") or ""
        rows.append([method, *(_value_cell(m, row.get(m)) for m in measures)])
        if word is not None or why:
            lamp = Cell(row.get("status", "")) if word is None else Cell(f"{LAMPS[word][0]} {word}", kind=LIGHTS[word])
            words.append([method, lamp, why])
    return Table(("Method", "Verdict", "Why"), words, words=range(3)), Table(["Method", *map(_heading, measures)], rows)


def _ranking(table: Rows, methods: Sequence[str]) -> dict[str, float]:
    """Score each pair by the first method that registers, to choose pairs from the worst to the best."""
    first = next((m for m in methods if m != INITIAL), INITIAL)
    ranking = {}
    for row in table:
        if row["method"] == first and row["label"] == ALL and row["status"] == "ok":
            known = [s * row[m] for m, s in (("dice", 1), ("tre_mean", -1), ("mi", 1)) if row.get(m) is not None]
            ranking[row["pair"]] = float(known[0]) if known else 0.0
    return ranking


def _problems(table: Rows) -> Table:
    rows = [
        (row["pair"], row["method"], "" if row["label"] == ALL else row["label"], row["status"], row["reason"])
        for row in table
        if row["status"] != "ok"
    ]
    return Table(("Pair", "Method", "Label", "Status", "Why"), rows, words=range(5))


def _facts(about: Mapping[str, Any]) -> Table:
    machine, rules = about["machine"], about["rules"]
    facts = {
        "itk_pdd": about["version"],
        "Machine": f"{machine['processor']}, {machine['cores']} cores",
        "System": f"{machine['system']}, Python {machine['python']}",
        "Threads of each registration": str(rules["threads"]),
        "Registrations at a time": str(about["jobs"]),
        "Limits": f"{_limit(rules['time_limit'], 's', 'time')}, {_limit(rules['memory_limit'], 'GiB', 'memory')}",
        "Intensities": "clamped to {:g} to {:g}".format(*rules["clamp"]) if rules["clamp"] else "as they are",
        "Start": "centres of the grids on each other" if rules["start"] == "centre" else "as the images lie",
    }
    return Table(("What", "Value"), list(facts.items()), words=(0, 1))


def _limit(value: float | None, unit: str, what: str) -> str:
    return f"{value:g} {unit}" if value else f"no limit of {what}"
