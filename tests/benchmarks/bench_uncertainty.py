"""Is the uncertainty calibrated? Coverage, detection of errors and of failures, on pairs nothing was learned from.

    python tests/benchmarks/bench_uncertainty.py [--model auto] [--data abdomen] [--cases FOLDER] [--plot FILE.png]
    python tests/benchmarks/bench_uncertainty.py --time

Held out are synthetic pairs of other seeds, deformed copies of validation scans, the lung pair with its 50 landmarks,
and validation scans of different subjects, where the distance of an organ's mapped surface points from the surface of
the same organ is known. Beside the calibrated uncertainty stand two baselines, fitted to the same training cases: one
width for all, and one that knows the entropy of the last search's marginals only. Prints a table in Markdown.
With --time it only tells what asking for the uncertainty costs.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from calibrate_uncertainty import FEATURES, failures, fit, scales
from scipy import stats
from uncertainty_cases import Case, gathered, sets_of

from itk_pdd import models, registration
from itk_pdd.evaluation import datasets
from itk_pdd.evaluation.scoring import load_case
from itk_pdd.uncertainty.calibration import Calibration, calibration_of
from itk_pdd.uncertainty.quality import predicted

LIMIT_MM = 5.0
"""Errors above it are to be found."""
LEVELS = (0.5, 0.9, 0.95)
REAL = ("lung", "organs")


def baseline(cases: list[Case], names: list[str]) -> Calibration:
    """A calibration that knows these features only, all of them isotropic."""
    found = fit(cases, names)
    return Calibration(
        found["intercept"], found["weights"], {n: FEATURES[n] for n in names}, found["tail"],
        structure=0.0, marginals=0.0,
    )  # fmt: skip


def lengths(case: Case) -> np.ndarray:
    """Errors in millimetres, (n,)."""
    return case.voxel * (np.linalg.norm(case.errors, axis=1) if case.errors.ndim == 2 else np.abs(case.errors))


def ranks(case: Case, calibration: Calibration) -> tuple[np.ndarray, np.ndarray]:
    """Probability of the region on whose border each error lies, (n,), and negative log-likelihood per component."""
    scale, nu = scales(case, calibration), calibration.tail
    if case.errors.ndim == 1:
        square, dimension, volume = np.square(case.errors), 1, 0.0
    else:
        dimension = case.errors.shape[1]
        matrix = dimension * calibration.shape(case.spread)
        if case.rounding.size:
            # The error that is seen is that of the registration and of the truth; of a Student distribution the matrix
            # is (nu - 2) / nu of the covariance.
            share = (nu - 2) / nu / np.maximum(scale, 1e-6) ** 2
            matrix = matrix + share[:, None, None] * np.diag(np.square(case.rounding) / 12)
        square = np.einsum("ni,ni->n", case.errors, np.linalg.solve(matrix, case.errors[..., None])[..., 0])
        volume = np.linalg.slogdet(matrix)[1] / 2
    square = square / scale**2
    density = (
        stats.t.logpdf(np.sqrt(square), nu)
        if dimension == 1
        else stats.multivariate_t(np.zeros(dimension), np.eye(dimension), df=nu).logpdf(
            np.sqrt(square)[:, None] * np.eye(dimension)[0]
        )
    )
    nll = -(density - dimension * np.log(scale * case.voxel) - volume) / dimension
    return stats.f.cdf(square / dimension, dimension, nu), nll


def auroc(score: np.ndarray, positive: np.ndarray) -> float:
    """Probability that a positive has a higher score than a negative; NaN without both."""
    if positive.all() or not positive.any():
        return float("nan")
    positives, negatives = score[positive], score[~positive]
    # Of its p-value nothing is wanted: the quickest way to one.
    wins = stats.mannwhitneyu(positives, negatives, method="asymptotic").statistic
    return float(wins / (len(positives) * len(negatives)))


def sparsification(score: np.ndarray, errors: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Mean error of what is left when the given shares of least certain points are taken away, relative to all."""
    ordered = errors[np.argsort(score, kind="stable")]
    means = np.cumsum(ordered) / np.arange(1, len(ordered) + 1)
    left = np.clip(np.round((1 - shares) * len(ordered)).astype(int), 1, len(ordered))
    return means[left - 1] / errors.mean()


def measure(cases: list[Case], calibration: Calibration) -> dict[str, float]:
    """All figures of one set."""
    errors = np.concatenate([lengths(case) for case in cases])
    widths = np.concatenate([scales(case, calibration) * case.voxel for case in cases])
    both = [ranks(case, calibration) for case in cases]
    inside, nll = (np.concatenate([pair[i] for pair in both]) for i in (0, 1))
    shares = np.linspace(0, 0.95, 20)
    grid = np.linspace(0.05, 0.95, 19)
    with np.errstate(invalid="ignore"):
        rank = stats.spearmanr(widths, errors)[0] if np.ptp(widths) > 0 else float("nan")
    area = sparsification(widths, errors, shares) - sparsification(errors, errors, shares)
    return {
        "pairs": len(cases),
        "points": len(errors),
        "error mm": errors.mean(),
        **{f"cover {p:.0%}": float(np.mean(inside < p)) for p in LEVELS},
        "ECE": float(np.mean([abs(np.mean(inside < p) - p) for p in grid])),
        "NLL": float(nll.mean()),
        "rank": float(rank),
        "AUROC": auroc(widths, errors > LIMIT_MM),
        "AUSE": float(np.mean(area)),
        "rank expected": expected_rank(cases, calibration),
    }


def expected_rank(cases: list[Case], calibration: Calibration) -> float:
    """Rank correlation of widths and errors if these were drawn from the distribution that was told."""
    rng = np.random.default_rng(0)
    widths, drawn = [], []
    for case in cases:
        width = scales(case, calibration) * case.voxel
        dimension = 1 if case.errors.ndim == 1 else case.errors.shape[1]
        normal = rng.standard_normal((len(width), dimension))
        tails = np.sqrt(rng.chisquare(calibration.tail, (len(width), 1)) / calibration.tail)
        widths.append(width)
        drawn.append(width * np.linalg.norm(normal / tails, axis=1))
    told, errors = np.concatenate(widths), np.concatenate(drawn)
    return float(stats.spearmanr(told, errors)[0]) if np.ptp(told) > 0 else float("nan")


def table(sets: dict[str, list[Case]], ways: dict[str, Calibration]) -> list[dict]:
    """Figures of all sets with all ways."""
    rows = []
    for name, cases in sets.items():
        if not cases or name.startswith("misplaced"):
            continue
        rows += [{"data": name, "uncertainty": way, **measure(cases, each)} for way, each in ways.items()]
    real = [case for name, cases in sets.items() if name.startswith(REAL) for case in cases]
    # Over all kinds of data, in millimetres: who asks where to trust a result has more than one of them.
    rows += [{"data": "all real", "uncertainty": way, **measure(real, each)} for way, each in ways.items() if real]
    return rows


def markdown(rows: list[dict]) -> str:
    """Rows as a table."""
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [row[c] if isinstance(row[c], str | int) else f"{row[c]:.2f}" for c in columns]
        lines.append("| " + " | ".join(str(c).replace("nan", "") for c in cells) + " |")
    return "\n".join(lines)


def judged(
    sets: dict[str, list[Case]], calibration: Calibration
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Quality figures, overlaps and failures of the registrations of each kind of data."""
    learned, result = calibration.quality, {}
    weights = {key: learned[key] for key in ("intercept", "weights")}
    for data in ("abdomen", "hippocampus"):
        cases = [c for name in (f"organs {data}", f"misplaced {data}") for c in sets.get(name, [])]
        if cases:
            figures = np.array([predicted(c.summary, **weights) for c in cases])
            result[data] = figures, np.array([c.dice for c in cases]), failures(cases)
    return result


def draw(path: Path, sets: dict[str, list[Case]], ways: dict[str, Calibration]) -> None:
    """Calibration, sparsification and quality as one picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    calibrated = next(iter(ways.values()))
    shown = {n: c for n, c in sets.items() if c and not n.startswith("misplaced")}
    figure, (first, second, third) = pyplot.subplots(1, 3, figsize=(12, 4), layout="constrained")
    nominal = np.linspace(0, 1, 41)
    for name, cases in shown.items():
        inside = np.concatenate([ranks(case, calibrated)[0] for case in cases])
        first.plot(nominal, [np.mean(inside <= p) for p in nominal], label=name)
    first.plot([0, 1], [0, 1], "k:", lw=1)
    first.set(xlabel="nominal probability of the region", ylabel="share of true errors inside", title="Coverage")
    first.legend(fontsize=7)
    shares = np.linspace(0, 0.95, 20)
    for name, style in (("organs abdomen", "C0"), ("synthetic", "C1")):
        if not shown.get(name):
            continue
        errors = np.concatenate([lengths(case) for case in shown[name]])
        for way, line in zip(ways, ("-", ":", "--"), strict=False):
            if way != "one width":
                widths = np.concatenate([scales(case, ways[way]) * case.voxel for case in shown[name]])
                curve = sparsification(widths, errors, shares)
                second.plot(shares, curve, line, color=style, label=f"{name}, {way}")
        second.plot(shares, sparsification(errors, errors, shares), color=style, lw=0.7, label=f"{name}, best possible")
    second.axhline(1, color="k", lw=0.7)
    second.set(xlabel="share of least certain points left out", ylabel="mean error of the rest", title="Sparsification")
    second.legend(fontsize=7)
    for name, (figures, dice, failed) in judged(sets, calibrated).items():
        dots = third.plot(figures[~failed], dice[~failed], "o", ms=4, label=name)
        third.plot(figures[failed], dice[failed], "x", ms=6, color=dots[0].get_color(), label=f"{name}, failed")
    if calibrated.quality:
        third.axvline(calibrated.quality["threshold"], color="k", ls=":", lw=1)
    third.set(xlabel="quality figure", ylabel="Dice overlap", title="Failure detection", xlim=(0, 1), ylim=(0, 1))
    third.legend(fontsize=7)
    figure.savefig(path, dpi=90)


def times(repetitions: int = 5) -> None:
    """Print the seconds that the registration of the lung pair takes with and without its uncertainty, medians."""
    case = load_case(datasets.lung_pair())
    seconds: dict[bool, list[list[float]]] = {False: [], True: []}
    for repetition in range(repetitions + 1):
        for asked, found in seconds.items():
            started = time.perf_counter(), time.process_time()
            result = registration.register_volumes(
                case.fixed, case.moving, fixed_mask=case.fixed_mask, moving_mask=case.moving_mask, uncertainty=asked
            )
            if asked:
                result.uncertainty.standard_deviation()
            if repetition:  # the first one compiles
                found.append([time.perf_counter() - started[0], time.process_time() - started[1]])
    for asked, found in seconds.items():
        wall, processor = np.median(found, axis=0)
        way = "with the standard deviation at every voxel" if asked else "without uncertainty"
        print(f"lung pair {way}: {wall:.1f} s, {processor:.1f} processor seconds")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="auto", help="name or folder of the model")
    parser.add_argument("--data", choices=("abdomen", "hippocampus"), help="what a trained model was trained on")
    parser.add_argument("--cases", type=Path, default=Path("uncertainty-cases"), help="where cases are kept")
    parser.add_argument("--plot", type=Path, help="PNG file for the curves")
    parser.add_argument("--time", action="store_true", help="only measure what the uncertainty costs")
    options = parser.parse_args()
    if options.time:
        times()
        return
    model = models.load(options.model)
    learned, judged_by = sets_of(model.name, options.data)
    sets = gathered(*judged_by, options.cases, model=model, force=True)
    training = [case for each in gathered(*learned, options.cases, model=model, force=True).values() for case in each]
    report(sets, training, calibration_of(model.name, model.network), options.plot)


def report(sets: dict[str, list[Case]], training: list[Case], calibration: Calibration, plot: Path | None) -> None:
    """Print everything about held-out cases, and draw it."""
    ways = {
        "calibrated": calibration, "entropy": baseline(training, ["entropy0"]), "one width": baseline(training, []),
    }  # fmt: skip
    print(markdown(table(sets, ways)))
    for name, (figures, dice, failed) in judged(sets, calibration).items():
        proper = ~failed
        found = figures < calibration.quality["threshold"]
        print(
            f"{name}: {len(dice)} registrations, rank correlation of quality and Dice "
            f"{stats.spearmanr(figures, dice)[0]:.2f} (without the failed ones "
            f"{stats.spearmanr(figures[proper], dice[proper])[0]:.2f}); "
            f"{(found & failed).sum()} of {failed.sum()} failures found, {(found & proper).sum()} of {proper.sum()} "
            "others called failed"
        )
    if plot is not None:
        draw(plot, sets, ways)


if __name__ == "__main__":
    main()
