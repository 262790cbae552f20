"""Measure how well a network separates the classes: Dice against label maps."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from itk_pdd.training.augmentation import soft_targets

__all__ = ["dice_per_class", "majority"]


def majority(labels: Tensor, classes: int, fold: int) -> Tensor:
    """Labels (z, y, x) on the network's grid: the class with the largest share of each block."""
    padding = [end for length in reversed(labels.shape) for end in (0, -length % fold)]
    padded = functional.pad(labels[None, None].float(), padding, mode="replicate")[0].to(torch.uint8)
    return soft_targets(padded, classes, fold=fold)[0].argmax(0)


def dice_per_class(found: Tensor, truth: Tensor, classes: int) -> np.ndarray:
    """Dice of each class but the background, NaN where the truth lacks it, shape (classes - 1,)."""
    result = np.full(classes - 1, np.nan)
    for number in range(1, classes):
        a, b = found == number, truth == number
        if bool(b.any()):
            result[number - 1] = 2 * float((a & b).sum()) / float(a.sum() + b.sum())
    return result
