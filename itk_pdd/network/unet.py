"""A small U-Net that names the organ at each voxel: semantic features for registration."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from itk_pdd.errors import RegistrationError
from itk_pdd.network.settings import UNetSettings

__all__ = ["UNet", "calibrate", "count_weights", "space_to_depth"]


def space_to_depth(image: Tensor, fold: int) -> Tensor:
    """Blocks of ``fold``^3 voxels as channels: (N, C, z, y, x) to (N, C * fold^3, z / fold, y / fold, x / fold)."""
    if fold == 1:
        return image
    n, c, *size = image.shape
    z, y, x = (length // fold for length in size)
    blocks = image.reshape(n, c, z, fold, y, fold, x, fold)
    return blocks.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(n, c * fold**3, z, y, x)


def _normalised(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    """Convolution and instance norm.

    While it trains, the norm takes the statistics of the crop at hand, so that a batch of one will do; in use it takes
    those of the training's crops, since a whole scan with much air around the body has others.
    """
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.InstanceNorm3d(outputs, affine=True, track_running_stats=True),
    )


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = _normalised(width, width), _normalised(width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.leaky_relu(self.first(x), 0.01, inplace=True)
        return functional.leaky_relu(self.second(y) + x, 0.01, inplace=True)


class UNet(nn.Module):
    """From an image to the logits of its classes.

    One convolution each way at the finest resolution, where voxels are many, residual blocks below it; the ways down
    and up are joined by addition. Logits at coarser resolutions are there for training (deep supervision).

    Parameters
    ----------
    settings : UNetSettings
        Its size.

    References
    ----------
    Cicek et al., "3D U-Net", MICCAI 2016; Isensee et al., "nnU-Net", Nature Methods 2021 (instance norm, leaky ReLU,
    deep supervision).
    """

    def __init__(self, settings: UNetSettings) -> None:
        super().__init__()
        self.settings = settings
        widths = settings.widths
        self.stem = _normalised(settings.fold**3, widths[0])
        pairs = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(_normalised(fine, coarse, stride=2) for fine, coarse in pairs)
        self.encode = nn.ModuleList(_blocks(coarse, settings.blocks) for _, coarse in pairs)
        self.widen = nn.ModuleList(nn.Conv3d(coarse, fine, 1, bias=False) for fine, coarse in pairs)
        self.decode = nn.ModuleList(
            _normalised(fine, fine) if level == 0 else _blocks(fine, settings.blocks)
            for level, (fine, _) in enumerate(pairs)
        )
        self.heads = nn.ModuleList(nn.Conv3d(width, settings.classes, 1) for width in widths[:-1])

    def forward(self, image: Tensor, *, levels: int = 1) -> list[Tensor]:
        """Logits (N, classes, z / fold, y / fold, x / fold), then at coarser resolutions, up to ``levels`` of them.

        The image (N, 1, z, y, x) holds normalised intensities; each length is a multiple of ``fold * multiple``.
        """
        step = self.settings.fold * self.settings.multiple
        if any(length % step for length in image.shape[2:]):
            raise RegistrationError(
                f"image has shape {tuple(image.shape[2:])} (axes z, y, x), expected multiples of {step}"
            )
        x = functional.leaky_relu(self.stem(space_to_depth(image, self.settings.fold)), 0.01, inplace=True)
        skips = []
        for down, encode in zip(self.down, self.encode, strict=True):
            skips.append(x)
            x = encode(functional.leaky_relu(down(x), 0.01, inplace=True))
        logits: list[Tensor] = []
        for level in reversed(range(len(skips))):
            # The 1x1x1 convolution commutes with repeating voxels and is eight times cheaper before it.
            x = functional.interpolate(self.widen[level](x), scale_factor=2, mode="nearest") + skips[level]
            x = self.decode[level](x)
            if level == 0:
                x = functional.leaky_relu(x, 0.01, inplace=True)
            if level < levels:
                logits.insert(0, self.heads[level](x))
        return logits


def _blocks(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_Residual(width) for _ in range(count)))


@torch.no_grad()
def calibrate(network: UNet, batches: Iterable[Tensor]) -> None:
    """Let the norms take the mean statistics of some images for use; leaves the network in evaluation mode.

    Its weights stay as they are. ``batches`` (N, 1, z, y, x) are of the size it was trained with.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.InstanceNorm3d)]
    momentum = norms[0].momentum
    network.train()
    for number, batch in enumerate(batches, start=1):
        for norm in norms:
            norm.momentum = 1 / number
        network(batch)
    for norm in norms:
        norm.momentum = momentum
    network.eval()


def count_weights(network: nn.Module) -> int:
    """Number of trainable weights."""
    return sum(parameter.numel() for parameter in network.parameters())
