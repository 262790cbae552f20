"""Make the tables of a comparison: one row per pair, method and label, and a summary with tests."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from itk_pdd.evaluation import whole_image
from itk_pdd.evaluation.compare import Run
from itk_pdd.evaluation.methods import INITIAL
from itk_pdd.evaluation.statistics import holm, summarise, wilcoxon
from itk_pdd.io.outputs import whole_file

__all__ = ["ALL", "LABEL_MEASURES", "PAIR_MEASURES", "few_pairs", "label_order", "rows", "summary", "write_csv"]

LEAST_PAIRS = 5
"""Fewer values than this give no confidence interval and no p value: the smallest two-sided p of 4 pairs is 0.125."""

ALL = "all"
"""Name of the row of a pair that holds the means over its labels and the measures without labels."""

LABEL_MEASURES = ("dice", "jaccard", "hd95", "asd")
_OVERALL = (
    *("tre_mean", "tre_median", "tre_p90", "folding", "sd_log_j3", "sd_log_j", "inverse_mean", "inverse_p95"),
    *(*whole_image.MEASURES, "ncc", "mi"),
)
PAIR_MEASURES = (*_OVERALL, "seconds", "cpu_seconds", "memory_gib")
"""Measures of a pair as a whole."""

COLUMNS = ("pair", "method", "label", "status", "reason", "verdict", "why", *LABEL_MEASURES, *PAIR_MEASURES)


def rows(
    results: Iterable[tuple[Run, Mapping[str, Any]]], *, groups: Mapping[str, Sequence[int]] | None = None
) -> list[dict[str, Any]]:
    """Make the rows of ``results.csv``: per pair and method one per label and per group of labels, and one for ``all``.

    The row ``all`` holds the means over the labels of the pair and the measures of the pair as a whole. Labels that are
    absent from one of the images have a row that says so, and are in no mean. A label that is lost in warping counts as
    Dice 0 and has no surface distance. A run that failed is one row. ``groups`` are labels by the name of their mean.
    """
    table = []
    for run, result in results:
        base = {"pair": run.pair, "method": run.method, "status": result["status"], "reason": result["reason"]}
        if result["status"] != "ok":
            table.append({**base, "label": ALL, **_measured(result)})
            continue
        by_label = {int(label): values for label, values in result["labels"].items()}
        for label, values in sorted(by_label.items()):
            table.append({**base, "label": str(label), **{m: values.get(m) for m in LABEL_MEASURES}})
        for label, side in sorted(result["absent"].items(), key=lambda item: int(item[0])):
            reason = f"label {label} is absent from the {side} image"
            table.append({**base, "label": str(label), "status": "skipped", "reason": reason})
        for name, members in (groups or {}).items():
            chosen = [by_label[n] for n in members if n in by_label]
            if by_label:
                table.append({**base, "label": name, **_means(chosen)})
        pair_values = {measure: result["overall"].get(measure) for measure in _OVERALL}
        table.append({**base, "label": ALL, **_means(list(by_label.values())), **pair_values, **_measured(result)})
    return table


def _measured(result: Mapping[str, Any]) -> dict[str, Any]:
    memory, verdict = result.get("memory"), result.get("verdict", {})
    return {
        "seconds": result.get("seconds"),
        "cpu_seconds": result.get("cpu_seconds"),
        "verdict": verdict.get("word"),
        "why": "; ".join(verdict.get("reasons", ())),
        "memory_gib": None if memory is None else memory / 2**30,
    }


def _means(values: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    means = {}
    for measure in LABEL_MEASURES:
        known = [v[measure] for v in values if v.get(measure) is not None]
        means[measure] = float(np.mean(known)) if known else None
    return means


def summary(table: Sequence[Mapping[str, Any]], *, seed: int = 0) -> list[dict[str, Any]]:
    """Make the rows of ``summary.csv``: for each method, label and measure the mean over the pairs and the test.

    ``p`` is the Wilcoxon signed-rank test against the first method that registers, on the pairs both have a value of;
    ``difference`` is the mean difference from it there. ``p_holm`` is corrected by Holm's method within one measure:
    over the methods for ``all`` and the groups each, over methods and labels for single labels. A failed run counts in
    ``failed`` and in no mean. Fewer than ``LEAST_PAIRS`` values give no interval, fewer differences no ``p``. ``seed``
    is that of the bootstrap.
    """
    methods = list(dict.fromkeys(row["method"] for row in table))
    reference = next((m for m in methods if m != INITIAL), None)
    pairs = list(dict.fromkeys(row["pair"] for row in table))
    labels = sorted({row["label"] for row in table}, key=label_order)
    failures = {m: sum(row["method"] == m and row["status"] == "failed" for row in table) for m in methods}
    cells = {(row["method"], row["label"], row["pair"]): row for row in table}
    result = []
    for label in labels:
        for measure in (*LABEL_MEASURES, *PAIR_MEASURES):
            values = {
                method: np.array([_number(cells.get((method, label, pair), {}), measure) for pair in pairs])
                for method in methods
            }
            for method in methods:
                if not np.isfinite(values[method]).any():
                    continue
                found = summarise(values[method], seed=seed)
                row = {
                    "method": method,
                    "label": label,
                    "measure": measure,
                    "failed": failures[method],
                    **asdict(found),
                }
                if found.n < LEAST_PAIRS:
                    row |= {"ci_low": float("nan"), "ci_high": float("nan")}
                if method != reference:
                    differences = values[method] - values[reference] if reference else np.empty(0)
                    differences = differences[np.isfinite(differences)]
                    row["difference"] = float(differences.mean()) if differences.size else None
                    enough = differences.size >= LEAST_PAIRS
                    row["p"] = wilcoxon(differences, np.zeros_like(differences)) if enough else float("nan")
                result.append(row)
    families: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in result:
        family = "labels" if row["label"].isdigit() else row["label"]
        families.setdefault((row["measure"], family), []).append(row)
    for family in families.values():
        tested = [row for row in family if "p" in row]
        for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
            row["p_holm"] = p
    return result


def few_pairs(summary: Iterable[Mapping[str, Any]]) -> str:
    """Say that some methods have too few pairs for intervals and tests; empty if all have enough."""
    few = min((row["n"] for row in summary), default=LEAST_PAIRS)
    if few >= LEAST_PAIRS:
        return ""
    return f"Fewer than {LEAST_PAIRS} pairs with a value (here {few}) give no confidence interval and no test."


SUMMARY_COLUMNS = (
    *("method", "label", "measure", "n", "failed", "mean", "sd", "median", "ci_low", "ci_high"),
    *("difference", "p", "p_holm"),
)


def _number(row: Mapping[str, Any], measure: str) -> float:
    # The time of a failed run is no time of a registration.
    value = row.get(measure) if row.get("status") == "ok" else None
    return float("nan") if value is None else float(value)


def label_order(label: str) -> tuple[int, int, str]:
    """Return a key to sort labels by: ``all`` first, then the groups, then the labels by number."""
    return (2, int(label), "") if label.isdigit() else (0 if label == ALL else 1, 0, label)


def write_csv(table: Sequence[Mapping[str, Any]], path: Path, columns: Sequence[str] = COLUMNS) -> None:
    """Write a table, whole or not at all; unknown values are empty cells."""
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        for row in table:
            writer.writerow([_cell(row.get(column)) for column in columns])


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else ""
    return "" if value is None else value
