"""Grey values: codes and windows."""

from __future__ import annotations

import numpy as np
import pytest

from itk_pdd.views.grey import encode, knots_of, windows


def test_codes_keep_the_order_and_most_of_them_the_window():
    values = np.linspace(-1024, 3000, 5000)
    codes = encode(values, knots_of(values, (-150.0, 250.0)))
    assert codes.min() == 0 and codes.max() == 255 and (np.diff(codes.astype(int)) >= 0).all()
    assert len(set(codes[(values >= -150) & (values <= 250)])) >= 200
    back = np.interp(codes, *zip(*knots_of(values, (-150.0, 250.0)), strict=True))
    inside = (values > -140) & (values < 240)
    assert np.abs(back - values)[inside].max() < 400 / 200


@pytest.mark.parametrize("limits", [(0.0, 1.0), (-1.0, 1.0), (0.0, 2.0), (-1.0, 2.0), (0.2, 0.8)])
def test_the_ends_of_the_window_are_known_again(limits):
    array = np.linspace(0, 1, 100)
    own, other = windows(knots_of(array, limits), knots_of(array + 900, (900.0, 901.0)))
    assert own == limits and other == (900.0, 901.0)


def test_one_window_for_one_unit():
    rng = np.random.default_rng(0)
    chest, belly = rng.uniform(-1024, 1500, 1000), rng.uniform(-1000, 300, 1000)
    assert windows(knots_of(chest, (-900.0, 400.0)), knots_of(belly, (-150.0, 200.0))) == ((-900.0, 400.0),) * 2
    first, second = rng.uniform(0, 1000, 1000), rng.uniform(0, 100, 1000)
    assert windows(knots_of(first, (0.0, 1000.0)), knots_of(first, (50.0, 900.0))) == ((0.0, 1000.0),) * 2
    assert windows(knots_of(first, (0.0, 1000.0)), knots_of(second, (0.0, 100.0))) == ((0.0, 1000.0), (0.0, 100.0))
