"""Semantic features: which organ a voxel belongs to, as probabilities from a trained network."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.volume import Volume
from itk_pdd.network.card import WEIGHTS, ModelCard
from itk_pdd.network.preparation import prepare_image
from itk_pdd.network.storage import check_weights, load_weights, read_tensors
from itk_pdd.network.unet import UNet

__all__ = ["WHOLE", "SemanticNetwork", "predict"]

WHOLE = 2_500_000
"""Voxels of the network's grid that are worked on at once: about 1.5 GB."""
_TILE, _OVERLAP = 128, 32


class SemanticNetwork:
    """A trained network and its card."""

    def __init__(self, network: UNet, card: ModelCard) -> None:
        self.network = network.eval().requires_grad_(False)
        self.card = card

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str], *, device: str = "cpu") -> SemanticNetwork:
        """Read a model folder: ``card.json`` and ``weights.safetensors``.

        RegistrationError if a file is missing or damaged, comes from a newer version, or the two do not belong
        together.
        """
        card = ModelCard.from_folder(folder)
        tensors = read_tensors(Path(folder) / WEIGHTS, name="model")
        # Before memory is asked for: a network of shapes alone.
        with torch.device("meta"):
            check_weights(UNet(card.network), tensors, name=f"model {card.name}")
        network = UNet(card.network)
        load_weights(network, tensors, name=f"model {card.name}")
        return cls(network.to(device), card)

    def grid(self, grid: Grid) -> Grid:
        """The grid on which the network answers for an image on ``grid``: anatomical axes, its own spacing."""
        return grid.canonical().with_spacing(self.card.image_spacing).blocks(self.card.network.fold)

    def probabilities(self, volume: Volume) -> tuple[np.ndarray, Grid]:
        """Class probabilities of a 3-D image of any spacing and direction, in the units the network was trained with.

        Returns
        -------
        probabilities : numpy.ndarray, shape (classes, z, y, x), float32
            They sum to 1; channel 0 is the background, the others in the order of ``card.classes``.
        grid : Grid
            Where the voxels of ``probabilities`` lie (see :meth:`grid`); it covers the image.
        """
        if volume.grid.dimension != 3:
            raise RegistrationError(
                f"model {self.card.name} works on 3-D images, found one of {volume.grid.dimension} dimensions: choose "
                "another model"
            )
        prepared = prepare_image(volume, self.card.image_spacing, self.card.intensity)
        found = predict(self.network, torch.from_numpy(prepared.array)).cpu().numpy()
        return found, prepared.grid.blocks(self.card.network.fold)


@torch.inference_mode()
def predict(network: UNet, image: Tensor, *, whole: int = WHOLE) -> Tensor:
    """Class probabilities (classes, z', y', x') of a prepared image (z, y, x), float32; z' is z / fold rounded up.

    An answer of more than ``whole`` voxels is computed in overlapping tiles that are blended; more need more memory.
    """
    fold, multiple = network.settings.fold, network.settings.multiple
    size = [-(-length // fold) for length in image.shape]
    steps = [-(-length // multiple) * multiple for length in size]
    padding = [end for step, length in zip(steps, image.shape, strict=True) for end in (step * fold - length, 0)][::-1]
    device = next(network.parameters()).device
    padded = functional.pad(image[None, None].float().to(device), padding, mode="replicate")
    if int(np.prod(steps)) <= whole:
        answer = _answer(network, padded)
    else:
        answer = torch.zeros((network.settings.classes, *steps), device=device)
        total = torch.zeros(steps, device=device)
        for window, weight in _tiles(steps, multiple):
            tile = padded[(slice(None), slice(None), *(slice(s.start * fold, s.stop * fold) for s in window))]
            weight = weight.to(device)
            answer[(slice(None), *window)] += weight * _answer(network, tile)
            total[window] += weight
        answer /= total
    return answer[:, : size[0], : size[1], : size[2]]


def _answer(network: UNet, image: Tensor) -> Tensor:
    # In this layout torch picks the fast convolutions for a single image on the CPU as well.
    return network(image.contiguous(memory_format=torch.channels_last_3d))[0][0].float().softmax(0).contiguous()


def _tiles(size: list[int], multiple: int) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
    """Overlapping windows that cover a grid, and weights that fall off towards their borders."""
    length = -(-_TILE // multiple) * multiple
    windows, ramps = [], []
    for n in size:
        tile = min(n, length)
        # As few as overlap enough, spread evenly, at multiples so that voxels fall together as in the whole image.
        count = 1 + max(0, -(-(n - tile) // (length - _OVERLAP)))
        starts = [round(i * (n - tile) / max(1, count - 1) / multiple) * multiple for i in range(count)]
        windows.append([slice(start, start + tile) for start in starts])
        distance = torch.arange(tile).minimum(torch.arange(tile).flip(0)) + 1.0
        ramps.append(distance.clamp(max=_OVERLAP / 2))
    weight = ramps[0][:, None, None] * ramps[1][:, None] * ramps[2]
    for window in itertools.product(*windows):
        yield window, weight
