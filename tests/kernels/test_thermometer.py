"""Codes of class probabilities against a loop over classes."""

import numpy as np
import pytest

from itk_pdd.kernels.thermometer.cpu import share_bits, thermometer_codes


def test_distance_of_codes_is_the_distance_of_levels():
    rng = np.random.default_rng(0)
    values = rng.random((40, 5)).astype(np.float32)
    values[0], values[1] = 0, 1
    bits = [3, 1, 32, 8, 20]
    codes = thermometer_codes(values, bits)
    levels = np.floor(values * np.asarray(bits) + 0.5).astype(int)
    for i in range(40):
        for j in range(40):
            assert bin(int(codes[i]) ^ int(codes[j])).count("1") == np.abs(levels[i] - levels[j]).sum()


def test_bits_follow_the_weights_and_fill_the_code():
    assert share_bits([1, 1, 2], total=64) == [16, 16, 32]
    bits = share_bits([1e-6, 1, 1, 1])
    assert sum(bits) == 64 and min(bits) == 1 and bits[1:] == [21, 21, 21]
    assert share_bits([1.0]) == [32]
    with pytest.raises(ValueError, match="do not fit"):
        share_bits([1.0] * 65)


def test_wrong_bits_are_refused():
    with pytest.raises(ValueError, match="one number per class"):
        thermometer_codes(np.zeros((4, 3), np.float32), [1, 2])
    with pytest.raises(ValueError, match="64 in all"):
        thermometer_codes(np.zeros((4, 3), np.float32), [32, 32, 1])
