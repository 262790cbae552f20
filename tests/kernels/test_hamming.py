"""The Hamming cost kernel against a loop over everything."""

import numpy as np
import pytest

from itk_pdd.kernels.hamming.cpu import hamming_costs


def brute_force(fixed, moving, cell, radius, step, stride, base, block, mask, scales):
    if fixed.ndim == 4:
        words = zip(fixed, moving, scales, strict=True)
        return sum(brute_force(f, m, cell, radius, step, stride, base, block, mask, s) for f, m, s in words)
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
                    q = q + np.floor(base[tuple(np.asarray(p) // block)][::-1] + 0.5).astype(int)
                q = np.clip(q, 0, np.asarray(moving.shape) - 1)
                q = np.clip(q + (np.asarray(d) - radius) * step, 0, np.asarray(moving.shape) - 1)
                total += bin(int(fixed[tuple(p)]) ^ int(moving[tuple(q)])).count("1")
            out[k + d] = total / max(1, len(samples)) * scales
    return out


@pytest.mark.parametrize("seed", range(8))
def test_matches_brute_force(seed):
    rng = np.random.default_rng(seed)
    flat = seed % 3 == 0
    words = 1 + seed // 4
    fixed = rng.integers(0, 2**64, size=(words, *rng.integers(1, 9, 3)), dtype=np.uint64)
    moving = rng.integers(0, 2**64, size=(words, *rng.integers(1, 9, 3)), dtype=np.uint64)
    radius, step = rng.integers(0, 5, 3), rng.integers(1, 4, 3)
    # A row of displacements takes one, two or three vectors.
    radius[2] = rng.integers(0, 11)
    cell, stride = rng.integers(1, 5, 3), rng.integers(1, 3, 3)
    if flat:
        fixed, moving = fixed[:, :1], moving[:, :1]
        radius[0], cell[0] = 0, 1
    block = rng.integers(1, 4, 3)
    base = rng.normal(scale=4, size=(*-(-np.asarray(fixed.shape[1:]) // block), 3)).astype(np.float32)
    base = base if seed % 2 else None
    mask = rng.random(fixed.shape[1:]) < 0.6 if seed % 4 == 1 else None
    scales = rng.random(words)
    arguments = dict(
        cell=cell, radius=radius, step=step, stride=stride, base=base, block=block, mask=mask, scales=scales
    )
    found, count = hamming_costs(fixed, moving, **arguments), 2 * radius[2] + 1
    np.testing.assert_allclose(found[..., :count], brute_force(fixed, moving, **arguments), rtol=1e-5)
    assert found.shape[-1] % 8 == 0
    assert (found[..., count:] > 1e20).all()
