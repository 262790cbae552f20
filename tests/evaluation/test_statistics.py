"""Summaries and tests against textbook values and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from itk_pdd.evaluation.statistics import bootstrap_interval, holm, summarise, wilcoxon


def test_summary_of_known_values():
    found = summarise([1.0, 2.0, 3.0, 6.0, float("nan")])
    assert (found.n, found.mean, found.median) == (4, 3.0, 2.5)
    assert found.sd == pytest.approx(np.std([1, 2, 3, 6], ddof=1))
    assert 1 <= found.ci_low < 3 < found.ci_high <= 6
    assert summarise([1.0, 2.0, 3.0, 6.0]) == summarise([1.0, 2.0, 3.0, 6.0])
    assert np.isnan(summarise([2.0]).sd) and summarise([2.0]).mean == 2
    assert summarise([]).n == 0 and np.isnan(summarise([]).mean)


def test_bootstrap_agrees_with_scipy_and_covers_the_truth():
    values = np.random.default_rng(0).normal(size=30)
    expected = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=10_000, random_state=1)
    assert bootstrap_interval(values) == pytest.approx(tuple(expected.confidence_interval), abs=0.02)
    samples = np.random.default_rng(1).normal(size=(200, 25))
    covered = [low < 0 < high for low, high in (bootstrap_interval(s, resamples=500) for s in samples)]
    assert 0.87 < np.mean(covered) < 0.98


def test_wilcoxon():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=12), rng.normal(size=12) + 0.5
    assert wilcoxon(first, second) == pytest.approx(stats.wilcoxon(first, second).pvalue)
    # All five of five differences positive: 2 / 2**5.
    assert wilcoxon(np.arange(1.0, 6), np.zeros(5)) == pytest.approx(0.0625)
    assert wilcoxon(np.append(first, np.nan), np.append(second, 1.0)) == wilcoxon(first, second)
    assert wilcoxon(first, first) == 1
    assert np.isnan(wilcoxon(np.empty(0), np.empty(0)))


def test_holm():
    # Example of the method: 0.01, 0.04, 0.03, 0.005 -> 0.03, 0.06, 0.06, 0.02.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.9]) == pytest.approx([1.0, 1.0])
    found = holm([0.01, float("nan"), 0.02])
    assert found[::2] == pytest.approx([0.02, 0.02]) and np.isnan(found[1])
    assert holm([]) == []
