"""Choose the rules of the verdict on one part of the registrations and measure them on the other.

``collect`` registers the cases of ``verdict_cases.py``, ``verdict_few.py``, ``verdict_untouched.py`` and
``verdict_clean.py``, writes a row each, and goes on where it stopped. ``choose`` learns the rules on the pairs of the
development. ``table`` writes the words of the rules in the package by kind, on the clean pairs, and their rates.

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
from scipy.stats import binomtest
from verdict_cases import SPLITS, Made, abdomens, hippocampi, mixed, slices, synthetic
from verdict_clean import clean_cases
from verdict_few import few_cases
from verdict_untouched import untouched_cases

from itk_pdd import registration
from itk_pdd.evaluation import metrics, verdict, warping
from itk_pdd.geometry.field import DisplacementField

COLUMNS = ("name", "pair", "group", "kind", "split", "related", "proper", "before", "score", "seconds", "signs")
LANDMARKS = ("lung CT", "liver")
"""Pairs whose truth is points. They failed below the proper alignment as well: a distance has no largest value."""
KNOWN = 0.8
"""Least reference of a synthetic pair: its displacement is known, and the overlap under it is 1."""
PENALTY = 0.003
"""Factor of the squared weights of figures of unit spread."""
PARTS = {
    "development": "development", "held-out": "held-out", "clean": "clean", SPLITS[3]: "clean: new people and seeds"
}  # fmt: skip
"""Splits, or what their names begin with, whose rates are told, and their names in the table."""
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
    learning = mixed(hippocampi(data), synthetic(), slices(data), abdomens(data), few_cases(data))
    end, cases = time.monotonic() + 60 * minutes, [*learning, *untouched_cases(data), *clean_cases(data)]
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


def logistic(x: np.ndarray, good: np.ndarray, penalty: float) -> np.ndarray:
    """Learn the intercept and the weights of a logistic rule; a larger sum is better, both outcomes weigh the same."""
    mean, spread = x.mean(axis=0), x.std(axis=0) + 1e-9
    share = np.where(good, 0.5 / good.mean(), 0.5 / (1 - good.mean())) / len(good)

    def loss(p: np.ndarray) -> float:
        z = p[0] + (x - mean) / spread @ p[1:]
        # The penalty keeps the rule from being steeper than so many pairs can tell.
        return float((share * np.logaddexp(0, np.where(good, -z, z))).sum() + penalty * np.square(p[1:]).sum())

    p = minimize(loss, np.zeros(1 + x.shape[1])).x
    weights = p[1:] / spread
    return np.array([p[0] - mean @ weights, *weights])


def crossed(x: np.ndarray, good: np.ndarray, pairs: list[str], penalty: float) -> np.ndarray:
    """Give the risk of every row by rules that were learned without its pair: the mean of ten divisions in ten."""
    names, found = sorted(set(pairs)), np.zeros(len(good))
    for seed in range(10):
        part = dict(zip(names, np.random.default_rng(seed).permutation(len(names)) % 10, strict=True))
        own = np.array([part[pair] for pair in pairs])
        for k in np.unique(own):
            p = logistic(x[own != k], good[own != k], penalty)
            found[own == k] += expit(-p[0] - x[own == k] @ p[1:]) / 10
    return found


def learned(rows: list[dict[str, Any]], good: np.ndarray, names: list[str], name: str, penalty: float) -> None:
    """Learn a rule and print it for ``itk_pdd/evaluation/verdict.py``, with its errors on the pairs left out."""
    x = np.array([[row["signs"][n] for n in names] for row in rows])
    p = logistic(x, good, penalty)
    print(f"{name}INTERCEPT = {p[0]:.2f}")
    print(f"{name}WEIGHTS = {dict(zip(names, p[1:].round(2).tolist(), strict=True))}")
    risks = crossed(x, good, [f"{row['group']} {row['pair']}" for row in rows], penalty)
    print(f"# {good.sum()} good ones, largest risks {np.sort(risks[good])[::-1][:8].round(2)}")
    print(f"# {(~good).sum()} failures, smallest risks {np.sort(risks[~good])[:12].round(2)}")


def choose(rows: list[dict[str, Any]]) -> None:
    """Learn both rules: that for all pairs on the first half, and on both that for those that were registered again."""
    known = [(row, o == "good") for row, o in zip(rows, outcomes(rows), strict=True)
             if row["split"] in SPLITS[:2] and o in ("good", "failed")]  # fmt: skip
    first = [(row, good) for row, good in known if row["split"] == SPLITS[0]]
    again = [({**row, "signs": {**row["signs"], **verdict.rival_ratios(row["signs"])}}, good) for row, good in known
             if "again" in decided(row["signs"])]  # fmt: skip
    for chosen, names, name in ((first, verdict.WEIGHTS, ""), (again, verdict.RIVAL_WEIGHTS, "RIVAL_")):
        learned([row for row, _ in chosen], np.array([good for _, good in chosen]), list(names), name, PENALTY)


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


def rate(count: int, total: int) -> str:
    """Give a share with its exact 95 % interval."""
    low, high = binomtest(count, total).proportion_ci(method="exact")
    return f"{count} of {total}, {count / total:.1%} ({low:.1%} to {high:.1%})"


def table(rows: list[dict[str, Any]]) -> str:
    """Make the table of words by kind, on the clean pairs, and the rates, in Markdown."""
    lines = ["| what was done | outcome | registrations | good | look | probably failed |", "|---|---|---|---|---|---|"]
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    whole: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for row, outcome in zip(rows, outcomes(rows), strict=True):
        if incomplete(row["signs"]):
            print(f"not registered again: {row['name']}")
            continue
        word, parts = word_of(row["signs"]), {row["split"], row["split"].split()[0]}
        for part in parts.intersection(PARTS):
            whole[part, outcome][word] += 1
        if "clean" in parts:
            counts[row["kind"], outcome][word] += 1
            wrong = {"good": verdict.FAILED, "failed": verdict.GOOD}.get(outcome)
            if word == wrong or (outcome, word) == ("failed", verdict.LOOK):
                print(f"{outcome}, told as {word}: {row['name']}")

    def line(name: str, outcome: str, found: Counter[str]) -> str:
        words = " | ".join(str(found[word]) for word in (verdict.GOOD, verdict.LOOK, verdict.FAILED))
        return f"| {name} | {outcome} | {found.total()} | {words} |"

    lines += [line(kind, outcome, found) for (kind, outcome), found in sorted(counts.items())]
    lines += [line(f"**all, {PARTS[part]}**", outcome, found) for (part, outcome), found in sorted(whole.items())]
    lines += ["", f"| rate | {' | '.join(PARTS.values())} |", "|---" * (1 + len(PARTS)) + "|"]
    asked = {
        "false alarms: good, told as probably failed": ("good", (verdict.FAILED,)),
        "good, told as look": ("good", (verdict.LOOK,)),
        "misses: failed, not told as probably failed": ("failed", (verdict.GOOD, verdict.LOOK)),
        "hidden failures: failed, told as good": ("failed", (verdict.GOOD,)),
    }
    for name, (outcome, words) in asked.items():
        found = [whole[part, outcome] for part in PARTS]
        cells = [rate(sum(each[word] for word in words), each.total()) for each in found]
        lines.append(f"| {name} | {' | '.join(cells)} |")
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
