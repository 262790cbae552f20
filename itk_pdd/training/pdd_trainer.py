"""The training of the PDD network: pairs of images, features and regularisation end to end."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from itk_pdd.errors import RegistrationError
from itk_pdd.network.pddnet import PddNetwork
from itk_pdd.network.settings import PddSettings
from itk_pdd.network.storage import load_weights
from itk_pdd.solver.devices import checked_device
from itk_pdd.training.augmentation import IGNORED
from itk_pdd.training.block_objective import BlockObjective
from itk_pdd.training.distributed import Processes
from itk_pdd.training.kept import KeptScans
from itk_pdd.training.loop import Loop
from itk_pdd.training.objective import Objective, ObjectiveSettings
from itk_pdd.training.pairs import PairSource, ScanPairs, TrainingPair, on_device
from itk_pdd.training.pulling import pull_labels, searched, voxels_of
from itk_pdd.training.schedule import TrainingSettings
from itk_pdd.training.segmentation import dice_per_class

__all__ = ["PddTrainer", "registered_dice"]


class PddTrainer(Loop):
    """Trains a PDD network on pairs, from where a checkpoint in its folder ends.

    ``settings.batch`` is the number of pairs of a step and process; ``source`` is whatever else must be the same for a
    training to be resumed: names of the scans, augmentation. RegistrationError if half precision is asked for, or see
    :class:`itk_pdd.training.objective.Objective`.
    """

    def __init__(
        self,
        folder: Path,
        network: PddSettings,
        pairs: PairSource,
        *,
        objective: ObjectiveSettings,
        settings: TrainingSettings,
        source: dict[str, Any],
        device: str = "cpu",
        processes: Processes | None = None,
    ) -> None:
        if settings.bfloat16:
            raise RegistrationError(
                "bfloat16 is asked for, but a PDD network computes in single precision on a CPU: leave it out"
            )
        self.pairs, self.source, self.device = pairs, source, torch.device(checked_device(device))
        torch.manual_seed(settings.seed)
        kind = BlockObjective if objective.keep_moving else Objective
        module = kind(network, objective, len(pairs.names)).to(self.device)
        self.kept = self._keep(module, objective) if objective.keep_moving else None
        super().__init__(folder, module, settings=settings, names=pairs.names, processes=processes or Processes())
        self.parallel = self.processes.wrap(module, unused=module.unused)

    def _keep(self, module: Objective, objective: ObjectiveSettings) -> KeptScans:
        if not isinstance(self.pairs, ScanPairs) or self.device.type != "cpu" or not module.network.local:
            raise RegistrationError(
                "keep_moving is asked for, but it is for scans, on a CPU, with norm 'running': leave it out"
            )
        return KeptScans(
            self.pairs.train, len(self.pairs.names), module.network, augmentation=self.pairs.augmentation,
            counts=self.pairs.counts, described=objective.loss == "self-similarity",
        )  # fmt: skip

    def _block_loss(self, kept: KeptScans, rng: np.random.Generator, *, naming: bool, smoothness: float) -> Tensor:
        objective, network = self.network.settings, self.network.network
        if naming:
            steps = [kept.draw_named(rng, network) for _ in range(2 * self.settings.batch)]
        else:
            if not kept.features or (self.iteration - objective.pretrain) % objective.keep_moving == 0:
                kept.renew(self.average.network)
            steps = [
                kept.draw(rng, network, block=objective.block, images=objective.images)
                for _ in range(self.settings.batch)
            ]
        return self.parallel(steps, weights=kept.naming_weights, shape=self.pairs.shape, smoothness=smoothness)

    def step(self) -> float:
        """See :class:`itk_pdd.training.loop.Loop`; with kept features only the first search has learned."""
        value = super().step()
        if self.kept is not None:
            for module in (self.network, self.average):
                first, *others = module.network.searches
                for search in others:
                    search.load_state_dict(first.state_dict())
        return value

    def _extra_tensors(self) -> dict[str, Tensor]:
        if self.kept is None or self.kept.keys is None:
            return {}
        return dict(self.kept.keys.state_dict())

    def _restore_extra(self, tensors: dict[str, Tensor]) -> None:
        if self.kept is not None and tensors:
            network = copy.deepcopy(self.average.network)
            load_weights(network, tensors)
            self.kept.renew(network)

    def _loss(self, rng: np.random.Generator) -> Tensor:
        objective = self.network.settings
        naming = self.iteration < objective.pretrain
        first = (*self.starts, self.settings.iterations)[1]  # an extension keeps the diffusion that was reached
        ramp = objective.ramp * (first - objective.pretrain)
        share = (self.iteration - objective.pretrain + 1) / max(1.0, ramp)
        if self.kept is not None:
            return self._block_loss(self.kept, rng, naming=naming, smoothness=min(1.0, share))
        drawn = [
            pair
            for _ in range(self.settings.batch)
            for pair in on_device(self.pairs.draw_several(rng, objective.images), self.device)
        ]
        return self.parallel(drawn, naming=naming, rng=rng, smoothness=min(1.0, share))

    def _measure(self) -> np.ndarray | None:
        pairs = self.pairs.validation()
        return registered_dice(self.average.network.eval(), pairs, len(self.names), self.device) if len(pairs) else None

    def _settings(self) -> dict[str, Any]:
        return {
            "settings": asdict(self.settings),
            "objective": asdict(self.network.settings),
            "network": asdict(self.network.network.settings),
            "source": {"classes": self.pairs.values, **self.source},
            "processes": self.processes.count,
        }


@torch.no_grad()
def registered_dice(
    network: PddNetwork, pairs: Iterable[TrainingPair], classes: int, device: torch.device
) -> np.ndarray:
    """Dice (pairs, classes - 1) after registration, without instance optimisation, on the working grid.

    NaN where one of the images lacks a class.
    """
    rows = []
    for each in pairs:
        (pair,) = on_device([each], device)
        count = len(network.settings.warps)
        field = searched(network, network.features(pair.fixed), pair.moving, count, features=network.features)
        labels = pull_labels(pair.moving_labels, field, voxels_of(pair.moving))
        # Beyond the field of view of either image nothing is known.
        known = (pair.fixed_labels != IGNORED) & (labels != IGNORED)
        dice = dice_per_class(labels[known], pair.fixed_labels[known], classes)
        shown = torch.bincount(pair.moving_labels.flatten().int(), minlength=256)[1:classes].cpu().numpy() > 0
        rows.append(np.where(shown, dice, np.nan))
    return np.asarray(rows).reshape(len(rows), classes - 1)
