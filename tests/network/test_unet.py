"""The segmentation network: shapes, folding, and statistics of its norms."""

from __future__ import annotations

import pytest
import torch

from itk_pdd.errors import RegistrationError
from itk_pdd.network.settings import UNetSettings
from itk_pdd.network.storage import load_weights
from itk_pdd.network.unet import UNet, calibrate, count_weights, space_to_depth

SETTINGS = UNetSettings(3, (4, 8, 12), 1, 2)


def network(settings=SETTINGS, seed=0):
    torch.manual_seed(seed)
    return UNet(settings).eval()


def test_folding_puts_each_block_into_the_channels_of_one_voxel():
    image = torch.arange(4 * 6 * 8).float().reshape(1, 1, 4, 6, 8)
    folded = space_to_depth(image, 2)
    assert folded.shape == (1, 8, 2, 3, 4)
    for z, y, x in ((0, 0, 0), (1, 2, 3), (0, 1, 2)):
        block = image[0, 0, 2 * z : 2 * z + 2, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
        assert torch.equal(folded[0, :, z, y, x], block.flatten())
    assert space_to_depth(image, 1) is image


def test_answers_at_each_resolution():
    with torch.no_grad():
        answers = network()(torch.randn(2, 1, 16, 24, 32), levels=2)
    assert [tuple(a.shape) for a in answers] == [(2, 3, 8, 12, 16), (2, 3, 4, 6, 8)]


def test_a_shape_that_does_not_divide_is_refused():
    with pytest.raises(RegistrationError, match=r"image has shape \(16, 20, 32\) .* expected multiples of 8"):
        network()(torch.randn(1, 1, 16, 20, 32))


@torch.no_grad()
def test_in_use_the_norms_know_nothing_of_what_is_far_away():
    """With the statistics of the image at hand, air added at one end would change the answer at the other."""
    net = network()
    image = torch.randn(1, 1, 32, 32, 96)
    calibrate(net, [image[..., :32], image[..., 32:64]])
    other = image.clone()
    other[..., 80:] = -1
    difference = (net(image)[0] - net(other)[0]).abs()
    assert float(difference[..., 44:].max()) > 1e-2 and float(difference[..., :8].max()) < 1e-5


@torch.no_grad()
def test_calibrated_on_an_image_it_answers_as_in_training():
    """Statistics of one crop, taken in use, are those that training takes from it (up to the unbiased variance)."""
    net, image = network(), torch.randn(1, 1, 32, 32, 32)
    expected = net.train()(image)[0]
    net.eval()
    assert float((net(image)[0] - expected).abs().max()) > 1e-2
    calibrate(net, [image])
    assert float((net(image)[0] - expected).abs().max()) < 2e-2
    assert not net.training


@torch.no_grad()
def test_calibration_takes_the_mean_over_the_batches():
    net = network()
    batches = [torch.randn(1, 1, 16, 16, 16) + shift for shift in (0.0, 3.0)]
    means = []
    for batch in batches:
        calibrate(net, [batch])
        means.append(net.stem[1].running_mean.clone())
    calibrate(net, batches)
    assert torch.allclose(net.stem[1].running_mean, (means[0] + means[1]) / 2, atol=1e-5)


def test_settings_are_checked():
    with pytest.raises(RegistrationError, match="classes is 1"):
        UNetSettings(1)
    with pytest.raises(RegistrationError, match="widths is"):
        UNetSettings(3, (8,))
    with pytest.raises(RegistrationError, match="blocks and fold"):
        UNetSettings(3, fold=0)
    assert count_weights(network()) < count_weights(network(UNetSettings(3, (4, 8, 16), 1, 2)))


def test_weights_that_do_not_belong_are_named():
    net = network()
    state = {name: value.clone() for name, value in network(seed=1).state_dict().items()}
    load_weights(net, state)
    assert torch.equal(net.stem[0].weight, state["stem.0.weight"])
    missing = {name: value for name, value in state.items() if name != "stem.0.weight"}
    with pytest.raises(RegistrationError, match=r"weights lacks stem\.0\.weight"):
        load_weights(net, missing)
    with pytest.raises(RegistrationError, match="holds extra, which the network does not have"):
        load_weights(net, state | {"extra": torch.zeros(1)})
    with pytest.raises(RegistrationError, match=r"stem\.0\.weight has shape \(1,\), expected \(4, 8, 3, 3, 3\)"):
        load_weights(net, state | {"stem.0.weight": torch.zeros(1)})
    with pytest.raises(RegistrationError, match="holds NaN"):
        load_weights(net, state | {"stem.0.weight": torch.full((4, 8, 3, 3, 3), float("nan"))})
