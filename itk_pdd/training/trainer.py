"""The training loop of the segmentation network."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from itk_pdd.errors import RegistrationError
from itk_pdd.network.semantic import predict
from itk_pdd.network.storage import check_weights, load_weights
from itk_pdd.network.unet import UNet, UNetSettings, calibrate
from itk_pdd.training.augmentation import Augmentation, random_crop, soft_targets
from itk_pdd.training.checkpoint import (
    CHECKPOINT,
    optimizer_tensors,
    read_checkpoint,
    restore_optimizer,
    write_checkpoint,
)
from itk_pdd.training.curve import write_curve, write_log
from itk_pdd.training.dataset import Sample
from itk_pdd.training.distributed import Processes
from itk_pdd.training.losses import class_weights, segmentation_loss
from itk_pdd.training.segmentation import dice_per_class, majority

__all__ = ["Trainer", "TrainingSettings", "learning_rate"]

log = logging.getLogger("itk_pdd")

_CALIBRATION = 16  # batches whose statistics the averaged network takes before it is used


@dataclass(frozen=True)
class TrainingSettings:
    """How long and how fast the network learns.

    Parameters
    ----------
    iterations : int
        Steps; the learning rate rises over the first 5 % and then falls to zero along a cosine, so that a training
        of half the length is not the first half of this one.
    batch : int
        Crops per step and per process.
    rate : float
        Largest learning rate of AdamW. A larger one learns faster, until it diverges.
    decay : float
        Weight decay of AdamW.
    average : float
        Decay of the moving average of the weights, which is what is evaluated and kept.
    clip : float
        Largest norm of the gradient.
    levels : int
        Resolutions at which the network answers during training (deep supervision).
    validate_every : int
        Iterations between two validations and checkpoints.
    patience : int
        Validations without a better Dice after which training stops, and the best weights are kept instead of the last;
        0 to go on to the end and keep the last.
    seed : int
        Determines initial weights and crops.
    bfloat16 : bool
        Whether the network computes in half precision on a CPU as well (on a GPU it always does): about twice as fast
        on processors with instructions for it (AVX-512 BF16, AMX), slow on others.
    """

    iterations: int = 1600
    batch: int = 2
    rate: float = 2e-3
    decay: float = 1e-2
    average: float = 0.995
    clip: float = 1.0
    levels: int = 3
    validate_every: int = 100
    patience: int = 0
    seed: int = 0
    bfloat16: bool = False

    def __post_init__(self) -> None:
        for name in ("iterations", "batch", "levels", "validate_every"):
            if getattr(self, name) < 1:
                raise RegistrationError(f"{name} is {getattr(self, name)}, expected 1 or more")
        if not (self.rate > 0 and self.clip > 0 and self.decay >= 0 and 0 <= self.average < 1 and self.patience >= 0):
            raise RegistrationError(
                f"rate, clip, decay, average and patience are {self.rate}, {self.clip}, {self.decay}, {self.average} "
                f"and {self.patience}, expected positive numbers and an average below 1"
            )


class Trainer:
    """Trains a network on samples, from where a checkpoint in its folder ends.

    Parameters
    ----------
    folder : path-like
        Where checkpoint, log.csv and curve.png go; must exist. Several machines need the same folder.
    network : UNetSettings
        What is trained.
    train, validation : sequence of Sample
        What it learns from, what it is measured on.
    settings : TrainingSettings
        How.
    augmentation : Augmentation
        How the crops vary.
    names : sequence of str
        Of the classes, background first, for the log.
    device : str
        "cpu" or "cuda" (with mixed precision).
    processes : Processes
        Which of several processes this is.
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
        device: str = "cpu",
        processes: Processes | None = None,
    ) -> None:
        if not train:
            raise RegistrationError("there is no scan to train on, expected at least one of the split 'train'")
        self.folder, self.settings, self.augmentation = Path(folder), settings, augmentation
        self.names, self.device = list(names), torch.device(device)
        self.processes = processes or Processes()
        self.train, self.validation = ([_moved(s, self.device) for s in part] for part in (train, validation))
        torch.manual_seed(settings.seed)
        self.network = UNet(network).to(self.device)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.best_weights: dict[str, Tensor] = {}
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(self.network, settings.decay), lr=settings.rate, betas=(0.9, 0.99)
        )
        self.levels = min(settings.levels, len(network.widths) - 1)
        self.parallel = self.processes.wrap(self.network, unused=self.levels < len(network.widths) - 1)
        self.classes = network.classes
        counts = torch.stack([torch.bincount(s.labels.flatten().int(), minlength=self.classes) for s in self.train])
        self.weights = class_weights(counts.sum(0).cpu()).to(self.device)
        self.iteration, self.best, self.since_best = 0, -1.0, 0
        self.rows: list[dict[str, float]] = []

    def run(self, *, on_step: Callable[[int, float], None] | None = None) -> UNet:
        """Train to the end, or until patience runs out.

        Parameters
        ----------
        on_step : callable, optional
            Called with the number of the iteration and its loss; if it raises, training stops.

        Returns
        -------
        UNet
            With the averaged weights: the last ones, or the best ones where there is patience.

        Raises
        ------
        RegistrationError
            If there is a checkpoint of other settings, or the loss is not finite.
        OutputError
            If a checkpoint cannot be written; the one before is kept.
        """
        self._resume()
        losses: list[float] = []
        began = time.monotonic()
        while self.iteration < self.settings.iterations and not 0 < self.settings.patience <= self.since_best:
            losses.append(self.step())
            if on_step is not None:
                on_step(self.iteration, losses[-1])
            if self.iteration % self.settings.validate_every == 0 or self.iteration == self.settings.iterations:
                self._validate(float(np.mean(losses)), time.monotonic() - began)
                losses, began = [], time.monotonic()
                self._save()
        if self.best_weights:
            self.average.load_state_dict(self.best_weights)
        return self.average

    def planned(self) -> int | None:
        """Number of iterations that a training begun in this folder was planned for, None if none was."""
        found = read_checkpoint(self.folder)
        return None if found is None else int(found[1]["settings"]["iterations"])

    def step(self) -> float:
        """One iteration; returns its loss."""
        settings = self.settings
        # Every iteration has a generator of its own, so that a resumed training draws what an uninterrupted one would.
        rank = [self.processes.rank] if self.processes.rank else []
        image, labels = self._draw(np.random.default_rng([settings.seed, self.iteration, *rank]))
        target = soft_targets(labels, self.classes, fold=self.network.settings.fold)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.iteration, settings)
        self.network.train()
        half = self.device.type == "cuda" or settings.bfloat16
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            logits = self.parallel(image, levels=self.levels)
        loss = segmentation_loss(logits, target, self.weights)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise RegistrationError(f"the loss is {value} at iteration {self.iteration}: choose a smaller rate")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip)
        self.optimizer.step()
        self._update_average()
        self.iteration += 1
        return value

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

    @torch.no_grad()
    def _update_average(self) -> None:
        # Early on the average would remember the random start for too long.
        decay = min(self.settings.average, (1 + self.iteration) / (10 + self.iteration))
        for mean, new in zip(self.average.parameters(), self.network.parameters(), strict=True):
            mean.lerp_(new, 1 - decay)

    def evaluate(self, samples: Sequence[Sample]) -> np.ndarray:
        """Dice of the averaged weights on the network's grid, shape (samples, classes - 1), NaN where a class lacks."""
        fold = self.network.settings.fold
        rows = []
        for sample in samples:
            found = predict(self.average, sample.image).argmax(0)
            rows.append(dice_per_class(found, majority(sample.labels, self.classes, fold), self.classes))
        return np.asarray(rows).reshape(len(samples), self.classes - 1)

    def _validate(self, loss: float, seconds: float) -> None:
        rate = learning_rate(self.iteration - 1, self.settings)
        row = {"iteration": self.iteration, "rate": rate, "loss": self.processes.mean(loss)}
        generators = (np.random.default_rng([self.settings.seed, number]) for number in range(_CALIBRATION))
        calibrate(self.average, (self._draw(rng)[0] for rng in generators))
        if self.validation:
            dice = _mean_over_scans(self.evaluate(self.validation))
            row["dice"] = self.processes.mean(float(np.nanmean(dice)))
            row |= {f"dice {name}": float(value) for name, value in zip(self.names[1:], dice, strict=True)}
            self.since_best += 1
            if row["dice"] > self.best:
                self.best, self.since_best = row["dice"], 0
                if self.settings.patience:
                    self.best_weights = {name: value.clone() for name, value in self.average.state_dict().items()}
        row["seconds"] = seconds
        self.rows.append(row)
        log.info("iteration %d: loss %.4f, Dice %.4f, %.0f s", self.iteration, loss, row.get("dice", math.nan), seconds)

    def _settings(self) -> dict[str, Any]:
        """Whatever must be the same for a training to be resumed."""
        return {
            "settings": asdict(self.settings),
            "augmentation": asdict(self.augmentation),
            "network": asdict(self.network.settings),
            "scans": [sample.name for sample in self.train],
            "processes": self.processes.count,
        }

    def _save(self) -> None:
        if self.processes.rank == 0:
            tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
            tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
            tensors |= {f"best.{name}": value for name, value in self.best_weights.items()}
            tensors |= optimizer_tensors(self.optimizer)
            progress = {"iteration": self.iteration, "best": self.best, "since_best": self.since_best}
            write_checkpoint(self.folder, tensors, {**progress, "rows": self.rows, **self._settings()})
            write_log(self.folder / "log.csv", self.rows)
            write_curve(self.folder / "curve.png", self.rows)
        self.processes.wait()

    def _resume(self) -> None:
        found = read_checkpoint(self.folder)
        if found is None:
            return
        tensors, state = found
        wanted = self._settings()
        for name, value in wanted.items():
            # By way of text, as the state was: tuples have become lists.
            if state.get(name) != _as_json(value):
                raise RegistrationError(
                    f"checkpoint: {self.folder / CHECKPOINT} belongs to a training of other {name} "
                    f"({_difference(state.get(name), _as_json(value))}): choose another folder, or remove it"
                )
        for prefix, network in (("network.", self.network), ("average.", self.average)):
            load_weights(network, _without(prefix, tensors), name="checkpoint")
        self.best_weights = _without("best.", tensors)
        if self.best_weights:
            check_weights(self.average, self.best_weights, name="checkpoint")
        try:
            restore_optimizer(self.optimizer, tensors)
            self.iteration, self.since_best = int(state["iteration"]), int(state["since_best"])
            self.best, self.rows = (
                float(state["best"]),
                [{k: float(v) for k, v in row.items()} for row in state["rows"]],
            )
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
            raise RegistrationError(
                f"checkpoint: {self.folder / CHECKPOINT} holds no complete state of a training "
                f"({type(error).__name__}): remove it to start anew"
            ) from error
        log.info("resumed at iteration %d", self.iteration)


def learning_rate(iteration: int, settings: TrainingSettings) -> float:
    """Warm-up over the first 5 % of the iterations, then half a cosine down to zero."""
    warm = max(1, settings.iterations // 20)
    if iteration < warm:
        return settings.rate * (iteration + 1) / warm
    share = (iteration - warm) / max(1, settings.iterations - warm)
    return settings.rate * 0.5 * (1 + math.cos(math.pi * share))


def _parameter_groups(network: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Decay for the convolutions, none for biases and norms."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def _moved(sample: Sample, device: torch.device) -> Sample:
    return replace(sample, image=sample.image.to(device), labels=sample.labels.to(device))


def _mean_over_scans(dice: np.ndarray) -> np.ndarray:
    """Mean over the scans that show a class, NaN where none does."""
    shown = ~np.isnan(dice)
    return np.where(shown.any(0), np.nansum(dice, 0) / np.maximum(shown.sum(0), 1), np.nan)


def _without(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_json(entry) for name, entry in value.items()}
    return [_as_json(entry) for entry in value] if isinstance(value, list | tuple) else value


def _difference(found: Any, wanted: Any) -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        name = next(n for n in wanted if found.get(n) != wanted[n])
        return f"{name} is {wanted[name]}, was {found.get(name)}"
    return f"{wanted}, was {found}"
