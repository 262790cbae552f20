"""Make the page of a cohort: every registration with its picture and verdict, worst first."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itk_pdd.evaluation.verdict import FAILED, GOOD, LOOK
from itk_pdd.report.assets import Assets
from itk_pdd.report.page import Cell, Table, fill

__all__ = ["PICTURES", "Entry", "cohort_page"]

PICTURES = 600
"""Most pictures that a page holds; the other pairs, the best ones, are in its table alone."""

_LIGHTS = {"failed": "poor", FAILED: "poor", LOOK: "look", GOOD: "good", "": "look"}


@dataclass(frozen=True)
class Entry:
    """One pair of a cohort for the page."""

    name: str
    word: str  # "failed", or the word of its verdict; empty if it was not judged
    text: str  # why, in words
    risk: float | None = None  # risk of failure from 0 to 1
    figures: Mapping[str, float] | None = None  # other figures of the table, by their names
    picture: Path | None = None  # a JPEG file

    @property
    def order(self) -> tuple[int, float, str]:
        """Rank it: the failed ones first, then the probably failed, by their risk."""
        words = ("failed", FAILED, LOOK, "", GOOD)
        return words.index(self.word), -(self.risk or 0.0), self.name


def cohort_page(entries: Sequence[Entry], *, title: str = "Cohort", waiting: int = 0) -> str:
    """Make the HTML page of a cohort of pairs in any order; ``waiting`` ones of the list are not done yet."""
    entries = sorted(entries, key=lambda entry: entry.order)
    names = list(dict.fromkeys(name for entry in entries for name in entry.figures or {}))
    rows = [_row(entry, names) for entry in entries]
    counts = {word: sum(entry.word == word for entry in entries) for word in ("failed", FAILED, LOOK, GOOD)}
    told = [f"{count} {word}" for word, count in counts.items() if count] + [f"{waiting} waiting"] * bool(waiting)
    return fill(
        "cohort.html",
        title=title,
        subtitle=f"{len(entries)} pair{'s' * (len(entries) != 1)}: {', '.join(told) or 'none'}",
        assets=Assets(),
        pictures=[],
        single=True,
        cards=[_card(entry) for entry in entries[:PICTURES]],
        left=max(0, len(entries) - PICTURES),
        table=Table(("Pair", "Verdict", "Risk", *names, "Why"), rows, words=(0, 1, len(names) + 3)),
    )


def _card(entry: Entry) -> dict[str, Any]:
    """Describe a pair with its picture as text."""
    picture = ""
    if entry.picture is not None and entry.picture.is_file():
        picture = "data:image/jpeg;base64," + base64.b64encode(entry.picture.read_bytes()).decode("ascii")
    return {
        "name": entry.name,
        "word": entry.word or "not judged",
        "light": _LIGHTS[entry.word],
        "risk": "" if entry.risk is None else f"risk {entry.risk:.0%}",
        "text": entry.text if entry.word != GOOD else "",
        "picture": picture,
    }


def _row(entry: Entry, names: Sequence[str]) -> list[str | Cell]:
    figures = [(entry.figures or {}).get(name) for name in names]
    return [
        entry.name,
        Cell(entry.word or "not judged", kind=_LIGHTS[entry.word]),
        Cell("" if entry.risk is None else f"{entry.risk:.0%}", entry.risk),
        *(Cell("" if value is None else f"{value:.3g}", value) for value in figures),
        entry.text,
    ]
