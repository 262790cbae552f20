"""The objective of PDD networks: labels that agree, or true displacements that are probable."""

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
from itk_pdd.training.pulling import pull, pull_labels, remaining, voxels_of
from itk_pdd.training.regions import Windows, random_block, searched_window, warped_window, windows_of

__all__ = ["LOSSES", "Objective", "ObjectiveSettings"]

LOSSES = ("non-local", "warped", "self-similarity", "truth")
"""See :class:`ObjectiveSettings`."""


@dataclass(frozen=True)
class ObjectiveSettings:
    """Hold the losses that the training minimises, and their weights."""

    # "non-local", "warped", "self-similarity", "truth": the paper's non-local label loss: labels expected over all
    # displacements; the labels warped by the expected displacement; the same as the first with MIND-SSC features in
    # place of labels, which needs none; the negative log-likelihood of the true displacement, where that is known
    # (synthetic pairs).
    loss: str = "non-local"
    # Weight of :func:`itk_pdd.network.instance.diffusion` of the expected displacements; the paper has 1.5 to 2. Larger
    # is smoother.
    diffusion: float = 1.5
    # So many iterations at first teach the features to name the classes (cross-entropy and Dice), with a linear layer
    # on top that is thrown away. Only learned features can be taught: this and ``auxiliary`` are refused with hand-made
    # ones.
    pretrain: int = 0
    auxiliary: float = 0.0  # weight of that loss beside the other one afterwards, on the fixed image
    # Share of the iterations over which the diffusion grows to its weight. While the features say little yet, the
    # easiest way to a smooth field would be to look at them less and less.
    ramp: float = 0.3
    # Images of which a step sees all ordered pairs, each with the features of an image computed once; of 2 only one
    # pair. More images let a step cost less per pair and show less different places.
    images: int = 2
    # Control points along each axis of a random block that a step looks at; all by default. Fewer cost less time: the
    # features are computed where the block needs them if the network's are local (``norm="running"``), else everywhere.
    # Pairs of a step that share an image share the block and the features of that image.
    block: int | None = None
    # Iterations for which the features of all scans by the averaged network are kept, to be those of the moving images:
    # the loss then teaches the features of the fixed image alone, of which a step shows a small part around its block
    # (see :mod:`itk_pdd.training.kept`). Larger is faster and follows the training more slowly. Only the first search
    # learns; the others take its factors, as in the author's program. 0 computes the features of both images in each
    # step. Needs a block, and scans on one grid.
    keep_moving: int = 0

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise RegistrationError(f"loss is {self.loss!r}, expected one of {', '.join(LOSSES)}")
        if self.diffusion < 0 or self.pretrain < 0 or self.auxiliary < 0 or (self.block or 2) < 2:
            raise RegistrationError(
                f"diffusion, pretrain, auxiliary and block are {self.diffusion}, {self.pretrain}, {self.auxiliary} and "
                f"{self.block}, expected none below 0 and a block of 2 or more"
            )
        if self.keep_moving < 0 or (self.keep_moving and (self.block is None or self.loss == "truth")):
            raise RegistrationError(
                f"keep_moving is {self.keep_moving} with block {self.block} and loss {self.loss!r}, expected 0, or a "
                "number of iterations with a block and another loss than 'truth'"
            )
        if not 0 <= self.ramp <= 1 or self.images < 2:
            raise RegistrationError(
                f"ramp and images are {self.ramp} and {self.images}, expected a share of 1 and 2 or more images"
            )


class Objective(nn.Module):
    """A PDD network with its loss, as one module: what several processes share.

    RegistrationError if hand-made features are to be taught to name classes.
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
        """Return True if some weights get no gradient in some steps."""
        return self.head is not None or len(self.network.searches) > 1

    def forward(
        self, pairs: Sequence[TrainingPair], *, naming: bool, rng: np.random.Generator, smoothness: float = 1.0
    ) -> Tensor:
        """The mean loss of some pairs.

        ``naming`` is a step that teaches the features to name classes, not to register. ``rng`` chooses the block of
        control points and, where there are several searches, which one learns. ``smoothness`` is the factor of the
        diffusion.
        """
        losses, shared, place = [], {}, None
        moved = {id(pair.moving) for pair in pairs}
        for pair in pairs:
            if place is None or not {id(pair.fixed), id(pair.moving)} & shared.keys():
                shared, place = {}, self._place(pair, rng)
            losses.append(self._loss(pair, *place, shared, moved, naming=naming, smoothness=smoothness))
        if self.network.obelisk is not None and self.training:
            self.network.obelisk.update_statistics()
        return torch.stack(losses).mean()

    def _place(self, pair: TrainingPair, rng: np.random.Generator) -> tuple[int, Windows]:
        """A random search that learns, and a block of its control points."""
        warp = int(rng.integers(len(self.network.searches)))
        layout = self.network.lattice(pair.fixed.shape[1:], warp=warp)
        return warp, windows_of(layout, random_block(layout, self.settings.block, rng))

    def _loss(
        self,
        pair: TrainingPair,
        warp: int,
        windows: Windows,
        shared: dict[int, Tensor],
        moved: set[int],
        *,
        naming: bool,
        smoothness: float,
    ) -> Tensor:
        network = self.network
        if naming:
            return self._naming_loss(self._features(pair.fixed, windows.moving), pair, windows.moving)

        def of(image: Tensor, window: Sequence[slice]) -> Tensor:
            """Features in a window of an image, computed once in all that the pairs of a step see of it."""
            wide = windows.moving if warp == 0 and id(image) in moved else window
            if id(image) not in shared:
                shared[id(image)] = self._features(image, wide)
            return shared[id(image)][(slice(None), *_within(window, wide))]

        first = of(pair.fixed, windows.fixed)
        # The searches before the one that learns only show it the pairs that it will meet.
        moving, labels, truth = pair.moving, pair.moving_labels, pair.truth
        if warp:
            moving, labels, truth = self._warped(pair, warp, windows)
        second = self._features(moving, windows.moving) if warp else of(moving, windows.moving)
        layout = network.lattice(pair.fixed.shape[1:], warp=warp)
        distribution = network.search(
            first, second, layout, warp=warp, block=windows.block, windows=(windows.fixed, windows.moving)
        )
        mean = distribution.mean()
        spacing = [step * size for step, size in zip(layout.control.spacing, layout.step, strict=True)]
        loss = smoothness * self.settings.diffusion * diffusion(layout.to_image(mean), spacing)
        if self.settings.loss == "truth":
            loss = loss + _likelihood_loss(distribution, layout, truth)
        else:
            loss = loss + self._meeting_loss(distribution, mean, layout, pair, moving, labels, windows)
        if self.settings.auxiliary:
            loss = loss + self.settings.auxiliary * self._naming_loss(first, pair, windows.fixed)
        return loss

    def _features(self, image: Tensor, window: Sequence[slice]) -> Tensor:
        with torch.autocast(image.device.type, torch.bfloat16, enabled=image.device.type == "cuda"):
            if self.network.local:
                return self.network.features(image, window).float()
            return self.network.features(image)[(slice(None), *window)].float()

    def _naming_loss(self, features: Tensor, pair: TrainingPair, window: Sequence[slice]) -> Tensor:
        assert self.head is not None
        shares = self._shares(pair.fixed_labels, window)
        return segmentation_loss([self.head(features[None])], shares[None], pair.weights)

    def _shares(self, labels: Tensor, window: Sequence[slice]) -> Tensor:
        """Shares of the classes in the blocks of voxels that the features of a window stand for, (classes, ...)."""
        fold = self.network.settings.stride
        # The features lie centred in the image: what is left over is cut at both ends.
        cut = [n % fold // 2 for n in labels.shape]
        inner = labels[tuple(slice(c + fold * w.start, c + fold * w.stop) for c, w in zip(cut, window, strict=True))]
        return soft_targets(inner[None], self.classes, fold=fold)[0]

    def _meeting_loss(
        self,
        distribution: DisplacementDistribution,
        mean: Tensor,
        layout: Lattice,
        pair: TrainingPair,
        moving: Tensor,
        labels: Tensor,
        windows: Windows,
    ) -> Tensor:
        parts = windows.fixed, windows.moving
        if self.settings.loss == "self-similarity":
            wanted, values = (
                descriptors(
                    image[0],
                    [f[w] for f, w in zip(layout.features, part, strict=True)],
                    stride=self.network.settings.stride,
                )
                for image, part in zip((pair.fixed, moving), parts, strict=True)
            )
        else:
            wanted, values = self._shares(pair.fixed_labels, parts[0]), self._shares(labels, parts[1])
        return self._meeting(distribution, mean, wanted, values, parts, pair.weights)

    def _meeting(
        self,
        distribution: DisplacementDistribution,
        mean: Tensor,
        wanted: Tensor,
        values: Tensor,
        windows: tuple[Sequence[slice], Sequence[slice]],
        weights: Tensor,
    ) -> Tensor:
        """Compare the values of the moving image, where they are displaced to, with those of the fixed one.

        ``wanted`` and ``values`` (values, z', y', x') are class shares or descriptors in the windows of the features
        of the fixed and the moving image.
        """
        here, there = ([p - w.start for p, w in zip(distribution.positions, part, strict=True)] for part in windows)
        if self.settings.loss == "self-similarity":
            return (distribution.expected_labels(values, positions=there) - sample(wanted, here)).square().mean()
        if self.settings.loss == "non-local":
            found = distribution.expected_labels(values, positions=there)
            return squared_label_loss(found, sample(wanted, here), weights)
        # Between the outermost control points at every feature.
        inside = [
            torch.arange(int(np.ceil(float(p[0]))), int(float(p[-1])) + 1, dtype=torch.float64)
            for p in distribution.positions
        ]
        part = tuple(
            slice(int(a[0]) - w.start, int(a[-1]) + 1 - w.start) for a, w in zip(inside, windows[0], strict=True)
        )
        targets = [a - w.start for a, w in zip(inside, windows[1], strict=True)]
        warped = pull(values, dense(mean, distribution.positions, inside), targets)
        return squared_label_loss(warped, wanted[(slice(None), *part)], weights)

    @torch.no_grad()
    def _warped(self, pair: TrainingPair, warp: int, windows: Windows) -> tuple[Tensor, Tensor, Tensor | None]:
        """Moving image, labels and rest of the truth after the searches before one, where its block sees them."""
        field, seen = searched_window(
            self.network, pair.fixed, pair.moving, warp, windows.block, features=self._features
        )
        moving, labels = warped_window(pair.moving, field, seen), pair.moving_labels.clone()
        voxels = [v[w] for v, w in zip(voxels_of(pair.moving), seen, strict=True)]
        labels[seen] = pull_labels(pair.moving_labels, field, voxels)
        if pair.truth is None:
            return moving, labels, None
        truth = pair.truth.clone()
        inside = [v - w.start for v, w in zip(voxels, seen, strict=True)]
        truth[seen] = remaining(pair.truth[seen], field, inside)
        return moving, labels, truth


def _within(window: Sequence[slice], wide: Sequence[slice]) -> tuple[slice, ...]:
    """A window in the indices of a wider one."""
    return tuple(slice(w.start - v.start, w.stop - v.start) for w, v in zip(window, wide, strict=True))


def _likelihood_loss(distribution: DisplacementDistribution, layout: Lattice, truth: Tensor | None) -> Tensor:
    """Negative log-likelihood of the true displacements within reach, in nats per control point."""
    if truth is None:
        raise RegistrationError("loss is 'truth', but the true displacements of scans are not known: use another one")
    places = [p * s + f for p, s, f in zip(distribution.positions, layout.step, layout.first, strict=True)]
    wanted = sample(truth.permute(3, 0, 1, 2), places).permute(1, 2, 3, 0) / torch.tensor(layout.step[::-1]).to(truth)
    within = (wanted.abs() <= torch.tensor(layout.displacements.reach[::-1]).to(wanted)).all(dim=-1)
    found = distribution.log_probability(wanted)
    return -(found * within).sum() / within.sum().clamp(min=1)
