"""Choose the rule of the verdict on one half of the registrations and measure it on the other.

``collect`` registers the cases of ``verdict_cases.py`` and writes a row each, and goes on where it stopped. ``choose``
learns the rule on the calibration half. ``table`` writes the rates of the rule in the package, by kind.

    python tests/benchmarks/verdicts.py collect rows.csv --data DATA --minutes 7
    python tests/benchmarks/verdicts.py choose rows.csv
    python tests/benchmarks/verdicts.py table rows.csv

A registration is judged by its truth, not by what was done to the pair. Its score is the mean Dice overlap, or the
inverse of the mean distance of the landmarks. The reference is the best score that is known of the pair: that of the
proper rough alignment, or of the registration of the pair as it is. It failed below 0.7 of the reference (or if the two
images show different parts of the body), is good from 0.85 of it on, and is in doubt between. The slice of a mirrored
brain looks like that of a brain: such pairs are counted apart.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import time
import warnings
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit
from verdict_cases import SPLITS, Made, all_cases
from verdict_untouched import untouched_cases

from itk_pdd import registration
from itk_pdd.evaluation import metrics, verdict, warping
from itk_pdd.geometry.field import DisplacementField

COLUMNS = ("name", "pair", "group", "kind", "split", "related", "proper", "before", "score", "seconds", "signs")
LANDMARKS = ("lung CT", "liver")
"""Pairs whose truth is points. They failed below the proper alignment as well: a distance has no largest value."""
KNOWN = 0.8
"""Least reference of a synthetic pair: its displacement is known, and the overlap under it is 1."""
FAILED, GOOD = 0.7, 0.85
"""Shares of the reference below which a registration failed and from which on it is good."""


def score(made: Made, field: DisplacementField) -> float:
    """Score a field by the truth of its pair; larger is better, NaN without a truth."""
    if made.points is not None:
        fixed, moving = made.points
        distance = np.linalg.norm(fixed + field.at(fixed, outside="nearest") - moving, axis=-1).mean()
        return float(1 / (distance + float(np.mean(field.grid.spacing))))
    if made.labels is None:
        return float("nan")
    fixed, moving = made.labels
    carried = warping.warp_labels(moving, field).array
    members = made.members or sorted(set(metrics.labels_of(fixed.array)) & set(metrics.labels_of(moving.array)))
    return float(np.nanmean(list(metrics.dice(fixed.array, carried, members).values())))


def row_of(case: Any) -> dict[str, Any]:
    """Register a case and measure it."""
    made = case.make()
    problem = made.problem
    started = time.perf_counter()
    result = registration.run(problem, threads=1, device="cpu", **made.options)
    seconds = time.perf_counter() - started
    signs = result.verdict.figures
    grid = problem.fixed.grid
    start = made.proper.field(grid) if problem.initial is None else problem.initial.field(grid)
    values = score(made, made.proper.field(grid)), score(made, start), score(made, result.field)
    return dict(zip(COLUMNS, (case.name, case.pair, case.group, case.kind, case.split, int(made.related),
                              *[f"{v:.4f}" for v in values], f"{seconds:.1f}",
                              json.dumps({k: round(float(v), 5) for k, v in signs.items()})), strict=True))  # fmt: skip


def collect(path: Path, data: Path, minutes: float, groups: list[str] | None, splits: list[str]) -> None:
    """Register what is not in the file yet, until the time is over."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    done = {row["name"] for row in rows_of(path)} if path.exists() else set()
    end, cases = time.monotonic() + 60 * minutes, [*all_cases(data), *untouched_cases(data)]
    todo = [c for c in cases if c.name not in done and c.split in splits and (not groups or c.group in groups)]
    print(f"{len(cases)} cases, {len(todo)} to do", flush=True)
    with path.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        if not done:
            writer.writeheader()
        for case in todo:
            if time.monotonic() > end:
                break
            try:
                writer.writerow(row_of(case))
            except Exception as error:  # a case that cannot be registered at all is told and left out
                print(f"{case.name}: {error!r}"[:300], flush=True)
            stream.flush()


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Read the rows that were collected."""
    with path.open(newline="") as stream:
        return [{**row, "signs": json.loads(row["signs"])} for row in csv.DictReader(stream)]


def outcomes(rows: list[dict[str, Any]]) -> list[str]:
    """Tell of every row whether it is good, failed or in doubt, by its truth; mirrored brains are "unseen"."""
    best: dict[tuple[str, str], float] = {}
    for row in rows:
        if row["kind"] == "as it is":
            key = row["group"], row["pair"]
            known = KNOWN if row["group"] == "synthetic" else 0.0
            best[key] = max(float(row["proper"]), float(row["score"]), best.get(key, 0.0), known)
    found = []
    for row in rows:
        reference = best.get((row["group"], row["pair"]), float("nan"))
        share = float(row["score"]) / reference
        if row["pair"].startswith(LANDMARKS) and share < GOOD and float(row["score"]) >= float(row["proper"]):
            found.append("in doubt")
            continue
        if row["group"] == "brain 2-D" and row["kind"] == "mirrored":
            found.append("unseen")
        elif row["related"] == "0":
            found.append("failed")
        else:
            found.append("failed" if share < FAILED else "good" if share >= GOOD else "in doubt")
    return found


def learned(rows: list[dict[str, Any]], good: np.ndarray, names: list[str], name: str) -> None:
    """Learn a logistic rule and print it for ``itk_pdd/evaluation/verdict.py``."""
    x = np.array([[row["signs"][n] for n in names] for row in rows])
    # Both outcomes weigh the same; the penalty keeps the rule from being steeper than so many pairs can tell.
    share = np.where(good, 0.5 / good.mean(), 0.5 / (1 - good.mean()))

    def loss(p: np.ndarray) -> float:
        z = p[0] + x @ p[1:]
        return float((share * np.logaddexp(0, np.where(good, -z, z))).mean() + 1e-4 * np.square(p[1:]).sum())

    found = minimize(loss, np.zeros(1 + len(names))).x
    print(f"{name}INTERCEPT = {found[0]:.2f}")
    print(f"{name}WEIGHTS = {dict(zip(names, found[1:].round(2).tolist(), strict=True))}")
    risks = expit(-found[0] - x @ found[1:])
    print(f"# {good.sum()} good ones, largest risks {np.sort(risks[good])[::-1][:8].round(2)}")
    print(f"# {(~good).sum()} failures, smallest risks {np.sort(risks[~good])[:12].round(2)}")


def choose(rows: list[dict[str, Any]]) -> None:
    """Learn both rules on the calibration half: that for all pairs, and that for those that were registered again."""
    known = [(row, o == "good") for row, o in zip(rows, outcomes(rows), strict=True)
             if row["split"] == SPLITS[0] and o in ("good", "failed")]  # fmt: skip
    again = [(row, good) for row, good in known if "again" in decided(row["signs"])]
    for chosen, names, name in ((known, verdict.WEIGHTS, ""), (again, verdict.RIVAL_WEIGHTS, "RIVAL_")):
        learned([row for row, _ in chosen], np.array([good for _, good in chosen]), list(names), name)


def decided(signs: dict[str, float]) -> dict[str, float]:
    """Leave out the figures of other registrations where the rule in the package would not ask for them."""
    first = {name: value for name, value in signs.items() if name not in verdict.RIVAL_FIGURES}
    return signs if verdict.DOUBT[0] < verdict.risk(first) < verdict.DOUBT[1] else first


def incomplete(signs: dict[str, float]) -> bool:
    """Tell whether the pair should have been registered again and was not: its row says nothing about the rule."""
    return "again" not in signs and verdict.DOUBT[0] < verdict.risk(signs) < verdict.DOUBT[1]


def word_of(signs: dict[str, float]) -> str:
    """Give the word of the rule in the package."""
    signs = decided(signs)
    words = [sign.word for sign in (*verdict.signs_of(signs), *[verdict.model_sign(signs, "")] * bool(signs["doubts"]))]
    return max(words, key=(verdict.GOOD, verdict.LOOK, verdict.FAILED).index)


def table(rows: list[dict[str, Any]]) -> str:
    """Make the table of words by kind, on the held-out half, in Markdown."""
    lines = ["| what was done | outcome | registrations | good | look | probably failed |", "|---|---|---|---|---|---|"]
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    halves: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for row, outcome in zip(rows, outcomes(rows), strict=True):
        if incomplete(row["signs"]):
            continue
        word = word_of(row["signs"])
        halves[row["split"], outcome][word] += 1
        if row["split"] == SPLITS[1]:
            counts[row["kind"], outcome][word] += 1

    def line(name: str, outcome: str, found: Counter[str]) -> str:
        words = " | ".join(str(found[word]) for word in (verdict.GOOD, verdict.LOOK, verdict.FAILED))
        return f"| {name} | {outcome} | {found.total()} | {words} |"

    lines += [line(kind, outcome, found) for (kind, outcome), found in sorted(counts.items())]
    lines += [line(f"all, {split}", outcome, found) for (split, outcome), found in sorted(halves.items())]
    for split in SPLITS:
        good, bad = halves[split, "good"], halves[split, "failed"]
        if not good or not bad:
            continue
        lines.append(
            f"\n{split}: false alarms {good[verdict.FAILED] / good.total():.1%} of {good.total()} good ones; failures "
            f"that are not told as such {1 - bad[verdict.FAILED] / bad.total():.1%} of {bad.total()}, told as good "
            f"{bad[verdict.GOOD] / bad.total():.1%}."
        )
    return "\n".join(lines)


def main() -> None:
    """Run one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("collect", "choose", "table"))
    parser.add_argument("rows", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--groups", nargs="*", help="kinds of images to collect; all by default")
    parser.add_argument("--splits", nargs="*", default=SPLITS, choices=SPLITS)
    options = parser.parse_args()
    if options.what == "collect":
        collect(options.rows, options.data, options.minutes, options.groups, options.splits)
    elif options.what == "choose":
        choose(rows_of(options.rows))
    else:
        print(table(rows_of(options.rows)))


if __name__ == "__main__":
    main()
