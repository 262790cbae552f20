"""The objective of PDD networks on blocks of a fixed image and kept features of moving ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from itk_pdd.network.instance import diffusion
from itk_pdd.network.pddnet import descriptors
from itk_pdd.training.kept import BlockStep, FixedView
from itk_pdd.training.losses import segmentation_loss
from itk_pdd.training.objective import Objective

__all__ = ["BlockObjective"]


class BlockObjective(Objective):
    """A PDD network with its loss on blocks; see ``keep_moving`` of :class:`ObjectiveSettings`."""

    def forward(
        self,
        steps: Sequence[BlockStep | FixedView],
        *,
        weights: Tensor,
        shape: Sequence[int],
        smoothness: float = 1.0,
    ) -> Tensor:
        """The mean loss of some blocks, or of windows whose classes are to be named, in scans of a shape (z, y, x).

        ``weights`` are those of the classes where they are named, ``smoothness`` is the factor of the diffusion.
        """
        views = [step for step in steps if isinstance(step, FixedView)]
        losses = [self._registering(s, shape, smoothness, weights) for s in steps if isinstance(s, BlockStep)]
        if views:
            features = torch.stack([self.network.features_at(v.image, v.positions, v.window) for v in views])
            losses.append(self._naming(features, torch.stack([v.shares for v in views]), weights))
        if self.network.obelisk is not None and self.training:
            self.network.obelisk.update_statistics()
        return torch.stack(losses).mean()

    def _registering(self, step: BlockStep, shape: Sequence[int], smoothness: float, weights: Tensor) -> Tensor:
        network, settings = self.network, self.settings
        layout = network.lattice(shape)
        view, wanted = step.fixed, step.fixed.shares
        features = network.features_at(view.image, view.positions, view.window)
        if settings.loss == "self-similarity":
            positions = [p[w] for p, w in zip(view.positions, view.window, strict=True)]
            wanted = descriptors(view.image[0], positions, stride=network.settings.stride)
        spacing = [s * size for s, size in zip(layout.control.spacing, layout.step, strict=True)]
        losses = []
        for moving, values in zip(step.moving, step.values, strict=True):
            found = network.search(features, moving, layout, block=step.block, windows=step.windows)
            mean = found.mean()
            loss = self._meeting(found, mean, wanted, values, step.windows, step.weights)
            losses.append(loss + smoothness * settings.diffusion * diffusion(layout.to_image(mean), spacing))
        loss = torch.stack(losses).mean()
        if settings.auxiliary:
            loss = loss + settings.auxiliary * self._naming(features[None], view.shares[None], weights)
        return loss

    def _naming(self, features: Tensor, shares: Tensor, weights: Tensor) -> Tensor:
        assert self.head is not None
        return segmentation_loss([self.head(features)], shares, weights)
