"""The Obelisk network: its weights, and its sampling against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from itk_pdd.errors import RegistrationError
from itk_pdd.network.obelisk import Obelisk, reference_positions


@pytest.mark.parametrize(("channels", "weights"), [(16, 120_780), (24, 270_772)])
def test_number_and_names_of_the_weights(channels, weights):
    network = Obelisk(channels=channels)
    assert sum(p.numel() for p in network.parameters()) == weights
    names = {name for name, _ in network.named_parameters()}
    layers = {f"layer{i}.weight" for i in range(4)} | {f"batch{i}.{p}" for i in range(3) for p in ("weight", "bias")}
    assert names == {"offsets", "layer3.bias"} | layers
    assert network.offsets.shape == (2, 2 * channels, 3)


def described(network: Obelisk, image: torch.Tensor) -> torch.Tensor:
    """The network in the layers of its description, with corners aligned, at the reference positions."""
    first = F.relu(network.batch0(network.layer0(F.avg_pool3d(image[None], 3, stride=2, padding=1))))
    shape = [max(1, n // 3) for n in image.shape[1:]]
    identity = torch.eye(3, 4, dtype=image.dtype)[None]
    grid = F.affine_grid(identity, (1, 1, *shape), align_corners=True).reshape(1, 1, -1, 1, 3)
    sampled = []
    for offsets in network.offsets:
        at = grid + offsets.reshape(1, -1, 1, 1, 3)
        sampled.append(F.grid_sample(first, at, align_corners=True, padding_mode="zeros"))
    x = (sampled[0] - sampled[1]).reshape(1, -1, *shape)
    x = F.relu(network.batch1(network.layer1(x)))
    x = F.relu(network.batch2(network.layer2(x)))
    return network.layer3(x)[0]


@pytest.mark.parametrize("size", [(13, 22, 17)])
@pytest.mark.parametrize("training", [False, True])
def test_it_is_the_described_network(size, training):
    generator = torch.Generator().manual_seed(0)
    network = Obelisk(channels=4, generator=generator).double().train(training)
    with torch.no_grad():
        network.offsets *= 8  # well beyond the border as well
    image = torch.rand(1, *size, dtype=torch.float64, generator=generator)
    results, gradients = [], []
    for function in (lambda i: network(i, reference_positions(size)), lambda i: described(network, i)):
        network.zero_grad()
        result = function(image)
        result.square().sum().backward()
        results.append(result.detach())
        gradients.append({name: p.grad.clone() for name, p in network.named_parameters()})
    torch.testing.assert_close(*results)
    for name in gradients[0]:
        torch.testing.assert_close(gradients[0][name], gradients[1][name], msg=name)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_positions_and_extent_are_image_voxels(norm):
    network = Obelisk(channels=4, norm=norm, extent=(24, 40, 24), generator=torch.Generator().manual_seed(0))
    network.eval()
    image = torch.zeros(1, 48, 64, 72)
    image[:, 16:32, 20:40, 28:44] = torch.rand(1, 16, 20, 16, generator=torch.Generator().manual_seed(1))
    positions = [torch.arange(18.0, 30.0, 4), torch.arange(24.0, 40.0, 3), torch.arange(30.0, 42.0, 3)]
    features = network(image, positions)
    assert features.shape == (4, 3, 6, 4)
    # With the extent given, features move with the image, in steps of the first map.
    moved = network(torch.roll(image, (8, -4), dims=(2, 3)), [positions[0], positions[1] + 8, positions[2] - 4])
    torch.testing.assert_close(moved, features)


def test_default_positions_are_centred():
    network = Obelisk(channels=2).eval()
    with torch.no_grad():
        network.offsets[..., 1:] = 0
        network.offsets[1] = -network.offsets[0]
        for layer in (network.layer0, network.layer2):
            layer.weight.copy_((layer.weight + layer.weight.flip(-2)) / 2)
        image = torch.rand(1, 17, 33, 29, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(network(image.flip(2)), network(image).flip(2))


def test_bad_input_is_named():
    with pytest.raises(RegistrationError, match="one channel and 3 spatial axes"):
        Obelisk()(torch.rand(2, 9, 9, 9))
    for options, message in (
        ({"norm": "layer"}, "norm must be"),
        ({"outside": "wrap"}, "outside must be"),
        ({"extent": (3.0,)}, "extent must be 3"),
        ({"channels": 0}, "channels"),
    ):
        with pytest.raises(RegistrationError, match=message):
            Obelisk(**options)
