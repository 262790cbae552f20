"""Means with confidence intervals, and paired tests with correction for multiple testing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Summary", "bootstrap_interval", "holm", "summarise", "wilcoxon"]


@dataclass(frozen=True)
class Summary:
    """One measure of one method over the pairs."""

    n: int  # number of pairs with a value
    # over the pairs; the SD is that of a sample (n - 1). NaN where there are too few.
    mean: float
    sd: float
    median: float
    # 95 % confidence interval of the mean, by bootstrap over the pairs
    ci_low: float
    ci_high: float


def summarise(values: Sequence[float], *, seed: int = 0) -> Summary:
    """Summarise a measure over the pairs; NaN is no value."""
    kept = np.asarray(values, dtype=float)
    kept = kept[np.isfinite(kept)]
    nan = float("nan")
    if not kept.size:
        return Summary(0, nan, nan, nan, nan, nan)
    low, high = bootstrap_interval(kept, seed=seed)
    sd = float(kept.std(ddof=1)) if kept.size > 1 else nan
    return Summary(int(kept.size), float(kept.mean()), sd, float(np.median(kept)), low, high)


def bootstrap_interval(values: np.ndarray, *, resamples: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """Compute the 95 % percentile bootstrap interval of the mean of finite values, one per pair; NaN below two.

    Pairs that share a patient are not independent: with few patients the interval is too narrow.
    """
    if len(values) < 2:
        return float("nan"), float("nan")
    from scipy import stats

    found = stats.bootstrap((values,), np.mean, n_resamples=resamples, method="percentile", random_state=seed)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def wilcoxon(first: np.ndarray, second: np.ndarray) -> float:
    """Compute the two-sided p value of the Wilcoxon signed-rank test of paired values.

    It is 1 if all pairs are equal, and NaN without pairs.
    """
    difference = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    difference = difference[np.isfinite(difference)]
    if not difference.size:
        return float("nan")
    if not difference.any():
        return 1.0
    from scipy import stats

    return float(stats.wilcoxon(difference).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for multiple testing by Holm's step-down method; NaN stays NaN and is not counted.

    References
    ----------
    S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.
    """
    p = np.asarray(p_values, dtype=float)
    result = np.full(p.shape, np.nan)
    order = np.argsort(p, kind="stable")[: np.isfinite(p).sum()]  # NaN is last
    result[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return result.tolist()
