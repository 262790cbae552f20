"""The training of the segmentation network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from itk_pdd.errors import RegistrationError
from itk_pdd.network.semantic import predict
from itk_pdd.network.settings import UNetSettings
from itk_pdd.network.unet import UNet, calibrate
from itk_pdd.solver.devices import checked_device
from itk_pdd.training.augmentation import Augmentation, random_crop, soft_targets
from itk_pdd.training.dataset import Sample
from itk_pdd.training.distributed import Processes
from itk_pdd.training.loop import Loop
from itk_pdd.training.losses import class_weights, segmentation_loss
from itk_pdd.training.schedule import TrainingSettings
from itk_pdd.training.segmentation import dice_per_class, majority

__all__ = ["Trainer"]

_CALIBRATION = 16  # batches whose statistics the averaged network takes before it is used


class Trainer(Loop):
    """Trains a network on samples, from where a checkpoint in its folder ends.

    ``names`` are those of the classes, background first, for the log; ``source`` is whatever else must be the same for
    a training to be resumed: label values of the classes, spacing, intensities. A device "cuda" means mixed precision.
    """

    def __init__(
        self,
        folder: Path,
        network: UNetSettings,
        train: Sequence[Sample],
        validation: Sequence[Sample],
        *,
        settings: TrainingSettings,
        augmentation: Augmentation,
        names: Sequence[str],
        source: dict[str, Any],
        device: str = "cpu",
        processes: Processes | None = None,
    ) -> None:
        if not train:
            raise RegistrationError("there is no scan to train on, expected at least one of the split 'train'")
        self.augmentation, self.source, self.device = augmentation, source, torch.device(checked_device(device))
        self.train, self.validation = ([_moved(s, self.device) for s in part] for part in (train, validation))
        torch.manual_seed(settings.seed)
        super().__init__(
            folder, UNet(network).to(self.device), settings=settings, names=list(names),
            processes=processes or Processes(),
        )  # fmt: skip
        self.levels = min(settings.levels, len(network.widths) - 1)
        self.parallel = self.processes.wrap(self.network, unused=self.levels < len(network.widths) - 1)
        self.classes = network.classes
        counts = torch.stack([torch.bincount(s.labels.flatten().int(), minlength=self.classes) for s in self.train])
        self.weights = class_weights(counts.sum(0).cpu()).to(self.device)

    def _loss(self, rng: np.random.Generator) -> Tensor:
        image, labels = self._draw(rng)
        target = soft_targets(labels, self.classes, fold=self.network.settings.fold)
        half = self.device.type == "cuda" or self.settings.bfloat16
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            logits = self.parallel(image, levels=self.levels)
        return segmentation_loss(logits, target, self.weights)

    def _draw(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """A batch of crops: images (N, 1, z, y, x) and labels (N, z, y, x)."""
        crops, count = [], self.settings.batch
        for chosen in rng.choice(len(self.train), count, replace=count > len(self.train)):
            scan = self.train[int(chosen)]
            crops.append(
                random_crop(
                    scan.image, scan.labels, self.classes, fold=self.network.settings.fold,
                    augmentation=self.augmentation, rng=rng,
                )
            )  # fmt: skip
        return torch.stack([crop.image for crop in crops])[:, None], torch.stack([crop.labels for crop in crops])

    def evaluate(self, samples: Sequence[Sample]) -> np.ndarray:
        """Dice of the averaged weights on the network's grid, shape (samples, classes - 1), NaN where a class lacks."""
        fold = self.network.settings.fold
        rows = []
        for sample in samples:
            found = predict(self.average, sample.image).argmax(0)
            rows.append(dice_per_class(found, majority(sample.labels, self.classes, fold), self.classes))
        return np.asarray(rows).reshape(len(samples), self.classes - 1)

    def _measure(self) -> np.ndarray | None:
        generators = (np.random.default_rng([self.settings.seed, number]) for number in range(_CALIBRATION))
        calibrate(self.average, (self._draw(rng)[0] for rng in generators))
        return self.evaluate(self.validation) if self.validation else None

    def _settings(self) -> dict[str, Any]:
        return {
            "settings": asdict(self.settings),
            "augmentation": asdict(self.augmentation),
            "network": asdict(self.network.settings),
            "scans": [sample.name for sample in self.train],
            "source": self.source,
            "processes": self.processes.count,
        }


def _moved(sample: Sample, device: torch.device) -> Sample:
    return replace(sample, image=sample.image.to(device), labels=sample.labels.to(device))
