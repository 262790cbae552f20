"""The report of a comparison: summary, charts, one page per pair with the viewer, and how it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from itk_pdd.evaluation.compare import Run
from itk_pdd.evaluation.datasets import Pair
from itk_pdd.evaluation.methods import INITIAL
from itk_pdd.evaluation.tables import ALL, label_order
from itk_pdd.io.outputs import write_all
from itk_pdd.report import charts, page
from itk_pdd.report.assets import Assets
from itk_pdd.report.selection import pictures_of

__all__ = ["comparison_page", "write_comparison_report"]

MEASURES = {
    "dice": ("Dice", "", "{:.3f}", True),
    "hd95": ("HD95", " mm", "{:.2f}", False),
    "asd": ("ASD", " mm", "{:.2f}", False),
    "tre_mean": ("TRE", " mm", "{:.2f}", False),
    "folding": ("Folding", " %", "{:.3f}", False),
    "sd_log_j3": ("SD log(J + 3)", "", "{:.3f}", False),
    "inverse_mean": ("Inverse error", " mm", "{:.2f}", False),
    "ncc": ("NCC", "", "{:.3f}", True),
    "mi": ("MI", "", "{:.3f}", True),
    "seconds": ("Time", " s", "{:.1f}", False),
    "memory_gib": ("Memory", " GiB", "{:.2f}", False),
}
"""Measures on the page: name, unit, format, whether more is better."""


def comparison_page(
    pairs: Sequence[tuple[str, Pair]],
    results: Sequence[tuple[Run, Mapping[str, Any]]],
    table: Sequence[Mapping[str, Any]],
    summary: Sequence[Mapping[str, Any]],
    folder: Path,
    *,
    megabytes: float = 60.0,
    title: str = "Comparison of registration methods",
) -> str:
    """The HTML page of a comparison.

    Parameters
    ----------
    pairs : sequence of (str, Pair)
        The pairs with their names.
    results : sequence of (Run, dict)
        What :func:`itk_pdd.evaluation.compare.compare` returned.
    table, summary : sequence of mapping
        What :func:`itk_pdd.evaluation.tables.rows` and :func:`itk_pdd.evaluation.tables.summary` returned.
    folder : pathlib.Path
        Folder of the results, with the views of the runs.
    megabytes : float, default 60
        About how large the page may become; a larger page shows more pairs, and finer images.
    title : str
        Title of the page.

    Returns
    -------
    str
        A whole HTML page.
    """
    methods = list(dict.fromkeys(run.method for run, _ in results))
    assets = Assets()
    described, unshown = pictures_of(pairs, results, folder, assets, megabytes, _ranking(table, methods))
    shown = {pair["name"]: pair["id"] for pair in described}
    content = [
        '<section data-page="summary">',
        _summary_table(summary, table, methods),
        _trade_off(summary, methods),
        _boxes(table, methods),
        "</section>",
        f'<section data-page="pairs" hidden>{_pair_list([name for name, _ in pairs], table, methods, shown)}</section>',
        *[_pair_page(name, identity, table, methods, unshown) for name, identity in shown.items()],
        f'<section data-page="problems" hidden>{_problems(table)}</section>',
        f'<section data-page="methods" hidden>{_methods(folder)}</section>',
    ]
    problems = sum(row["status"] != "ok" for row in table)
    chooser = "".join(f'<option value="{identity}">{escape(name)}</option>' for name, identity in shown.items())
    navigation = (
        '<a href="#summary">Summary</a><a href="#pairs">Pairs</a>'
        f'<a href="#problems">Problems ({problems})</a><a href="#methods">Methods</a>'
        f'<select id="pair-chooser" aria-label="Open a pair"><option value="">Open a pair …</option>{chooser}</select>'
    )
    subtitle = f"{len(pairs)} pair{'s' * (len(pairs) != 1)}, {len(methods)} methods"
    return page.fill(
        title=title, subtitle=subtitle, content="\n".join(content), assets=assets, pairs=described,
        navigation=navigation,
    )  # fmt: skip


def write_comparison_report(path: Path, *arguments: Any, **options: Any) -> None:
    """Write the page of a comparison to a file, whole or not at all; parameters as :func:`comparison_page`.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    write_all([(page.target(path), page.writer(comparison_page(*arguments, **options)))])


# ---- Summary --------------------------------------------------------------------------------------------------------


def _means(summary: Sequence[Mapping[str, Any]], label: str = ALL) -> dict[tuple[str, str], Mapping[str, Any]]:
    return {(row["method"], row["measure"]): row for row in summary if row["label"] == label}


def _best(cells: Mapping[str, float], more: bool) -> float | None:
    known = [v for v in cells.values() if np.isfinite(v)]
    return (max if more else min)(known) if len(known) > 1 else None


def _summary_table(
    summary: Sequence[Mapping[str, Any]], table: Sequence[Mapping[str, Any]], methods: Sequence[str]
) -> str:
    cells = _means(summary)
    measures = [m for m in MEASURES if any((method, m) in cells for method in methods)]
    best = {
        m: _best({n: cells[n, m]["mean"] for n in methods if (n, m) in cells and n != INITIAL}, MEASURES[m][3])
        for m in measures
    }
    rows = []
    for method in methods:
        row: list[Any] = [method]
        for measure in measures:
            found = cells.get((method, measure))
            row.append(("", None, "") if found is None else _mean_cell(measure, found, best[measure], method))
        rows.append([*row, str(sum(r["method"] == method and r["status"] == "failed" for r in table))])
    reference = next((m for m in methods if m != INITIAL), "")
    header = ["Method", *map(_heading, measures), "Failed"]
    caption = (
        "Mean over the pairs ± standard deviation, below it the 95 % confidence interval of the mean. Best in bold. "
        f"* marks a difference from {reference} with p < 0.05 (Wilcoxon signed-rank test, corrected by Holm)."
    )
    groups = sorted({row["label"] for row in summary if not row["label"].isdigit()} - {ALL})
    extra = [_group_line(summary, name, methods) for name in groups]
    return f"<h2>Summary</h2>{page.html_table(header, rows, caption=caption)}{''.join(extra)}"


def _colours(methods: Sequence[str]) -> dict[str, str]:
    """One colour for each method in all charts; what was there before has none."""
    others = [method for method in methods if method != INITIAL]
    cycle = {method: charts.COLOURS[i % len(charts.COLOURS)] for i, method in enumerate(others)}
    return {INITIAL: "#8C8C8C", **cycle}


def _heading(measure: str) -> str:
    name, unit = MEASURES[measure][:2]
    return f"{name} ({unit.strip()})" if unit else name


def _mean_cell(measure: str, found: Mapping[str, Any], best: float | None, method: str) -> tuple[str, float, str]:
    style = MEASURES[measure][2]
    text = style.format(found["mean"])
    star = "*" if (p := found.get("p_holm")) is not None and p < 0.05 and method != INITIAL else ""
    spread = f" ± {style.format(found['sd'])}" if np.isfinite(found["sd"]) else ""
    interval = ""
    if np.isfinite(found["ci_low"]):
        interval = f"<br><small>{style.format(found['ci_low'])}–{style.format(found['ci_high'])}</small>"
    winner = best is not None and method != INITIAL and text == style.format(best)
    return f"{text}{star}<small>{spread}</small>{interval}", found["mean"], "best" if winner else ""


def _group_line(summary: Sequence[Mapping[str, Any]], group: str, methods: Sequence[str]) -> str:
    cells = _means(summary, group)
    measures = [m for m in ("dice", "hd95", "asd") if any((n, m) in cells for n in methods)]
    rows = [
        [n, *[_mean_cell(m, cells[n, m], None, n) if (n, m) in cells else ("", None, "") for m in measures]]
        for n in methods
    ]
    return f"<h3>Group {escape(group)}</h3>" + page.html_table(["Method", *map(_heading, measures)], rows)


def _trade_off(summary: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> str:
    cells = _means(summary)
    measure = next((m for m in ("dice", "tre_mean", "mi") if any((n, m) in cells for n in methods)), None)
    points = {}
    for name in methods:
        quality, time = cells.get((name, measure)), cells.get((name, "seconds"))
        if quality is not None and time is not None and time["mean"] > 0:
            points[name] = {
                "x": time["mean"],
                "y": quality["mean"],
                "low": quality["ci_low"],
                "high": quality["ci_high"],
            }
    if not points:
        return ""
    name, unit = MEASURES[measure][:2]
    svg = charts.scatter(
        f"{name} against time", points, colours=_colours(methods), across="seconds per pair", along=f"{name}{unit}"
    )
    note = "Mean over the pairs, with the 95 % confidence interval. Time is that of the whole process of one pair."
    return f'<h2>Quality and time</h2><p class="note">{note}</p><figure class="chart">{svg}</figure>'


def _boxes(table: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> str:
    parts, colours = [], _colours(methods)
    labels = sorted({row["label"] for row in table if row["status"] == "ok"}, key=label_order)
    for measure in ("dice", "hd95", "tre_mean", "folding"):
        drawn = []
        shown = labels if measure in ("dice", "hd95") else [ALL]
        by_label = {label: _values(table, measure, label, methods) for label in shown}
        known = [v for rows in by_label.values() for values in rows.values() for v in values if np.isfinite(v)]
        if not known:
            continue
        name, unit = MEASURES[measure][:2]
        # What all charts of a measure have in common can be compared.
        lowest, highest = np.floor(10 * min(known)) / 10, np.ceil(10 * max(known)) / 10
        limits = (lowest, highest) if measure == "dice" else (0.0, float(np.percentile(known, 99)) or 1.0)
        limits = (limits[0], max(limits[1], max(known)) if measure in ("tre_mean", "folding") else limits[1])
        for label, rows in by_label.items():
            if any(np.isfinite(v) for values in rows.values() for v in values):
                what = "mean over the labels" if label == ALL and measure in ("dice", "hd95") else ""
                what = what or (f"label {label}" if label.isdigit() else "" if label == ALL else label)
                title = f"{name}, {what}" if what else f"{name} of the pairs"
                inside = {m: [min(v, limits[1]) for v in values] for m, values in rows.items()}
                drawn.append(
                    f"<figure>{charts.box_plot(title, inside, limits=limits, colours=colours, unit=unit)}</figure>"
                )
        parts.append(f'<details{" open" if measure == "dice" or not parts else ""}><summary>{name} per label</summary>'
                     f'<div class="charts">{"".join(drawn)}</div></details>')  # fmt: skip
    note = (
        "One dot per pair. Box: quartiles and median (also at the right); whiskers: last value within 1.5 box lengths. "
        "HD95 beyond the 99th percentile of all values is drawn at the border."
    )
    return f'<h2>Distributions</h2><p class="note">{note}</p>{"".join(parts)}' if parts else ""


def _values(
    table: Sequence[Mapping[str, Any]], measure: str, label: str, methods: Sequence[str]
) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {method: [] for method in methods}
    for row in table:
        if row["label"] == label and row["status"] == "ok" and row.get(measure) is not None:
            found[row["method"]].append(float(row[measure]))
    return found


# ---- Pairs ----------------------------------------------------------------------------------------------------------


def _rows_of(table: Sequence[Mapping[str, Any]], pair: str) -> dict[str, Mapping[str, Any]]:
    return {row["method"]: row for row in table if row["pair"] == pair and row["label"] == ALL}


def _pair_list(
    names: Sequence[str], table: Sequence[Mapping[str, Any]], methods: Sequence[str], shown: Mapping[str, str]
) -> str:
    known = [m for m in ("dice", "tre_mean", "mi") if any(row.get(m) is not None for row in table)]
    measure = known[0] if known else "seconds"
    style = MEASURES[measure][2]
    rows = []
    for name in names:
        found = _rows_of(table, name)
        link = f'<a href="#{shown[name]}">{escape(name)}</a>' if name in shown else escape(name)
        row: list[Any] = [(link, None, "")]
        for method in methods:
            value = found.get(method, {}).get(measure)
            text = found.get(method, {}).get("status", "") if value is None else style.format(value)
            row.append((escape(text), value, ""))
        rows.append(row)
    left = len(names) - len(shown)
    note = (
        f"{left} of the pairs have no page: their pictures were not kept, or would make this file too large "
        "(--report-size); those that have one range from the worst to the best."
        if left
        else ""
    )
    caption = f"{MEASURES[measure][0]}{MEASURES[measure][1]} of each pair. Open a pair to look at it."
    return f'<h2>Pairs</h2><p class="note">{note}</p>{page.html_table(["Pair", *methods], rows, caption=caption)}'


def _pair_page(
    name: str, identity: str, table: Sequence[Mapping[str, Any]], methods: Sequence[str], unshown: Mapping[str, str]
) -> str:
    found = _rows_of(table, name)
    measures = [m for m in MEASURES if any(row.get(m) is not None for row in found.values())]
    rows = []
    for method in methods:
        row = found.get(method, {})
        cells = [
            ("", None, "") if row.get(m) is None else (MEASURES[m][2].format(row[m]), float(row[m]), "")
            for m in measures
        ]
        rows.append([method, *cells, row.get("reason") or ""])
    header = ["Method", *map(_heading, measures), ""]
    missing = f'<p class="note">{escape(unshown[name])}</p>' if name in unshown else ""
    return (
        f'<section data-page="{identity}" hidden><h2>{escape(name)}</h2>{missing}<div data-viewer="{identity}"></div>'
        f"{page.html_table(header, rows, text=(0, len(header) - 1))}</section>"
    )


def _ranking(table: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> dict[str, float]:
    """How well each pair went with the first method that registers, to choose pairs of all kinds."""
    first = next((m for m in methods if m != INITIAL), INITIAL)
    ranking = {}
    for row in table:
        if row["method"] == first and row["label"] == ALL and row["status"] == "ok":
            known = [s * row[m] for m, s in (("dice", 1), ("tre_mean", -1), ("mi", 1)) if row.get(m) is not None]
            ranking[row["pair"]] = float(known[0]) if known else 0.0
    return ranking


# ---- Problems and methods -------------------------------------------------------------------------------------------


def _problems(table: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (row["pair"], row["method"], "" if row["label"] == ALL else row["label"], row["status"], row["reason"])
        for row in table
        if row["status"] != "ok"
    ]
    if not rows:
        return '<h2>Problems</h2><p class="note">Every method registered every pair.</p>'
    note = "A failed run counts in no mean. Labels that only one of the images has are not scored."
    header = ("Pair", "Method", "Label", "Status", "Why")
    return f'<h2>Problems</h2><p class="note">{note}</p>{page.html_table(header, rows, text=range(5))}'


def _methods(folder: Path) -> str:
    about = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    machine, rules = about["machine"], about["rules"]
    facts = [
        ("itk_pdd", about["version"]),
        ("Machine", f"{machine['processor']}, {machine['cores']} cores"),
        ("System", f"{machine['system']}, Python {machine['python']}"),
        ("Threads of each registration", rules["threads"]),
        ("Registrations at a time", about["jobs"]),
        ("Limits", f"{rules['time_limit'] or 'no'} s, {rules['memory_limit'] or 'no'} GiB"),
        ("Intensities", "clamped to {:g} to {:g}".format(*rules["clamp"]) if rules["clamp"] else "as they are"),
        ("Start", "centres of the grids on each other" if rules["start"] == "centre" else "physical coordinates"),
    ]  # fmt: skip
    parts = ["<h2>Methods</h2>", page.html_table(("What", "Value"), [(a, str(b)) for a, b in facts], text=(0, 1))]
    for method in about["methods"]:
        settings = escape(json.dumps(method["settings"], indent=2, ensure_ascii=False))
        words = escape(" ".join(method["command"]))
        name = f"{escape(method['name'])} <small>{escape(method['version'])}</small>"
        problem = f'<p class="note">{escape(method["problem"])}</p>' if method["problem"] else ""
        command = f"<pre>{words}</pre>" if words else ""
        content = f"<pre>{settings}</pre>" if method["settings"] else ""
        parts.append(f"<details><summary>{name}</summary>{problem}{command}{content}</details>")
    return "".join(parts)
