"""The training of a learned descriptor: its bits are to make the true displacements of random shapes probable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from itk_pdd.network.descriptor import BITS, Descriptor, descriptor_features
from itk_pdd.network.settings import DescriptorSettings
from itk_pdd.solver.devices import checked_device
from itk_pdd.training.distributed import Processes
from itk_pdd.training.loop import Loop
from itk_pdd.training.schedule import TrainingSettings
from itk_pdd.training.views import Views, ViewSource

__all__ = ["DescriptorTrainer", "Objective", "likelihood_loss", "random_cells"]

CELLS = (2, 3, 4)
"""Voxels along each axis of the cells whose costs are looked at: those of the last search, and larger ones instead of
the neighbours that support a cell there."""
RADIUS = 3
"""Displacements tried along each axis are -RADIUS .. RADIUS voxels, as in the last search."""
_DILATIONS, _LEVELS = (1, 2), (-0.5, 0.5)  # of the MIND-SSC features beside it, two bits each, as there
_PER_VIEW = 64  # cells of each size and pair of views
_FLAT = 0.15  # share of places without an edge that are looked at: little can be learned there
_TEMPERATURE = 20.0  # where the factor of the costs begins


class _Sign(torch.autograd.Function):
    """The sign, with the slope of a hyperbolic tangent."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        context.save_for_backward(values)
        return torch.where(values > 0, 1.0, -1.0)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        (values,) = context.saved_tensors
        return gradients[0] * (1 - torch.tanh(values) ** 2)


class Objective(nn.Module):
    """A descriptor with the temperatures that its costs have for each size of cells.

    ``share`` is what its bits count beside those of MIND-SSC, from 0 to 1.
    """

    def __init__(self, settings: DescriptorSettings, share: float) -> None:
        super().__init__()
        self.descriptor, self.share = Descriptor(settings), share
        self.log_temperature = nn.Parameter(torch.full((len(CELLS),), float(np.log(_TEMPERATURE))))

    def forward(self, views: Sequence[Views], rng: np.random.Generator) -> Tensor:
        """Mean negative log-likelihood of the true displacements of random cells, in nats."""
        losses = [loss for each in views for loss in self._losses(each, rng)]
        if losses:
            return torch.stack(losses).mean()
        # Views that show hardly any edge teach nothing; several processes still wait for the gradient of each weight.
        return torch.stack([0.0 * weights.sum() for weights in self.parameters()]).sum()

    def _losses(self, views: Views, rng: np.random.Generator) -> list[Tensor]:
        device = self.log_temperature.device
        dilations = self.descriptor.settings.dilations
        features = [descriptor_features(image, dilations) for image in (views.fixed, views.moving)]
        codes = [self._codes(torch.from_numpy(each).to(device)) for each in features]
        losses = []
        for cell, temperature in zip(CELLS, self.log_temperature.exp(), strict=True):
            corners, bases, truth = random_cells(views, cell, rng)
            if len(corners):
                losses.append(likelihood_loss(*codes, corners, bases, truth, cell=cell, temperature=temperature))
        return losses

    def _codes(self, features: Tensor) -> Tensor:
        """Signs whose scalar product, per voxel, is 1 less twice the cost: shares of MIND-SSC and of the descriptor."""
        learned = _Sign.apply(self.descriptor(features)) * (self.share / BITS) ** 0.5
        dilations = self.descriptor.settings.dilations
        each = features.shape[-1] // len(dilations)
        of = [dilations.index(d) * each for d in _DILATIONS if d in dilations]
        bits = [features[..., first : first + each] > level for first in of for level in _LEVELS]
        if not bits:
            return learned
        hand_made = torch.where(torch.cat(bits, dim=-1), 1.0, -1.0)
        return torch.cat([learned, hand_made * ((1 - self.share) / hand_made.shape[-1]) ** 0.5], dim=-1)


def random_cells(views: Views, cell: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells of the fixed view, and where in the moving one they are looked for; all (n, 3), axes z, y, x.

    Returns the first voxel of each cell and the displacement around which the others lie, both int, and the true
    displacements, the mean over the cell.
    """
    size = np.asarray(views.fixed.shape)
    corners = rng.integers(0, size - cell + 1, (6 * _PER_VIEW, 3))
    edges = views.edges[tuple((corners + (cell - 1) // 2).T)]
    corners = corners[edges | (rng.random(len(corners)) < _FLAT)]
    means = functional.avg_pool3d(views.displacements.movedim(-1, 0)[None], cell, stride=1)[0].movedim(0, -1)
    truth = means.numpy()[..., ::-1][tuple(corners.T)]
    # The search has come this near.
    bases = np.rint(truth + rng.uniform(-0.6, 0.6, truth.shape) * RADIUS).astype(int)
    inside = ((corners + truth >= 0) & (corners + truth <= size - cell)).all(axis=1)
    return corners[inside][:_PER_VIEW], bases[inside][:_PER_VIEW], truth[inside][:_PER_VIEW]


def likelihood_loss(
    fixed: Tensor,
    moving: Tensor,
    corners: np.ndarray,
    bases: np.ndarray,
    truth: np.ndarray,
    *,
    cell: int,
    temperature: Tensor | float,
    radius: int = RADIUS,
) -> Tensor:
    """Negative log-likelihood of true displacements, where those of a cell are as probable as its costs are small.

    Codes are (z, y, x, bits): the cost of a voxel is half of 1 less their scalar product. Beyond the border the nearest
    voxel counts. ``corners``, ``bases`` and ``truth`` come from :func:`random_cells` for cells of ``cell`` voxels along
    each axis; displacements are ``base - radius .. base + radius``; ``temperature`` is the factor of the costs in the
    softmax over them. The result is the mean over the cells in nats; a true displacement between those of the search
    counts for its neighbours.
    """
    span, along = cell + 2 * radius, 2 * radius + 1
    own, others = _rows(fixed, corners, cell), _rows(moving, corners + bases - radius, span)
    products = torch.bmm(own, others.transpose(1, 2)).reshape(len(corners), -1, span, span, span)
    products = sum(
        products[:, (z * cell + y) * cell + x, z : z + along, y : y + along, x : x + along]
        for z in range(cell) for y in range(cell) for x in range(cell)
    )  # fmt: skip
    costs = 0.5 - products.reshape(len(corners), -1) / (2 * cell**3)
    weights = _nearest(truth - bases + radius, along).to(costs.device)
    return -(weights * functional.log_softmax(-costs * temperature, dim=1)).sum(1).mean()


def _rows(codes: Tensor, corners: np.ndarray, count: int) -> Tensor:
    """Codes of cubes of ``count`` voxels along each axis, shape (cubes, count^3, bits)."""
    depth, height, width = codes.shape[:3]
    z, y, x = (
        np.clip(corners[:, axis, None] + np.arange(count), 0, n - 1) for axis, n in enumerate((depth, height, width))
    )
    index = (z[:, :, None, None] * height + y[:, None, :, None]) * width + x[:, None, None, :]
    # As rows of a table, whose gradient is gathered fast.
    return functional.embedding(torch.from_numpy(index.reshape(len(corners), -1)).to(codes.device), codes.flatten(0, 2))


def _nearest(places: np.ndarray, along: int) -> Tensor:
    """Weights (n, along^3) of the displacements next to some places among them (n, 3), as for linear interpolation."""
    low = np.floor(places).astype(int)
    weights = np.zeros((len(places), along**3), np.float32)
    for corner in np.ndindex(2, 2, 2):
        share = np.where(corner, places - low, 1 - (places - low)).prod(axis=1)
        index = np.clip(low + corner, 0, along - 1)
        np.add.at(weights, (np.arange(len(places)), np.ravel_multi_index(tuple(index.T), (along,) * 3)), share)
    return torch.from_numpy(weights)


class DescriptorTrainer(Loop):
    """Trains a descriptor on views of random shapes, from where a checkpoint in its folder ends.

    ``share`` is that of :class:`Objective`; ``settings.batch`` is the number of pairs of views of a step and process;
    ``validation`` are pairs of views to measure on.
    """

    def __init__(
        self,
        folder: Path,
        network: DescriptorSettings,
        source: ViewSource,
        *,
        share: float,
        settings: TrainingSettings,
        validation: int = 48,
        device: str = "cpu",
        processes: Processes | None = None,
    ) -> None:
        self.source, self.validation, self.device = source, validation, torch.device(checked_device(device))
        torch.manual_seed(settings.seed)
        module = Objective(network, share).to(self.device)
        super().__init__(folder, module, settings=settings, names=[], processes=processes or Processes())
        self.parallel = self.processes.wrap(module)

    def _loss(self, rng: np.random.Generator) -> Tensor:
        return self.parallel([self.source.draw(rng) for _ in range(self.settings.batch)], rng)

    def _measure(self) -> None:
        return None

    @torch.no_grad()
    def _figures(self) -> dict[str, float]:
        losses = []
        for number in range(self.validation):
            rng = np.random.default_rng([self.settings.seed, number, 1, 1])
            losses.append(float(self.average([self.source.draw(rng)], rng)))
        return {"validation loss": float(np.mean(losses))}

    def _settings(self) -> dict[str, Any]:
        return {
            "settings": asdict(self.settings),
            "network": asdict(self.network.descriptor.settings),
            "source": {"share": self.network.share, "maps": self.source.count, "size": self.source.size},
            "processes": self.processes.count,
        }
