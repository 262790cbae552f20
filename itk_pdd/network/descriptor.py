"""Learned descriptors: what the MIND-SSC features at a voxel say, in 64 bits that a small network was taught to choose.

MIND-SSC features are rounded to a few levels each and all levels count alike. Here a network of a single voxel's width,
so that nothing is blurred, looks at the features of several dilations together and gives 64 yes or no answers; their
Hamming distance is compared beside that of MIND-SSC. It begins as the rounding it replaces. That binary answers may be
trained through the slope of a soft sign is from Bengio et al., "Estimating or propagating gradients through stochastic
neurons", arXiv 1308.3432, 2013.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from itk_pdd.kernels.mind.cpu import mind_features
from itk_pdd.network.card import WEIGHTS, DescriptorCard
from itk_pdd.network.settings import DescriptorSettings
from itk_pdd.network.storage import load_weights, read_tensors

__all__ = ["BITS", "Descriptor", "descriptor_features", "load_descriptor"]

BITS = 64
"""Bits of a descriptor: those of one word of a code."""
_CHANNELS = 12  # MIND-SSC features of a dilation in 3-D
_LEVELS = (-0.5, 0.5)  # where two bits per feature divide its range from -1 to 1
_STEEPNESS = 4.0  # of the soft sign at the start; larger learns more slowly, smaller tells less
_SLAB = 8  # slices that are encoded at once


class Descriptor(nn.Module):
    """A network from MIND-SSC features to 64 numbers, whose signs are the bits."""

    def __init__(self, settings: DescriptorSettings) -> None:
        super().__init__()
        self.settings = settings
        channels = _CHANNELS * len(settings.dilations)
        self.direct = nn.Linear(channels, BITS)
        self.inner, self.outer = nn.Linear(channels, settings.hidden), nn.Linear(settings.hidden, BITS)
        # At first each bit is whether a feature lies above a level: two levels of the first and third dilation (of the
        # first two where there are no more), and one of the others as long as there are bits.
        third = min(2, len(settings.dilations) - 1)
        coarse = [(d, c, level) for d in (0, third) for c in range(_CHANNELS) for level in _LEVELS]
        spare = [d for d in range(len(settings.dilations)) if d not in (0, third)]
        coarse += [(d, c, 0.0) for d in spare for c in range(_CHANNELS)]
        with torch.no_grad():
            for parameter in (self.direct.weight, self.direct.bias, self.outer.weight, self.outer.bias):
                parameter.zero_()
            for bit, (d, c, level) in enumerate(coarse[:BITS]):
                self.direct.weight[bit, _CHANNELS * d + c] = _STEEPNESS
                self.direct.bias[bit] = -_STEEPNESS * level

    def forward(self, features: Tensor) -> Tensor:
        """64 numbers (..., 64) of features (..., channels) as :func:`descriptor_features` gives them."""
        return self.direct(features) + self.outer(functional.relu(self.inner(features)))

    @torch.inference_mode()
    def codes(self, image: np.ndarray) -> np.ndarray:
        """Descriptors of an image (z, y, x) of any scale as uint64 words (z, y, x), the first bit lowest."""
        features = [mind_features(image, dilation=d) for d in self.settings.dilations]
        device = self.direct.weight.device
        codes = np.empty(image.shape, np.uint64)
        for first in range(0, len(image), _SLAB):
            rows = _normalised([each[first : first + _SLAB] for each in features])
            signs = (self(torch.from_numpy(rows).to(device)) > 0).cpu().numpy()
            codes[first : first + _SLAB] = np.packbits(signs, axis=-1, bitorder="little").view("<u8")[..., 0]
        return codes


def descriptor_features(image: np.ndarray, dilations: tuple[int, ...]) -> np.ndarray:
    """Compute the input of a descriptor: MIND-SSC features of an image (z, y, x), float32 from -1 to 1.

    There are 12 for each dilation, given in voxels: (z, y, x, 12 n).
    """
    return _normalised([mind_features(image, dilation=d) for d in dilations])


def _normalised(features: list[np.ndarray]) -> np.ndarray:
    joined = np.concatenate([each[..., :_CHANNELS] for each in features], axis=-1)
    return joined.astype(np.float32) / np.float32(127.5) - np.float32(1)


def load_descriptor(folder: str | os.PathLike[str], *, device: Any = "cpu") -> Descriptor:
    """The descriptor of a model folder; RegistrationError if there is none, or its files are damaged."""
    card = DescriptorCard.from_folder(folder)
    network = Descriptor(card.network)
    load_weights(network, read_tensors(Path(folder) / WEIGHTS, name="model"), name=f"model {card.name}")
    return network.to(device).eval()
