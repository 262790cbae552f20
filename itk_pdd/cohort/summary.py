"""Summarise a cohort: a table with a row for each pair, and a page with their pictures, worst first."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from itk_pdd.cohort.listing import Item
from itk_pdd.cohort.records import DONE, FAILED, VIEWS
from itk_pdd.io.messages import system_reason
from itk_pdd.io.outputs import OutputError, whole_file, write_bytes
from itk_pdd.report.cohort import Entry, cohort_page
from itk_pdd.solver.record import without_folders

__all__ = ["COLUMNS", "write_summary"]

COLUMNS = (
    "name", "status", "verdict", "risk", "likeness", "folded", "dice", "tre_mean", "seconds", "wall_seconds",
    "peak_memory_gb", "host", "attempts", "fixed", "moving", "reason", "warnings",
)  # fmt: skip
"""Columns of ``summary.csv``."""

_SHOWN = {"dice": "Dice", "tre_mean": "TRE (mm)", "likeness": "Likeness", "seconds": "Seconds", "peak_memory_gb": "GB"}


def write_summary(
    records: Mapping[str, Mapping[str, Any]], items: Sequence[Item], folder: Path, *, report: bool = True
) -> None:
    """Write ``summary.csv`` in the order of the list and, if wanted, ``report.html``, each whole or not at all."""
    rows = [_row(item, records.get(item.name)) for item in items]
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({n: f"{v:.6g}" if isinstance(v, float) else v for n, v in row.items()} for row in rows)
    files = {"summary.csv": text.getvalue()}
    if report:
        known = [row for row in rows if row["status"] != "waiting"]
        entries = [_entry(row, records[row["name"]], folder) for row in known]
        files["report.html"] = cohort_page(
            entries, title=f"Cohort {folder.resolve().name}", waiting=len(rows) - len(known)
        )
    for name, content in files.items():
        try:
            with whole_file(folder / name) as temporary:
                write_bytes(temporary, content.encode("utf-8"))
        except OSError as error:
            raise OutputError(f"{folder / name} could not be written ({system_reason(error)})") from error


def _row(item: Item, record: Mapping[str, Any] | None) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COLUMNS, "")
    row |= {"name": item.name, **{side: Path(str(item.files.get(side, ""))).name for side in ("fixed", "moving")}}
    if record is None:
        return row | {"status": "waiting"}
    row |= {name: record[name] for name in ("status", "host", "attempts", "seconds", "wall_seconds") if name in record}
    if record["status"] != DONE:
        return row | {"reason": record.get("reason", "")}
    verdict = record.get("verdict") or {}
    figures = verdict.get("figures", {})
    peak = record.get("peak_memory_bytes")
    return row | {
        "verdict": verdict.get("word", ""),
        "reason": "; ".join(verdict.get("reasons", ())),
        "warnings": "; ".join(record.get("warnings", ())),
        "peak_memory_gb": "" if peak is None else peak / 1e9,
        **{name: figures[name] for name in ("risk", "likeness", "folded") if name in figures},
        **{name: value for name, value in record.get("measures", {}).items() if name in COLUMNS},
    }


def _entry(row: Mapping[str, Any], record: Mapping[str, Any], folder: Path) -> Entry:
    done = record["status"] == DONE
    figures = {title: float(row[name]) for name, title in _SHOWN.items() if row[name] != ""}
    return Entry(
        row["name"],
        row["verdict"] if done else FAILED,
        # The page may be passed on: folders may name a patient.
        without_folders("; ".join(part for part in (row["reason"], row["warnings"]) if part), ()),
        float(row["risk"]) if row["risk"] != "" else None,
        figures if done else None,
        folder / VIEWS / f"{row['name']}.jpg" if done else None,
    )
