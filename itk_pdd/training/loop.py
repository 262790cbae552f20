"""The loop of all trainings, with checkpoints, early stopping and averaged weights."""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from itk_pdd.errors import RegistrationError
from itk_pdd.network.storage import check_weights, load_weights
from itk_pdd.training.checkpoint import (
    CHECKPOINT,
    optimizer_tensors,
    read_checkpoint,
    restore_optimizer,
    write_checkpoint,
)
from itk_pdd.training.curve import write_curve, write_log
from itk_pdd.training.distributed import Processes
from itk_pdd.training.schedule import TrainingSettings, learning_rate

__all__ = ["Loop"]

log = logging.getLogger("itk_pdd")

_UNSAVED = 300.0  # seconds of work that an interruption may cost, where validations are rarer


class Loop(ABC):
    """Trains a network from where a checkpoint in its folder ends.

    The folder, for checkpoint, log.csv and curve.png, must exist; several machines need the same one. ``names`` are
    those of the classes, background first, for the log.
    """

    def __init__(
        self, folder: Path, network: nn.Module, *, settings: TrainingSettings, names: list[str], processes: Processes
    ) -> None:
        self.folder, self.settings, self.names, self.processes = Path(folder), settings, names, processes
        self.network = network
        # The statistics of norms are averaged as well as the weights they belong to.
        self._averaged = AveragedModel(network, avg_fn=self._mean, use_buffers=True).requires_grad_(False)
        self._averaged.n_averaged.fill_(1)  # the random start counts: otherwise the first update would replace it
        self.average = self._averaged.module
        self.best_weights: dict[str, Tensor] = {}
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(network, settings.decay), lr=settings.rate, betas=(0.9, 0.99)
        )
        self.iteration, self.best, self.since_best = 0, -1.0, 0
        self.starts = [0]
        """Iterations at which the learning rate began to rise: the first, and one for each extension."""
        self.rows: list[dict[str, float]] = []
        # Since the last row: the losses, and the time before this run.
        self.losses: list[float] = []
        self.seconds = 0.0

    @abstractmethod
    def _loss(self, rng: np.random.Generator) -> Tensor:
        """Loss of one iteration on what is drawn with ``rng``, with its gradient."""

    @abstractmethod
    def _measure(self) -> np.ndarray | None:
        """Dice of the averaged weights, shape (scans or pairs, classes - 1), None if there is nothing to measure on."""

    def _figures(self) -> dict[str, float]:
        """Whatever else of the averaged weights belongs to a row of the log."""
        return {}

    def _extra_tensors(self) -> dict[str, Tensor]:
        """Whatever else a resumed training needs to go on as an uninterrupted one."""
        return {}

    def _restore_extra(self, tensors: dict[str, Tensor]) -> None:  # noqa: B027
        """Take :meth:`_extra_tensors` of a checkpoint, after weights and averages; nothing where there are none."""

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """Whatever must be the same for a training to be resumed."""

    def run(self, *, on_step: Callable[[int, float], None] | None = None) -> nn.Module:
        """Train to the end, or until patience runs out; extend a finished training if more iterations are set.

        ``on_step`` is called with the number of the iteration and its loss; if it raises, training stops. Returns the
        network with the averaged weights: the last ones, or the best ones where there is patience. RegistrationError if
        there is a checkpoint of other settings or a damaged one, or the loss is not finite; OutputError if a checkpoint
        cannot be written, where the one before is kept.
        """
        self._resume()
        began = saved = time.monotonic()
        while self.iteration < self.settings.iterations and not 0 < self.settings.patience <= self.since_best:
            self.losses.append(self.step())
            if on_step is not None:
                on_step(self.iteration, self.losses[-1])
            if self.iteration % self.settings.validate_every == 0 or self.iteration == self.settings.iterations:
                self._validate(float(np.mean(self.losses)), self.seconds + time.monotonic() - began)
                self.losses, self.seconds = [], 0.0
                began = saved = time.monotonic()
                self._save()
            elif time.monotonic() - saved > _UNSAVED:
                self._write_checkpoint(self.seconds + time.monotonic() - began)
                saved = time.monotonic()
        if self.best_weights:
            self.average.load_state_dict(self.best_weights)
        return self.average

    def planned(self) -> int | None:
        """Number of iterations that a training begun in this folder was planned for, None if none was."""
        found = read_checkpoint(self.folder)
        if found is None:
            return None
        try:
            return int(found[1]["settings"]["iterations"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise self._incomplete(error) from error

    def step(self) -> float:
        """One iteration; returns its loss."""
        settings = self.settings
        # Every iteration has a generator of its own, so that a resumed training draws what an uninterrupted one would.
        rank = [self.processes.rank] if self.processes.rank else []
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.iteration, settings, start=self.starts[-1])
        self.network.train()
        loss = self._loss(np.random.default_rng([settings.seed, self.iteration, *rank]))
        value = float(loss.detach())
        if not math.isfinite(value):
            raise RegistrationError(f"the loss is {value} at iteration {self.iteration}: choose a smaller rate")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip)
        self.optimizer.step()
        self._averaged.update_parameters(self.network)
        self.iteration += 1
        return value

    def _mean(self, mean: Tensor, value: Tensor, count: Tensor) -> Tensor:
        # Early on the average would remember the random start for too long. Counts are not averaged.
        decay = min(self.settings.average, (1 + self.iteration) / (10 + self.iteration))
        return mean.lerp(value, 1 - decay) if mean.is_floating_point() else value

    def _validate(self, loss: float, seconds: float) -> None:
        rate = learning_rate(self.iteration - 1, self.settings, start=self.starts[-1])
        row = {"iteration": self.iteration, "rate": rate, "loss": self.processes.mean(loss)}
        measured = self._measure()
        if measured is not None:
            dice = mean_over_scans(measured)
            row["dice"] = self.processes.mean(float(np.nanmean(dice)))
            row |= {f"dice {name}": float(value) for name, value in zip(self.names[1:], dice, strict=True)}
            self.since_best += 1
            if row["dice"] > self.best:
                self.best, self.since_best = row["dice"], 0
                if self.settings.patience:
                    self.best_weights = {name: value.clone() for name, value in self.average.state_dict().items()}
        figures = self._figures()
        row |= {name: self.processes.mean(value) for name, value in figures.items()}
        row["seconds"] = seconds
        self.rows.append(row)
        told = {name: row[name] for name in ("dice", *figures) if name in row}
        measured_text = "".join(f", {name} {value:.4f}" for name, value in told.items())
        log.info("iteration %d: loss %.4f%s, %.0f s", self.iteration, loss, measured_text, seconds)

    def _save(self) -> None:
        self._write_checkpoint(0.0)
        if self.processes.rank == 0:
            write_log(self.folder / "log.csv", self.rows)
            write_curve(self.folder / "curve.png", self.rows)
        self.processes.wait()

    def _write_checkpoint(self, seconds: float) -> None:
        """By the first process alone; ``seconds`` are those since the last row."""
        if self.processes.rank == 0:
            tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
            tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
            tensors |= {f"best.{name}": value for name, value in self.best_weights.items()}
            tensors |= {f"extra.{name}": value for name, value in self._extra_tensors().items()}
            tensors |= optimizer_tensors(self.optimizer)
            progress = {"iteration": self.iteration, "best": self.best, "since_best": self.since_best}
            progress["starts"] = self.starts
            since = {"losses": self.losses, "seconds": seconds}
            write_checkpoint(self.folder, tensors, {**progress, **since, "rows": self.rows, **self._settings()})

    def _resume(self) -> None:
        found = read_checkpoint(self.folder)
        if found is None:
            return
        tensors, state = found
        extends = self._extends(state)
        for name, value in self._settings().items():
            # By way of text, as the state was: tuples have become lists.
            value, was = _as_json(value), state.get(name)
            if extends and name == "settings":
                was = {**was, "iterations": value["iterations"]}
            if was != value:
                raise RegistrationError(
                    f"checkpoint: {self.folder / CHECKPOINT} belongs to a training of other {name} "
                    f"({_difference(was, value)}): choose another folder, or remove it (a training can be given more "
                    "iterations once it is finished)"
                )
        self.best_weights = _without("best.", tensors)
        try:
            for prefix, network in (("network.", self.network), ("average.", self.average)):
                load_weights(network, _without(prefix, tensors))
            if self.best_weights:
                check_weights(self.average, self.best_weights)
            restore_optimizer(self.optimizer, tensors)
            self._restore_extra(_without("extra.", tensors))
            self.iteration, self.since_best = int(state["iteration"]), int(state["since_best"])
            self.best = float(state["best"])
            self.rows = [{name: float(value) for name, value in row.items()} for row in state["rows"]]
            self.losses, self.seconds = [float(value) for value in state["losses"]], float(state["seconds"])
            self.starts = [int(start) for start in state.get("starts", [0])]
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
            # Among them those of weights that are not the network's.
            raise self._incomplete(error) from error
        log.info("resumed at iteration %d", self.iteration)
        if extends:
            self.starts, self.since_best = [*self.starts, self.iteration], 0
            log.info(
                "the finished training is extended: its learning rate rises and falls once more over iterations "
                "%d to %d",
                self.iteration + 1, self.settings.iterations,
            )  # fmt: skip

    def _extends(self, state: dict[str, Any]) -> bool:
        """Tell whether a checkpoint's training is finished and shorter than this one."""
        try:
            planned, done = int(state["settings"]["iterations"]), int(state["iteration"])
            stopped = 0 < int(state["settings"]["patience"]) <= int(state["since_best"])
        except (KeyError, TypeError, ValueError, OverflowError):
            return False
        return self.settings.iterations > planned and (done >= planned or stopped)

    def _incomplete(self, error: Exception) -> RegistrationError:
        reason = str(error) if isinstance(error, RegistrationError) else type(error).__name__
        return RegistrationError(
            f"checkpoint: {self.folder / CHECKPOINT} holds no complete state of a training ({reason}): remove it to "
            "start anew"
        )


def _parameter_groups(network: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Decay for the convolutions, none for biases and norms."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def mean_over_scans(dice: np.ndarray) -> np.ndarray:
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
        name = next(n for n in (*wanted, *found) if (n in wanted, found.get(n)) != (n in found, wanted.get(n)))
        return f"{name} is {wanted.get(name, 'not there')}, was {found.get(name, 'not there')}"
    return f"{wanted}, was {found}"
