"""The training loop of the segmentation network."""

from __future__ import annotations

import copy
import csv
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from itk_pdd.errors import RegistrationError
from itk_pdd.network.semantic import predict
from itk_pdd.network.unet import UNet, UNetSettings
from itk_pdd.training.augmentation import Augmentation, random_crop, soft_targets
from itk_pdd.training.checkpoint import optimizer_tensors, read_checkpoint, restore_optimizer, write_checkpoint
from itk_pdd.training.losses import class_weights, segmentation_loss
from itk_pdd.training.segmentation import dice_per_class, majority

__all__ = ["Sample", "Trainer", "TrainingSettings"]

log = logging.getLogger("itk_pdd")


@dataclass(frozen=True)
class Sample:
    """A labelled scan on the working grid.

    Parameters
    ----------
    name : str
        For logs and errors.
    image : Tensor, shape (z, y, x), float16
        Normalised intensities.
    labels : Tensor, shape (z, y, x), uint8
        Classes.
    """

    name: str
    image: Tensor
    labels: Tensor


@dataclass(frozen=True)
class TrainingSettings:
    """How long and how fast the network learns.

    Parameters
    ----------
    iterations : int
        Steps; the learning rate rises over the first 5 % and then falls to zero along a cosine, so that a training
        of half the length is not the first half of this one.
    batch : int
        Crops per step (and per process).
    rate : float
        Largest learning rate of AdamW.
    decay : float
        Weight decay of AdamW.
    average : float
        Decay of the moving average of the weights, which is what is evaluated and kept.
    clip : float
        Largest norm of the gradient.
    levels : int
        Resolutions at which the network answers during training.
    validate_every : int
        Iterations between two validations and checkpoints.
    patience : int
        Validations without a better Dice after which training stops; 0 to go on to the end.
    seed : int
        Determines initial weights and crops.
    """

    iterations: int = 2400
    batch: int = 2
    rate: float = 2e-3
    decay: float = 1e-2
    average: float = 0.995
    clip: float = 1.0
    levels: int = 3
    validate_every: int = 100
    patience: int = 0
    seed: int = 0


class Trainer:
    """Trains a network on samples; resumes where a checkpoint in its folder ends.

    Parameters
    ----------
    folder : Path
        Where checkpoint and log go.
    network : UNetSettings
        What is trained.
    train, validation : sequence of Sample
        What it learns from, what it is measured on.
    settings : TrainingSettings
        How.
    augmentation : Augmentation
        How the crops vary.
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
    ) -> None:
        if not train:
            raise RegistrationError("there is no scan to train on, expected at least one of the split 'train'")
        self.folder, self.settings, self.augmentation = Path(folder), settings, augmentation
        self.train, self.validation = list(train), list(validation)
        torch.manual_seed(settings.seed)
        self.network = UNet(network)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(self.network, settings.decay), lr=settings.rate, betas=(0.9, 0.99)
        )
        self.classes = network.classes
        counts = sum(torch.bincount(s.labels.flatten().int(), minlength=self.classes) for s in self.train)
        self.weights = class_weights(counts)
        self.iteration, self.best, self.since_best = 0, -1.0, 0
        self.rows: list[dict[str, float]] = []

    def run(self, *, on_step: Callable[[int, float], None] | None = None) -> None:
        """Train to the end (or until patience runs out)."""
        self._resume()
        losses: list[float] = []
        began = time.monotonic()
        while self.iteration < self.settings.iterations and not self._exhausted():
            loss = self._step()
            losses.append(loss)
            self.iteration += 1
            if on_step is not None:
                on_step(self.iteration, loss)
            last = self.iteration == self.settings.iterations
            if self.iteration % self.settings.validate_every == 0 or last:
                self._validate(float(np.mean(losses)), time.monotonic() - began)
                losses, began = [], time.monotonic()
                self._save()

    def _exhausted(self) -> bool:
        return 0 < self.settings.patience <= self.since_best

    def _step(self) -> float:
        settings = self.settings
        # Every crop has a generator of its own, so that a resumed training draws what an uninterrupted one would.
        rng = np.random.default_rng([settings.seed, self.iteration])
        crops, fold = [], self.network.settings.fold
        for chosen in rng.choice(len(self.train), settings.batch, replace=settings.batch > len(self.train)):
            sample = self.train[int(chosen)]
            crop = random_crop(
                sample.image, sample.labels, self.classes, fold=fold, augmentation=self.augmentation, rng=rng
            )
            crops.append(crop)
        image = torch.stack([crop.image for crop in crops])[:, None]
        target = soft_targets(torch.stack([crop.labels for crop in crops]), self.classes, fold=fold)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.iteration, settings)
        self.network.train()
        loss = segmentation_loss(self.network(image, levels=settings.levels), target, self.weights)
        if not bool(torch.isfinite(loss)):
            raise RegistrationError(f"the loss is {float(loss)} at iteration {self.iteration}: choose a smaller rate")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip)
        self.optimizer.step()
        self._update_average()
        return float(loss.detach())

    @torch.no_grad()
    def _update_average(self) -> None:
        # Early on the average would remember the random start for too long.
        decay = min(self.settings.average, (1 + self.iteration) / (10 + self.iteration))
        for mean, new in zip(self.average.parameters(), self.network.parameters(), strict=True):
            mean.lerp_(new, 1 - decay)

    def evaluate(self, samples: Sequence[Sample]) -> np.ndarray:
        """Dice of the averaged weights, shape (samples, classes - 1), NaN where a scan lacks a class."""
        fold = self.network.settings.fold
        rows = []
        for sample in samples:
            found = predict(self.average, sample.image).argmax(0)
            rows.append(dice_per_class(found, majority(sample.labels, self.classes, fold), self.classes))
        return np.asarray(rows).reshape(len(samples), self.classes - 1)

    def _validate(self, loss: float, seconds: float) -> None:
        row: dict[str, float] = {
            "iteration": self.iteration, "rate": learning_rate(self.iteration - 1, self.settings), "loss": loss,
        }  # fmt: skip
        if self.validation:
            dice = np.nanmean(self.evaluate(self.validation), axis=0)
            row["dice"] = float(np.nanmean(dice))
            row.update({f"dice_{number}": float(value) for number, value in enumerate(dice, start=1)})
            self.since_best += 1
            if row["dice"] > self.best:
                self.best, self.since_best = row["dice"], 0
        row["seconds"] = seconds
        self.rows.append(row)
        log.info("iteration %d: loss %.4f, Dice %.4f, %.0f s", self.iteration, loss, row.get("dice", math.nan), seconds)

    def _save(self) -> None:
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        tensors |= optimizer_tensors(self.optimizer)
        state = {
            "iteration": self.iteration, "best": self.best, "since_best": self.since_best, "rows": self.rows,
            "settings": asdict(self.settings), "augmentation": asdict(self.augmentation),
            "network": asdict(self.network.settings),
        }  # fmt: skip
        write_checkpoint(self.folder, tensors, state)
        with (self.folder / "log.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(self.rows[-1]), restval="")
            writer.writeheader()
            writer.writerows({k: f"{v:.6g}" for k, v in row.items()} for row in self.rows)

    def _resume(self) -> None:
        found = read_checkpoint(self.folder)
        if found is None:
            return
        tensors, state = found
        for prefix, network in (("network.", self.network), ("average.", self.average)):
            network.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
        restore_optimizer(self.optimizer, tensors)
        self.iteration, self.best, self.since_best = state["iteration"], state["best"], state["since_best"]
        self.rows = state["rows"]


def learning_rate(iteration: int, settings: TrainingSettings) -> float:
    """Warm-up over the first 5 % of the iterations, then half a cosine down to zero."""
    warm = max(1, settings.iterations // 20)
    if iteration < warm:
        return settings.rate * (iteration + 1) / warm
    share = (iteration - warm) / max(1, settings.iterations - warm)
    return settings.rate * 0.5 * (1 + math.cos(math.pi * share))


def _parameter_groups(network: nn.Module, decay: float) -> list[dict]:
    """Decay for the convolutions, none for biases and norms."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
