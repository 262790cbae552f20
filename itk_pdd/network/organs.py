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

__all__ = ["OrganFeatures", "smoothed"]


class OrganFeatures(nn.Module):
    """Probabilities of organs, each with a factor.

    The paper's features see some centimetres around a voxel. A segmentation network sees the whole image, so that two
    places with the same features belong to the same organ. Its weights stay as they are: only the factors are
    learned.

    Parameters
    ----------
    settings : UNetSettings
        The segmentation network. Its background is no feature: the other probabilities determine it.
    """

    def __init__(self, settings: UNetSettings) -> None:
        super().__init__()
        self.unet = UNet(settings).requires_grad_(False)
        self.factors = nn.Parameter(torch.ones(settings.classes - 1))

    def maps(self, image: Tensor) -> Tensor:
        """Smoothed probabilities of the organs on blocks of an image.

        Parameters
        ----------
        image : Tensor, shape (1, z, y, x)
            Normalised intensities.

        Returns
        -------
        Tensor, shape (classes - 1, z', y', x')
            z' is z / fold rounded up, and so on.
        """
        self.unet.eval()  # the norms of a training take the statistics of the image at hand, which is a whole scan here
        # A copy: tensors of the inference mode cannot be learned with.
        return smoothed(predict(self.unet, image[0]).clone())

    def at(self, maps: Tensor, positions: Sequence[Tensor]) -> Tensor:
        """Features (classes - 1, ...) at voxel indices of the image along z, y, x; the border goes on."""
        fold = self.unet.settings.fold
        return (
            sample(maps, [(along - (fold - 1) / 2) / fold for along in positions]) * self.factors[:, None, None, None]
        )

    def at_places(self, maps: Tensor, places: Tensor) -> Tensor:
        """Features (classes - 1, z', y', x') at indices x, y, z of the maps, (z', y', x', 3); the border goes on."""
        size = torch.tensor(maps.shape[:0:-1]).to(maps)
        normalised = places.to(maps) * (2 / (size - 1).clamp(min=1)) - 1  # from corner to corner
        found = functional.grid_sample(maps[None], normalised[None], padding_mode="border", align_corners=True)[0]
        return found * self.factors[:, None, None, None]


def smoothed(probabilities: Tensor) -> Tensor:
    """Average the probabilities of the organs over 3 voxels per axis, since features lie farther apart than voxels.

    Parameters
    ----------
    probabilities : Tensor, shape (classes, z, y, x)
        Background first.

    Returns
    -------
    Tensor, shape (classes - 1, z, y, x)
    """
    return functional.avg_pool3d(functional.pad(probabilities[None, 1:], (1,) * 6, mode="replicate"), 3, stride=1)[0]
