"""The background of images whose parts are known."""

from __future__ import annotations

import numpy as np
import pytest

from itk_pdd.geometry.background import background_of

SHAPE = (40, 50, 60)
PLACES = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij"), axis=-1)
INSIDE = np.linalg.norm(PLACES[:, :, :, 1:], axis=-1) < 0.7  # a cylinder, cut by two faces


def body(level, texture, seed=0):
    return np.random.default_rng(seed).normal(level, texture, SHAPE)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_air_of_a_ct(dtype):
    lungs = np.linalg.norm(PLACES, axis=-1) < 0.4
    array = np.where(INSIDE, np.where(lungs, -850, body(40, 20)), body(-1000, 8, 1)).astype(dtype)
    assert background_of(array) == pytest.approx(-1000, abs=5)


def test_a_padding_is_the_background_even_beside_air():
    array = np.where(INSIDE, body(40, 20), -1000).astype(np.int16)
    array[:, :8], array[:, -8:] = -2048, -2048
    assert background_of(array) == -2048


def test_noise_about_zero_is_zero():
    array = np.abs(np.where(INSIDE, body(300, 40), body(0, 6, 1))).astype(np.float32)
    assert background_of(array) == 0


def test_a_bright_background():
    array = np.where(INSIDE, body(120, 20), 255).clip(0, 255).astype(np.uint8)[20]
    assert background_of(array) == 255


def test_where_the_border_shows_anatomy_it_is_the_smallest_value():
    array = (body(100, 5) + 60 * np.exp(-(np.linalg.norm(PLACES, axis=-1) ** 2) / 0.02) - 90 * INSIDE[::-1]).astype(
        np.float32
    )
    cut = array[5:35, 20:30, 25:35]
    assert background_of(cut) == cut.min()


def test_an_image_of_one_value_has_none():
    assert background_of(np.full((5, 6), 3.0)) == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_intensities_near_the_largest_number_do_not_overflow(dtype):
    array = np.where(INSIDE, body(40, 20), 0).astype(dtype)
    array[:, ::4, ::2], array[:, 1::4, ::2] = np.finfo(dtype).max, np.finfo(dtype).min
    with np.errstate(over="raise", invalid="raise"):
        assert np.isfinite(background_of(array))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_does_not_count(value):
    array = np.where(INSIDE, body(40, 20), -1000).astype(np.float32)
    array[:, :4], array[20, 20, 20] = value, value
    assert background_of(array) == pytest.approx(-1000, abs=1)
    assert background_of(np.full(SHAPE, value)) == 0
