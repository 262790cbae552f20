"""The MIND-SSC kernel against the definition, and the definition against its invariances."""

import numpy as np
import pytest
import torch

from itk_pdd.kernels.mind import binary_codes, code_bits, mind_features
from itk_pdd.network.mind import mind_ssc, self_similarity_pairs


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


@pytest.mark.parametrize("channels, bits", [(4, 64), (12, 60), (24, 48)])
def test_codes_use_the_bits_they_say(channels, bits):
    features = np.full((1, 1, 1, 24), 255, np.uint8)
    assert code_bits(channels) == bits
    assert bin(int(binary_codes(features, channels)[0, 0, 0])).count("1") == bits
