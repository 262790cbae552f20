"""Keep the features of the moving scans, and show the fixed one where a block of control points needs it.

Nine tenths of a training step at full size go into the features of the moving image, because displacements reach far.
So these are computed by the averaged network, for whole scans and only now and then, and are constants in between; the
loss teaches the features of the fixed image alone, whose block is small. Each scan is fixed at some time and moving at
another. A slowly moving average as the other side of a comparison is due to K. He et al., "Momentum Contrast for
Unsupervised Visual Representation Learning", CVPR 2020.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from itk_pdd.errors import RegistrationError
from itk_pdd.network.obelisk import with_neighbours
from itk_pdd.network.pddnet import Lattice, PddNetwork, descriptors
from itk_pdd.training.augmentation import Augmentation, random_crop, soft_targets
from itk_pdd.training.dataset import Sample
from itk_pdd.training.losses import class_weights, label_weights
from itk_pdd.training.regions import windows_of

__all__ = ["BlockStep", "FixedView", "KeptScans", "view_of"]

_LABELLED = 0.7  # share of the blocks that are placed around a voxel of a random class
_STEP = 4  # voxels from one voxel of the first map of the learned features to the next
_NAMED = 20  # features along each axis of a window in which classes are named


@dataclass(frozen=True)
class FixedView:
    """A deformed part of a scan, around a window of features."""

    image: Tensor  # normalised intensities (1, z, y, x)
    # Voxel indices along z, y, x of the features of the window in it, and of their neighbours.
    positions: tuple[Tensor, ...]
    window: tuple[slice, ...]  # the window among these
    shares: Tensor  # (classes, z', y', x'), of the voxels that the features of the window stand for


@dataclass(frozen=True)
class BlockStep:
    """Hold the parts of a fixed and of some moving scans that one step of a training on blocks looks at."""

    fixed: FixedView  # of the features around the block
    block: tuple[slice, ...]  # control points along z, y, x
    # Of fixed and moving features, see :class:`itk_pdd.training.regions.Windows`.
    windows: tuple[tuple[slice, ...], tuple[slice, ...]]
    moving: list[Tensor]  # features (channels, z', y', x') of one or more moving scans in their window
    values: list[Tensor]  # class shares (values, z', y', x') there, or descriptors
    weights: Tensor  # of the classes in the label loss


def view_of(
    sample: Sample,
    positions: Sequence[Tensor],
    window: Sequence[slice],
    classes: int,
    *,
    stride: int,
    margins: Sequence[float],
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> FixedView:
    """Show a part of a scan, deformed about the centre of a window of features, as ``rng`` determines.

    ``positions`` are voxel indices of all features in the scan along z, y, x, ``stride`` apart; features look
    ``margins`` voxels beyond the window. The elastic displacement of the augmentation is in units of the whole scan.
    """
    chosen, inner = with_neighbours(positions, window)
    # Whole steps of the features' first map from the border of the scan: it is sampled at the same voxels.
    begins = [_STEP * math.floor((float(p[0]) - m) / _STEP) for p, m in zip(chosen, margins, strict=True)]
    # An odd number of voxels, whose centre is one of them: nothing is interpolated where nothing is deformed.
    shape = tuple(
        (math.ceil(float(p[-1]) + m) + stride - b) // 2 * 2 + 1 for p, m, b in zip(chosen, margins, begins, strict=True)
    )
    # The same displacements in voxels as in a deformed whole scan.
    ratio = float(np.mean(sample.image.shape)) / float(np.mean(shape))
    varied = replace(augmentation, shape=shape, elastic=augmentation.elastic * min(2.0, ratio))
    centre = [b + (n - 1) / 2 for b, n in zip(begins, shape, strict=True)]
    crop = random_crop(sample.image, sample.labels, classes, fold=1, augmentation=varied, rng=rng, centre=centre)
    inside = tuple(p - b for p, b in zip(chosen, begins, strict=True))
    blocks = _blocks(crop.labels, [p[w] for p, w in zip(inside, inner, strict=True)], stride)
    return FixedView(crop.image[None], inside, inner, soft_targets(blocks, classes, fold=stride)[0])


def _blocks(labels: Tensor, positions: Sequence[Tensor], stride: int) -> Tensor:
    """The voxels (1, z, y, x) around features that stand ``stride`` apart."""
    # Features may stand between two voxels; their block is then the lower one, here as in a whole scan.
    firsts = [int(np.floor(float(p[0]) - (stride - 1) / 2 + 1e-6)) for p in positions]
    return labels[tuple(slice(f, f + stride * len(p)) for f, p in zip(firsts, positions, strict=True))][None]


class KeptScans:
    """The scans of a training with their features by an earlier network; RegistrationError if their grids differ.

    The layout is that of the first search of ``network``; its features are computed by :meth:`renew`. ``augmentation``
    is that of the fixed scan, ``counts`` are voxels of each class in the scans, for its weights in the losses. If
    ``described``, MIND-SSC descriptors take the place of the class shares in the loss.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        classes: int,
        network: PddNetwork,
        *,
        augmentation: Augmentation,
        counts: Tensor,
        described: bool,
    ) -> None:
        for sample in samples[1:]:
            if sample.image.shape != samples[0].image.shape or not torch.allclose(
                sample.affine, samples[0].affine, atol=1e-3
            ):
                raise RegistrationError(
                    f"data: {samples[0].name} and {sample.name} lie on different grids, but features are kept for "
                    "scans on one grid only: resample the scans, or leave out keep_moving"
                )
        self.samples, self.classes = list(samples), classes
        self.weights, self.naming_weights = label_weights(counts), class_weights(counts)
        self.stride, self.augmentation = network.settings.stride, augmentation
        self.layout: Lattice = network.lattice(samples[0].image.shape)
        with torch.no_grad():
            shares = [
                soft_targets(_blocks(s.labels, self.layout.features, self.stride), classes, fold=self.stride)[0]
                for s in samples
            ]
            self.values = shares if not described else [self._described(s) for s in samples]
        self._main = [part.argmax(0).to(torch.uint8) for part in shares]
        self.keys: PddNetwork | None = None
        self.features: list[Tensor] = []

    def _described(self, sample: Sample) -> Tensor:
        return descriptors(sample.image.float(), self.layout.features, stride=self.stride)

    @torch.no_grad()
    def renew(self, network: PddNetwork) -> None:
        """Compute the features of all scans by a network; it is copied."""
        self.keys = copy.deepcopy(network).eval()
        self.features = [self.keys.features(sample.image.float()[None]) for sample in self.samples]

    def draw(self, rng: np.random.Generator, network: PddNetwork, *, block: int, images: int) -> BlockStep:
        """A random block of a random scan, and ``images`` - 1 others as moving ones."""
        fixed, *others = (int(n) for n in rng.choice(len(self.samples), images, replace=False))
        shape = self.layout.control.shape
        lengths = [min(block, n) for n in shape]
        chosen = _slices(self._begins(fixed, shape, lengths, rng), lengths)
        windows = windows_of(self.layout, chosen)
        view = self._view(fixed, windows.fixed, network, rng)
        part = (slice(None), *windows.moving)
        return BlockStep(
            view, windows.block, (windows.fixed, windows.moving),
            [self.features[n][part].contiguous() for n in others],
            [self.values[n][part].contiguous() for n in others],
            self.weights,
        )  # fmt: skip

    def draw_named(self, rng: np.random.Generator, network: PddNetwork) -> FixedView:
        """A random window of features of a random scan."""
        number, shape = int(rng.integers(len(self.samples))), self.layout.shape
        lengths = [min(_NAMED, n) for n in shape]
        return self._view(number, _slices(self._begins(number, shape, lengths, rng), lengths), network, rng)

    def _view(self, number: int, window: Sequence[slice], network: PddNetwork, rng: np.random.Generator) -> FixedView:
        return view_of(
            self.samples[number], self.layout.features, window, self.classes, stride=self.stride,
            margins=network.margins(self.layout), augmentation=self.augmentation, rng=rng,
        )  # fmt: skip

    def _begins(self, number: int, shape: Sequence[int], lengths: Sequence[int], rng: np.random.Generator) -> list[int]:
        """Place a block at random: mostly around a voxel of a random class, so that small organs count."""
        wanted, biased, pick = int(rng.integers(1, self.classes)), rng.random() < _LABELLED, rng.random()
        shares, anywhere = rng.uniform(0.2, 0.8, 3), rng.random(3)
        where = (self._main[number] == wanted).nonzero()
        if not (biased and len(where)):
            return [int(a * (n - k + 1)) for a, n, k in zip(anywhere, shape, lengths, strict=True)]
        place = where[int(pick * len(where))].tolist()
        scaled = [p / m * n for p, m, n in zip(place, self._main[number].shape, shape, strict=True)]
        return [
            int(np.clip(round(p - share * k), 0, n - k))
            for p, share, n, k in zip(scaled, shares, shape, lengths, strict=True)
        ]


def _slices(begins: Sequence[int], lengths: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(b, b + k) for b, k in zip(begins, lengths, strict=True))
