"""The Hamming cost kernel against a loop over everything."""

import numpy as np
import pytest

from itk_pdd.kernels.hamming import hamming_costs
from itk_pdd.kernels.mind import binary_codes


def brute_force(fixed, moving, cell, radius, step, stride, base, mask, bits):
    shape = [-(-n // c) for n, c in zip(fixed.shape, cell, strict=True)]
    out = np.zeros((*shape, *(2 * r + 1 for r in radius)), np.float32)
    for k in np.ndindex(*shape):
        samples = []
        for o in np.ndindex(*(-(-c // s) for c, s in zip(cell, stride, strict=True))):
            p = np.asarray(k) * cell + np.asarray(o) * stride
            if np.all(p < fixed.shape) and (mask is None or mask[tuple(p)]):
                samples.append(p)
        for d in np.ndindex(*out.shape[3:]):
            total = 0
            for p in samples:
                q = p
                if base is not None:
                    q = q + np.floor(base[tuple(p)][::-1] + 0.5).astype(int)
                q = np.clip(q, 0, np.asarray(moving.shape) - 1)
                q = np.clip(q + (np.asarray(d) - radius) * step, 0, np.asarray(moving.shape) - 1)
                total += bin(int(fixed[tuple(p)]) ^ int(moving[tuple(q)])).count("1")
            out[k + d] = total / max(1, len(samples)) / bits
    return out


@pytest.mark.parametrize("seed", range(8))
def test_matches_brute_force(seed):
    rng = np.random.default_rng(seed)
    flat = seed % 3 == 0
    fixed = rng.integers(0, 2**60, size=rng.integers(1, 9, 3), dtype=np.uint64)
    moving = rng.integers(0, 2**60, size=rng.integers(1, 9, 3), dtype=np.uint64)
    radius, step = rng.integers(0, 5, 3), rng.integers(1, 4, 3)
    cell, stride = rng.integers(1, 5, 3), rng.integers(1, 3, 3)
    if flat:
        fixed, moving = fixed[:1], moving[:1]
        radius[0], cell[0] = 0, 1
    base = rng.normal(scale=4, size=(*fixed.shape, 3)).astype(np.float32) if seed % 2 else None
    mask = rng.random(fixed.shape) < 0.6 if seed % 4 == 1 else None
    arguments = dict(cell=cell, radius=radius, step=step, stride=stride, base=base, mask=mask, bits=60)
    np.testing.assert_allclose(
        hamming_costs(fixed, moving, **arguments), brute_force(fixed, moving, **arguments), rtol=1e-6
    )


def test_distance_of_codes_is_the_distance_of_levels():
    rng = np.random.default_rng(0)
    features = rng.integers(0, 256, size=(3, 4, 5, 16)).astype(np.uint8)
    codes = binary_codes(features, 12).ravel()
    levels = (features[..., :12].reshape(-1, 12).astype(int) * 5 + 127) // 255
    for i in range(0, len(codes), 7):
        for j in range(1, len(codes), 11):
            assert bin(int(codes[i]) ^ int(codes[j])).count("1") == np.abs(levels[i] - levels[j]).sum()
