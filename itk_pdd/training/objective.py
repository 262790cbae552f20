"""What a PDD network is trained for: labels that meet, or true displacements that are probable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from itk_pdd.errors import RegistrationError
from itk_pdd.kernels.interpolation.definition import sample
from itk_pdd.network.distribution import DisplacementDistribution
from itk_pdd.network.instance import diffusion
from itk_pdd.network.pddnet import Lattice, PddNetwork, dense, descriptors
from itk_pdd.network.settings import PddSettings
from itk_pdd.training.augmentation import soft_targets
from itk_pdd.training.losses import segmentation_loss, squared_label_loss
from itk_pdd.training.pairs import TrainingPair
from itk_pdd.training.pulling import pull, pull_labels, remaining, searched, voxels_of

__all__ = ["LOSSES", "Objective", "ObjectiveSettings"]

LOSSES = ("non-local", "warped", "self-similarity", "truth")
"""See :class:`ObjectiveSettings`."""


@dataclass(frozen=True)
class ObjectiveSettings:
    """What the training minimises.

    Parameters
    ----------
    loss : {"non-local", "warped", "self-similarity", "truth"}
        The paper's non-local label loss: labels expected over all displacements; the labels warped by the expected
        displacement; the same as the first with MIND-SSC features in place of labels, which needs none; the negative
        log-likelihood of the true displacement, where that is known (synthetic pairs).
    diffusion : float
        Weight of :func:`itk_pdd.network.instance.diffusion` of the expected displacements; the paper has 1.5 to 2.
        Larger is smoother.
    pretrain : int
        So many iterations at first teach the features to name the classes (cross-entropy and Dice), with a linear
        layer on top that is thrown away. Only learned features can be taught: this and ``auxiliary`` are refused with
        hand-made ones.
    auxiliary : float
        Weight of that loss beside the other one afterwards, on the fixed image.
    block : int, optional
        Control points along each axis of a random block that a step looks at; all by default. Fewer cost less time.
    """

    loss: str = "non-local"
    diffusion: float = 1.5
    pretrain: int = 0
    auxiliary: float = 0.0
    block: int | None = None

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise RegistrationError(f"loss is {self.loss!r}, expected one of {', '.join(LOSSES)}")
        if self.diffusion < 0 or self.pretrain < 0 or self.auxiliary < 0 or (self.block or 2) < 2:
            raise RegistrationError(
                f"diffusion, pretrain, auxiliary and block are {self.diffusion}, {self.pretrain}, {self.auxiliary} and "
                f"{self.block}, expected none below 0 and a block of 2 or more"
            )


class Objective(nn.Module):
    """A PDD network with its loss, as one module: what several processes share.

    Parameters
    ----------
    network : PddSettings
        What is trained.
    settings : ObjectiveSettings
        What for.
    classes : int
        Number of classes, background included.

    Raises
    ------
    RegistrationError
        If hand-made features are to be taught to name classes.
    """

    def __init__(self, network: PddSettings, settings: ObjectiveSettings, classes: int) -> None:
        super().__init__()
        named = bool(settings.pretrain or settings.auxiliary)
        if named and network.features != "obelisk":
            raise RegistrationError(
                f"pretrain and auxiliary are {settings.pretrain} and {settings.auxiliary}, but {network.features} "
                "features are not learned and cannot be taught to name classes: leave them out, or choose obelisk"
            )
        self.network, self.settings, self.classes = PddNetwork(network), settings, classes
        self.head = nn.Conv3d(network.channels, classes, 1) if named else None

    @property
    def unused(self) -> bool:
        """Whether some weights get no gradient in some steps."""
        return self.head is not None or len(self.network.searches) > 1

    def forward(
        self, pairs: Sequence[TrainingPair], *, naming: bool, rng: np.random.Generator, smoothness: float = 1.0
    ) -> Tensor:
        """The mean loss of some pairs.

        Parameters
        ----------
        pairs : sequence of TrainingPair
            To learn from.
        naming : bool
            Whether this is a step that teaches the features to name classes, not to register.
        rng : numpy.random.Generator
            Chooses the block of control points and, where there are several searches, which one learns.
        smoothness : float
            Factor of the diffusion.
        """
        losses = [self._loss(pair, naming=naming, rng=rng, smoothness=smoothness) for pair in pairs]
        return torch.stack(losses).mean()

    def _loss(self, pair: TrainingPair, *, naming: bool, rng: np.random.Generator, smoothness: float) -> Tensor:
        network = self.network
        first = self._features(pair.fixed)
        if naming:
            return self._naming_loss(first, pair.fixed_labels, pair.weights)
        warp = int(rng.integers(len(network.searches)))
        # The searches before the one that learns only show it the pairs that it will meet.
        moving, labels, truth = pair.moving, pair.moving_labels, pair.truth
        if warp:
            moving, labels, truth = self._warped(pair, first, warp)
        second = self._features(moving)
        layout = network.lattice(pair.fixed.shape[1:], warp=warp)
        distribution = network.search(first, second, layout, warp=warp, block=self._block(layout, rng))
        mean = distribution.mean()
        spacing = [step * size for step, size in zip(layout.control.spacing, layout.step, strict=True)]
        loss = smoothness * self.settings.diffusion * diffusion(layout.to_image(mean), spacing)
        if self.settings.loss == "truth":
            loss = loss + _likelihood_loss(distribution, layout, truth)
        else:
            loss = loss + self._meeting_loss(distribution, mean, layout, pair, moving, labels)
        if self.settings.auxiliary:
            loss = loss + self.settings.auxiliary * self._naming_loss(first, pair.fixed_labels, pair.weights)
        return loss

    def _features(self, image: Tensor) -> Tensor:
        with torch.autocast(image.device.type, torch.bfloat16, enabled=image.device.type == "cuda"):
            return self.network.features(image).float()

    def _block(self, layout: Lattice, rng: np.random.Generator) -> list[slice] | None:
        if self.settings.block is None:
            return None
        lengths = [min(self.settings.block, n) for n in layout.control.shape]
        begins = [int(rng.integers(n - k + 1)) for n, k in zip(layout.control.shape, lengths, strict=True)]
        return [slice(b, b + k) for b, k in zip(begins, lengths, strict=True)]

    def _naming_loss(self, features: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        assert self.head is not None
        shares = self._shares(labels, features.shape[1:])
        return segmentation_loss([self.head(features[None])], shares[None], weights)

    def _shares(self, labels: Tensor, shape: Sequence[int]) -> Tensor:
        """Shares of the classes in the blocks of voxels that the features stand for, (classes, *shape)."""
        fold = self.network.settings.stride
        # The features lie centred in the image: what is left over is cut at both ends.
        cut = [(n - fold * k) // 2 for n, k in zip(labels.shape, shape, strict=True)]
        inner = labels[tuple(slice(c, c + fold * k) for c, k in zip(cut, shape, strict=True))]
        return soft_targets(inner[None], self.classes, fold=fold)[0]

    def _meeting_loss(
        self,
        distribution: DisplacementDistribution,
        mean: Tensor,
        layout: Lattice,
        pair: TrainingPair,
        moving: Tensor,
        labels: Tensor,
    ) -> Tensor:
        positions = distribution.positions
        if self.settings.loss == "self-similarity":
            stride = self.network.settings.stride
            one, other = (descriptors(i[0], layout.features, stride=stride) for i in (pair.fixed, moving))
            return (distribution.expected_labels(other) - sample(one, positions)).square().mean()
        fixed, shares = (self._shares(part, layout.shape) for part in (pair.fixed_labels, labels))
        if self.settings.loss == "non-local":
            return squared_label_loss(distribution.expected_labels(shares), sample(fixed, positions), pair.weights)
        # Between the outermost control points at every feature.
        inside = [
            torch.arange(int(np.ceil(float(p[0]))), int(float(p[-1])) + 1, dtype=torch.float64) for p in positions
        ]
        window = tuple(slice(int(along[0]), int(along[-1]) + 1) for along in inside)
        warped = pull(shares, dense(mean, positions, inside), inside)
        return squared_label_loss(warped, fixed[(slice(None), *window)], pair.weights)

    @torch.no_grad()
    def _warped(self, pair: TrainingPair, first: Tensor, warp: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Moving image, its labels and the rest of the truth after the searches before one."""
        voxels = voxels_of(pair.moving)
        field = searched(self.network, first.detach(), pair.moving, warp, features=self._features)
        labels = pull_labels(pair.moving_labels, field, voxels)
        left = None if pair.truth is None else remaining(pair.truth, field, voxels)
        return pull(pair.moving, field, voxels), labels, left


def _likelihood_loss(distribution: DisplacementDistribution, layout: Lattice, truth: Tensor | None) -> Tensor:
    """Negative log-likelihood of the true displacements within reach, in nats per control point."""
    if truth is None:
        raise RegistrationError("loss is 'truth', but the true displacements of scans are not known: use another one")
    places = [p * s + f for p, s, f in zip(distribution.positions, layout.step, layout.first, strict=True)]
    wanted = sample(truth.permute(3, 0, 1, 2), places).permute(1, 2, 3, 0) / torch.tensor(layout.step[::-1]).to(truth)
    within = (wanted.abs() <= torch.tensor(layout.displacements.reach[::-1]).to(wanted)).all(dim=-1)
    found = distribution.log_probability(wanted)
    return -(found * within).sum() / within.sum().clamp(min=1)
