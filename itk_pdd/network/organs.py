"""Organ probabilities as the features of a PDD network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from itk_pdd.kernels.interpolation.definition import sample
from itk_pdd.network.semantic import predict
from itk_pdd.network.settings import UNetSettings
from itk_pdd.network.unet import UNet

__all__ = ["OrganFeatures", "at_indices", "smoothed"]


class OrganFeatures(nn.Module):
    """Probabilities of organs, each with a factor; the background is no feature: the other probabilities determine it.

    The paper's features see some centimetres around a voxel. A segmentation network sees the whole image, so that two
    places with the same features belong to the same organ. Its weights stay as they are: only the factors are learned.
    """

    def __init__(self, settings: UNetSettings) -> None:
        super().__init__()
        self.unet = UNet(settings).requires_grad_(False)
        self.factors = nn.Parameter(torch.ones(settings.classes - 1))

    def maps(self, image: Tensor) -> Tensor:
        """Smoothed probabilities (classes - 1, z', y', x') of the organs in an image (1, z, y, x), on its blocks."""
        self.unet.eval()  # the norms of a training take the statistics of the image at hand, which is a whole scan here
        # A copy: tensors of the inference mode cannot be learned with.
        return smoothed(predict(self.unet, image[0]).clone())

    def at(self, maps: Tensor, positions: Sequence[Tensor]) -> Tensor:
        """Features (classes - 1, ...) at voxel indices of the image along z, y, x; the border goes on."""
        fold = self.unet.settings.fold
        found = sample(maps, [(along - (fold - 1) / 2) / fold for along in positions])
        return found * self.factors[:, None, None, None]

    def at_places(self, maps: Tensor, places: Tensor) -> Tensor:
        """Features (classes - 1, z', y', x') at indices x, y, z of the maps, (z', y', x', 3); the border goes on."""
        return at_indices(maps, places.to(maps)) * self.factors[:, None, None, None]


def at_indices(values: Tensor, places: Tensor, *, mode: str = "bilinear") -> Tensor:
    """Values (C, z, y, x) at indices x, y, z of voxels (z', y', x', 3); beyond the border they go on."""
    size = torch.tensor(values.shape[:0:-1]).to(places)
    # From corner to corner -1 to 1.
    normalised = places * (2 / (size - 1).clamp(min=1)) - 1
    found = functional.grid_sample(values[None], normalised[None], mode, padding_mode="border", align_corners=True)
    return found[0]


def smoothed(probabilities: Tensor) -> Tensor:
    """Average the probabilities (classes, z, y, x) of all but the background over 3 voxels per axis.

    Features lie farther apart than voxels.
    """
    return functional.avg_pool3d(functional.pad(probabilities[None, 1:], (1,) * 6, mode="replicate"), 3, stride=1)[0]
