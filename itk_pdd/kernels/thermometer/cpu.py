"""Class probabilities as binary codes: bits set up to a level, so that the Hamming distance is that of the levels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from itk_pdd.kernels.parallel import compiled, run

__all__ = ["share_bits", "thermometer_codes"]


@compiled
def _codes(first, last, values, bits, out):
    classes = bits.shape[0]
    for i in range(first, last):
        code, place = np.uint64(0), 0
        for c in range(classes):
            level = int(min(max(values[i, c], np.float32(0)), np.float32(1)) * np.float32(bits[c]) + np.float32(0.5))
            code |= ((np.uint64(1) << np.uint64(level)) - np.uint64(1)) << np.uint64(place)
            place += bits[c]
        out[i] = code


def thermometer_codes(values: np.ndarray, bits: Sequence[int]) -> np.ndarray:
    """64-bit codes whose Hamming distance is the L1 distance of values, each times its number of bits and rounded.

    Parameters
    ----------
    values : numpy.ndarray
        Numbers from 0 to 1, float32, shape (..., classes).
    bits : sequence of int
        Bits of each class, at most 32 each and 64 in all; more weigh the class more and tell its values better apart.

    Returns
    -------
    numpy.ndarray
        uint64, shape (...).
    """
    bits = np.asarray(bits, dtype=np.int64)
    if bits.sum() > 64 or bits.max() > 32 or bits.min() < 0 or len(bits) != values.shape[-1]:
        raise ValueError(f"bits are {bits.tolist()}, expected one number per class ({values.shape[-1]}), 64 in all")
    flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1, len(bits))
    out = np.empty(len(flat), np.uint64)
    run(_codes, len(flat), flat, bits, out, grain=16384)
    return out.reshape(values.shape[:-1])


def share_bits(weights: Sequence[float], *, total: int = 64) -> list[int]:
    """Share the bits of a code among classes in proportion to weights, at least one and at most 32 each.

    Parameters
    ----------
    weights : sequence of float
        One positive number per class, at most ``total`` of them.
    total : int
        Number of bits.
    """
    weights = np.asarray(weights, dtype=float)
    if len(weights) > total:
        raise ValueError(f"{len(weights)} classes do not fit {total} bits")
    bits = np.ones(len(weights), int)
    # One bit after the other goes to the class that is furthest below its share.
    for _ in range(min(total, 32 * len(weights)) - len(weights)):
        lack = np.where(bits < 32, weights / weights.sum() * total - bits, -np.inf)
        bits[int(lack.argmax())] += 1
    return bits.tolist()
