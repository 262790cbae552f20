"""Costs that leave out what lands on excluded voxels, against a loop over everything."""

import tracemalloc

import numpy as np
import pytest

from itk_pdd.kernels.hamming import cpu as hamming
from itk_pdd.kernels.hamming.cpu import MaskedCosts, masked_costs


@pytest.mark.parametrize("seed", range(4))
def test_only_allowed_samples_count(seed):
    rng = np.random.default_rng(seed)
    words = 1 + seed % 2
    shape = (5, 6, 9)
    fixed, moving = (rng.integers(0, 2**64, size=(words, *shape), dtype=np.uint64) for _ in range(2))
    allowed = rng.random(shape) < 0.6
    mask = rng.random(shape) < 0.8 if seed > 1 else None
    scales, cell, radius = rng.random(words), (2, 3, 3), (1, 2, 4)
    options = dict(scales=scales, cell=cell, radius=radius, step=(1, 1, 1), mask=mask, base=None)
    found = masked_costs(fixed, moving, allowed, **options)[..., :9]

    def distance(p, q):
        words = zip(fixed, moving, scales, strict=True)
        return sum(s * bin(int(f[p]) ^ int(m[q])).count("1") for f, m, s in words)

    for k in np.ndindex(*found.shape[:3]):
        samples = [
            p
            for o in np.ndindex(*cell)
            if (p := tuple(np.asarray(k) * cell + o)) and np.all(np.asarray(p) < shape) and (mask is None or mask[p])
        ]
        values = np.full(found.shape[3:], np.nan)
        for d in np.ndindex(*found.shape[3:]):
            there = [tuple(np.clip(np.asarray(p) + d - np.asarray(radius), 0, np.asarray(shape) - 1)) for p in samples]
            pairs = [(p, q) for p, q in zip(samples, there, strict=True) if allowed[q]]
            if samples and len(pairs) >= 0.25 * len(samples):
                values[d] = np.mean([distance(p, q) for p, q in pairs])
        if samples:
            values[np.isnan(values)] = np.nanmean(values)
            np.testing.assert_allclose(found[k], values, rtol=1e-3, atol=1e-3)


def test_everything_allowed_is_no_mask():
    rng = np.random.default_rng(0)
    fixed, moving = (rng.integers(0, 2**64, size=(1, 4, 5, 6), dtype=np.uint64) for _ in range(2))
    options = dict(scales=(1 / 60,), cell=(2, 2, 2), radius=(1, 1, 1), step=(1, 1, 1))
    everything = masked_costs(fixed, moving, np.ones((4, 5, 6), bool), **options)
    np.testing.assert_array_equal(everything, masked_costs(fixed, moving, None, **options))


def random_case(shape=(12, 12, 16), words=2):
    rng = np.random.default_rng(0)
    codes = [rng.integers(0, 2**64, size=(words, *shape), dtype=np.uint64) for _ in range(2)]
    options = dict(scales=(1 / 60, 1 / 40)[:words], cell=(2, 2, 2), radius=(4, 4, 4), step=(1, 1, 1))
    return (*codes, rng.random(shape) < 0.7), options


def test_parts_do_not_change_the_costs(monkeypatch):
    case, options = random_case()
    expected = masked_costs(*case, **options)
    points = np.random.default_rng(1).permutation(6 * 6 * 8)[:50]
    for size in (1, 7, 10**6):
        monkeypatch.setattr(hamming, "_PART", size)
        costs = MaskedCosts(*case, **options)
        np.testing.assert_array_equal(costs(), expected)
        np.testing.assert_array_equal(costs(points), expected.reshape(-1, *expected.shape[3:])[points])


def test_masked_costs_take_little_more_memory_than_the_result(monkeypatch):
    """What is estimated before a registration leaves room for the costs themselves only."""
    monkeypatch.setattr(hamming, "_PART", 16)
    case, options = random_case(shape=(32, 32, 32))
    costs = MaskedCosts(*case, **options)
    result = costs()
    tracemalloc.start()
    costs(out=result)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.25 * result.nbytes
