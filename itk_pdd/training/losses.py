"""Losses of training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["class_weights", "label_weights", "segmentation_loss", "squared_label_loss"]


def class_weights(counts: Tensor, *, power: float = 0.25, largest: float = 4.0) -> Tensor:
    """Weights that let small organs count, from the voxels of each class in the training data, background first.

    Weights go with frequency to the minus ``power``: 0 treats all voxels, 1 all classes alike. ``largest`` bounds the
    ratio to the mean weight of the classes. Their mean over the voxels is 1; 0 for classes that do not occur.
    """
    counts = counts.double()
    share = counts / counts.sum()
    weights = torch.where(share > 0, share.clamp(min=1e-12) ** -power, 0.0)
    weights = weights / (weights * share).sum()
    return weights.clamp(max=largest * float(weights[share > 0].mean())).float()


def label_weights(counts: Tensor, *, background: float = 0.15) -> Tensor:
    """The paper's weights of classes in a label loss: 1 over the root of their frequency, 0 where they do not occur.

    ``counts`` are voxels of each class, background first; ``background`` is its weight beside a mean of 1 of the
    classes.
    """
    counts = counts.double()
    weights = torch.where(counts > 0, counts.clamp(min=1).rsqrt(), 0.0)
    weights = weights / weights[counts > 0].mean()
    weights[0] = background
    return weights.float()


def squared_label_loss(found: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """Mean squared difference of two maps of class shares (classes, ...), with a weight for each class.

    With the labels *expected* over a distribution of displacements it is the non-local label loss of the paper, with
    labels warped by one displacement the usual one. Where the shares of ``wanted`` sum to less than 1 (beyond the field
    of view) the place counts less.
    """
    known = wanted.sum(0, keepdim=True)
    difference = (found - wanted).square() * weights.view(-1, *[1] * (wanted.ndim - 1)) * known
    return difference.sum() / (known.sum() * len(weights)).clamp(min=1e-6)


def segmentation_loss(
    logits: Sequence[Tensor], target: Tensor, weights: Tensor, *, dice: float = 1.0, halving: float = 0.5
) -> Tensor:
    """Cross-entropy plus ``dice`` times soft Dice at one or several resolutions, each ``halving`` times the finer one.

    Logits (N, classes, z, y, x) come finest first, each half as fine as the one before. ``target`` (N, classes, z, y,
    x) are shares of the classes in the voxels of the finest; a voxel that sums to 0 is ignored. ``weights`` are those
    of the classes in the cross-entropy.
    """
    total, factor, sum_of_factors = logits[0].new_zeros(()), 1.0, 0.0
    for level, found in enumerate(logits):
        if level:
            target = torch.nn.functional.avg_pool3d(target, 2)
        total = total + factor * _one_resolution(found, target, weights, dice)
        sum_of_factors += factor
        factor *= halving
    return total / sum_of_factors


def _one_resolution(logits: Tensor, target: Tensor, weights: Tensor, dice: float) -> Tensor:
    logarithm = logits.float().log_softmax(1)
    probabilities = logarithm.exp()
    known = target.sum(1, keepdim=True)
    weighted = target * weights.view(1, -1, 1, 1, 1)
    entropy = -(weighted * logarithm).sum() / weighted.sum().clamp(min=1e-6)
    # Over the whole batch, so that an organ absent from one crop does not turn its Dice into noise.
    axes = (0, 2, 3, 4)
    overlap = (probabilities * target).sum(axes)[1:]
    size = (probabilities.square() * known + target.square()).sum(axes)[1:]
    present = target.sum(axes)[1:] > 0
    score = (2 * overlap + 1e-3) / (size + 1e-3)
    return entropy + dice * (1 - score[present].mean() if bool(present.any()) else score.new_zeros(()))
