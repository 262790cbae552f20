"""Losses at points where they are known."""

from __future__ import annotations

import math

import pytest
import torch

from itk_pdd.training.losses import class_weights, segmentation_loss


def one_hot(labels, classes=3):
    return torch.nn.functional.one_hot(labels, classes).permute(0, 4, 1, 2, 3).float()


LABELS = torch.randint(0, 3, (2, 8, 8, 8), generator=torch.Generator().manual_seed(0))


def test_certain_and_right_costs_nothing_certain_and_wrong_much():
    target, weights = one_hot(LABELS), torch.ones(3)
    right = segmentation_loss([20 * target], target, weights)
    wrong = segmentation_loss([20 * target.roll(1, 1)], target, weights)
    assert float(right) < 1e-3 and float(wrong) > 15


def test_ignorance_costs_the_entropy():
    target = one_hot(LABELS)
    loss = segmentation_loss([torch.zeros_like(target)], target, torch.ones(3), dice=0.0)
    assert float(loss) == pytest.approx(math.log(3), rel=1e-5)


def test_ignored_voxels_do_not_count():
    target = one_hot(LABELS)
    logits = torch.randn(target.shape, generator=torch.Generator().manual_seed(1))
    known = target.clone()
    known[:, :, :4] = 0
    other = logits.clone()
    other[:, :, :4] += 7 * torch.randn(other[:, :, :4].shape, generator=torch.Generator().manual_seed(2))
    weights = torch.tensor([1.0, 2.0, 3.0])
    assert float(segmentation_loss([logits], known, weights)) == pytest.approx(
        float(segmentation_loss([other], known, weights)), rel=1e-5
    )


def test_coarser_answers_count_less():
    target, weights = one_hot(LABELS), torch.ones(3)
    fine, coarse = 20 * target, 20 * torch.nn.functional.avg_pool3d(target, 2)
    bad = -coarse
    both = float(segmentation_loss([fine, bad], target, weights))
    alone = float(segmentation_loss([bad], torch.nn.functional.avg_pool3d(target, 2), weights))
    assert both == pytest.approx(alone / 3, rel=0.02)


def test_rare_classes_weigh_more():
    weights = class_weights(torch.tensor([9000, 900, 100, 0]))
    assert weights[0] < weights[1] < weights[2] and weights[3] == 0
    share = torch.tensor([0.9, 0.09, 0.01, 0])
    assert float((weights * share).sum()) == pytest.approx(1, rel=1e-5)
    assert torch.allclose(weights[1] / weights[0], torch.tensor(10.0**0.25))
    flat = class_weights(torch.tensor([9000, 900, 100]), power=0.0)
    assert torch.allclose(flat, torch.ones(3))
