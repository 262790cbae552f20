"""The MIND-SSC kernel against the definition, and the definition against its invariances."""

import numpy as np
import pytest
import torch

from itk_pdd.kernels.mind.cpu import add_codes, code_bits, mind_features
from itk_pdd.kernels.mind.definition import mind_ssc, self_similarity_pairs


@pytest.mark.parametrize("shape", [(21, 30, 27), (40, 33), (5, 70, 3), (1, 9, 8)])
@pytest.mark.parametrize("radius, dilation", [(1, 2), (2, 1), (1, 3)])
def test_kernel_is_the_definition(shape, radius, dilation):
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected = mind_ssc(torch.from_numpy(image), radius=radius, dilation=dilation).numpy()
    features = mind_features(image, radius=radius, dilation=dilation)
    channels = len(expected)
    assert not features[..., channels:].any()
    result = np.moveaxis(features[..., :channels], -1, 0).reshape(expected.shape)
    assert np.abs(result / 255 - expected).max() < 0.5 / 255 + 5e-4


@pytest.mark.parametrize("shape", [(12, 13, 14), (20, 21)])
def test_intensity_scale_does_not_matter(shape):
    image = torch.from_numpy(np.random.default_rng(1).normal(size=shape))
    torch.testing.assert_close(mind_ssc(image), mind_ssc(-7 * image + 1000))


def test_flat_image_has_equal_features():
    assert (mind_features(np.full((6, 7, 8), 3.0))[..., :12] == 255).all()


@pytest.mark.parametrize("dimension, count", [(2, 4), (3, 12)])
def test_pairs(dimension, count):
    pairs = self_similarity_pairs(dimension)
    assert pairs.shape == (count, 2, dimension)
    assert (np.abs(pairs).sum(axis=2) == 1).all()
    assert (((pairs[:, 0] - pairs[:, 1]) ** 2).sum(axis=1) == 2).all()


@pytest.mark.parametrize("channels, bits", [(4, 16), (12, 5), (24, 2)])
def test_codes_have_room_for_the_channels(channels, bits):
    assert code_bits(channels) == bits
    codes = np.zeros((5, 6, 7), np.uint64)
    add_codes(np.full((5, 6, 7), 3.0), codes, bits=5, shift=2)
    # Every feature of a flat image is 1: all bits of the 12 channels, and no other.
    assert (codes == np.uint64((2**60 - 1) << 2)).all()


@pytest.mark.parametrize("shape", [(9, 30, 27), (40, 33)])
@pytest.mark.parametrize("bits", [2, 5])
def test_codes_are_thermometers_of_the_features(shape, bits):
    image = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    features = mind_ssc(torch.from_numpy(image), dilation=3).numpy()
    codes = np.zeros(shape if len(shape) == 3 else (1, *shape), np.uint64)
    add_codes(image, codes, bits=bits, shift=1, dilation=3)
    assert not (codes & np.uint64(1)).any()
    for c, feature in enumerate(features):
        level = np.zeros(codes.shape, int)
        for j in range(bits):
            set_ = (codes >> np.uint64(1 + c * bits + j)) & np.uint64(1)
            assert (set_ <= (level == j)).all()  # no bit without the ones below
            level += set_.astype(int)
        # Where the feature lies between two levels, rounding errors decide.
        assert np.abs(level.reshape(shape) - feature * bits).max() < 0.5 + 1e-3
