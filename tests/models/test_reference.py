"""The author's checkpoints give what the described network gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from itk_pdd import models
from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.volume import Volume
from itk_pdd.network.export import rounded
from itk_pdd.network.settings import Warp
from itk_pdd.network.storage import load_weights
from itk_pdd.registration import register_volumes

ALPHA = (1.13, 0.08, 1.05, -0.55, 0.07, 900.0)
SIZE = (30, 26, 33)  # the author's axes: left to right as stored, back to front, upwards


pytestmark = pytest.mark.usefixtures("one_thread")


class Described(nn.Module):
    """The feature network in the words of the paper, its sampling from corner to corner."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.offsets = nn.Parameter(torch.randn(2, channels * 2, 3) * 0.3)
        self.layer0, self.batch0 = nn.Conv3d(1, 4, 5, stride=2, padding=2, bias=False), nn.BatchNorm3d(4)
        self.layer1 = nn.Conv3d(8 * channels, 4 * channels, 1, bias=False)
        self.batch1 = nn.BatchNorm3d(4 * channels)
        self.layer2 = nn.Conv3d(4 * channels, 4 * channels, 3, padding=1, bias=False)
        self.batch2 = nn.BatchNorm3d(4 * channels)
        self.layer3 = nn.Conv3d(4 * channels, channels, 1)

    def forward(self, image):
        first = F.relu(self.batch0(self.layer0(F.avg_pool3d(image, 3, padding=1, stride=2))))
        shape = [n // 3 for n in image.shape[2:]]
        grid = regular(shape).reshape(1, 1, -1, 1, 3)
        at = [F.grid_sample(first, grid + o.view(1, -1, 1, 1, 3), align_corners=True) for o in self.offsets]
        x = (at[0] - at[1]).reshape(1, -1, *shape)
        x = F.relu(self.batch2(self.layer2(F.relu(self.batch1(self.layer1(x))))))
        return self.layer3(x)


def regular(shape, scale=1.0):
    return F.affine_grid(scale * torch.eye(3, 4)[None], (1, 1, *shape), align_corners=True)


def described_displacements(fixed, moving, warp):
    """Costs, two rounds of min-convolution and mean field, expectation: in units of half the extent."""
    n, d = warp.points, warp.displacements
    grid, shift = regular([n] * 3).view(1, -1, 1, 1, 3), regular([d] * 3, warp.reach).view(1, 1, -1, 1, 3)
    samples = F.grid_sample(moving, (grid + shift).view(1, n**3, -1, 1, 3), padding_mode="border", align_corners=True)
    target = F.grid_sample(fixed, grid, align_corners=True).view(1, -1, n**3, 1)
    a1, a2, a3, a4, a5, a6 = ALPHA
    costs = a2 + a1 * (target - samples[..., 0]).square().sum(1).view(1, n**3, d, d, d)

    def smooth(values):
        values = -F.max_pool3d(-F.pad(values, (3,) * 6, mode="replicate"), 3, stride=1)
        values = F.avg_pool3d(F.avg_pool3d(values, 3, stride=1), 3, stride=1)
        values = values.view(n, n, n, d**3).permute(3, 0, 1, 2)[None]
        values = F.pad(values, (2,) * 6, mode="replicate")
        values = F.avg_pool3d(F.avg_pool3d(values, 3, stride=1), 3, stride=1)
        return values[0].permute(1, 2, 3, 0).reshape(1, n**3, d, d, d)

    costs = smooth(a5 + a3 * costs + a4 * smooth(costs))
    probabilities = torch.softmax(-a6 * costs.view(n**3, -1), dim=1)
    return (probabilities @ shift.view(-1, 3)).view(n, n, n, 3)


def checkpoint(folder, channels):
    """A state dict of random weights, of which the norms have seen something, and the network."""
    torch.manual_seed(3)
    network = Described(channels)
    for norm in (network.batch0, network.batch1, network.batch2):
        norm.running_mean.normal_(0, 0.2)
        norm.running_var.uniform_(0.5, 2)
    torch.save(network.state_dict(), folder / "features.pth")
    return folder / "features.pth", network.eval()


def images():
    """Two smooth images in HU, and the tensors that the author's program would make of them."""
    rng = np.random.default_rng(0)
    # Index axes x to the left, y to the front, z up.
    grid = Grid.create(SIZE, (2.0, 2.0, 2.0), (-10.0, 70.0, 5.0), np.diag([1.0, -1.0, 1.0]))
    result = []
    for _ in range(2):
        noise = torch.from_numpy(rng.normal(size=(1, 1, *grid.shape)))
        array = 900 * F.avg_pool3d(noise, 5, stride=1, padding=2)[0, 0].numpy()
        result.append(Volume(array.astype(np.float32), grid))
    tensors = [torch.from_numpy(v.array.transpose(2, 1, 0).copy())[None, None] / 500 for v in result]
    return result, tensors


@pytest.mark.parametrize("channels", [16, 24])
@torch.no_grad()
def test_features_and_displacements_are_those_of_the_described_network(tmp_path, channels):
    path, network = checkpoint(tmp_path, channels)
    (fixed, moving), tensors = images()
    warp = Warp(0.4, 5, 7)
    model = models.from_reference(path, alpha=ALPHA, warps=(warp,), iterations=0)
    grid = model.working_grid(fixed.grid)
    assert grid.shape == SIZE and np.asarray(grid.direction)[0, 2] == 1

    expected = [network(tensor) for tensor in tensors]
    found = model.network.features(tensors[0][0])
    torch.testing.assert_close(found, expected[0][0], rtol=1e-4, atol=1e-5)

    control = described_displacements(*expected, warp)
    assert 0.02 < float(control.norm(dim=-1).mean()) < 0.4  # neither nothing nor the border
    dense = F.interpolate(control.permute(3, 0, 1, 2)[None], SIZE, mode="trilinear", align_corners=True)[0]
    # Components of normalised vectors belong to the last axis first; physically the second axis runs to the front.
    voxels = dense.permute(1, 2, 3, 0).flip(-1) * (torch.tensor(SIZE) - 1) / 2
    millimetres = (voxels * torch.tensor([2.0, -2.0, 2.0])).numpy().transpose(2, 1, 0, 3)
    result = register_volumes(fixed, moving, model=model)
    assert np.abs(result.field.vectors - millimetres).max() < 2e-3 * np.abs(millimetres).max()


def test_it_is_written_and_read_and_takes_two_warps(tmp_path):
    path, _ = checkpoint(tmp_path, 16)
    torch.save({"alpha": torch.tensor(ALPHA)}, tmp_path / "alpha.pth")
    warps = (Warp(0.3, 5, 6), Warp(0.15, 3, 7))
    model = models.from_reference(path, alpha=tmp_path / "alpha.pth", warps=warps, iterations=10)
    assert model.network.searches[1].regularisation.ratio.item() == pytest.approx(ALPHA[3] / ALPHA[2], rel=1e-5)
    model.write(tmp_path / "model")
    (fixed, moving), _ = images()
    # The folder keeps convolutions in half precision; nothing else is lost.
    load_weights(model.network, rounded(model.network))
    fields = [register_volumes(fixed, moving, model=m).field.vectors for m in (model, tmp_path / "model")]
    assert np.abs(fields[0]).max() > 1.0 and np.array_equal(fields[0], fields[1])


def test_what_the_network_cannot_do_is_refused_before_anything_is_computed(tmp_path):
    path, _ = checkpoint(tmp_path, 16)
    model = models.from_reference(path, alpha=ALPHA, warps=(Warp(0.3, 3, 4),), iterations=0)
    (fixed, moving), _ = images()
    with pytest.raises(RegistrationError, match=r"smoothness is 2.0, but .* PDD network, which has learned its own"):
        register_volumes(fixed, moving, model=model, smoothness=2.0)


def test_other_files_are_refused(tmp_path):
    path, network = checkpoint(tmp_path, 16)
    with pytest.raises(RegistrationError, match="features: there is no file"):
        models.from_reference(tmp_path / "none.pth", alpha=ALPHA)
    with pytest.raises(RegistrationError, match="6 factors, found 2"):
        models.from_reference(path, alpha=(1.0, 2.0))
    other = tmp_path / "other.pth"
    torch.save({"alpha": torch.ones(6)}, other)
    with pytest.raises(RegistrationError, match="is no checkpoint of the feature network"):
        models.from_reference(other, alpha=ALPHA)
    with pytest.raises(RegistrationError, match="holds no tensor 'alpha'"):
        models.from_reference(path, alpha=path)
    state = network.state_dict()
    del state["layer2.weight"]
    torch.save(state, other)
    with pytest.raises(RegistrationError, match=r"lacks layer2\.weight"):
        models.from_reference(other, alpha=ALPHA)
    torch.save(network, other)
    with pytest.raises(RegistrationError, match="damaged or holds more than tensors"):
        models.from_reference(other, alpha=ALPHA)
    other.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(RegistrationError, match="damaged or holds more than tensors"):
        models.from_reference(other, alpha=ALPHA)
