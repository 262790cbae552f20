"""The frame of all trainings around their loop: the common part of a recipe, length, progress and provenance."""

from __future__ import annotations

import logging
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from itk_pdd._version import __version__
from itk_pdd.network.export import made_folder
from itk_pdd.network.preparation import Intensity
from itk_pdd.training.augmentation import Augmentation
from itk_pdd.training.cases import LabelledScan
from itk_pdd.training.distributed import Processes
from itk_pdd.training.loop import Loop
from itk_pdd.training.schedule import TrainingSettings

__all__ = ["Run", "ScanRecipe", "TrainingRecipe", "planned_iterations"]

log = logging.getLogger("itk_pdd")
L = TypeVar("L", bound=Loop)


@dataclass(frozen=True)
class TrainingRecipe:
    """Describe a training: the part that all recipes share."""

    name: str  # for the card
    description: str = ""
    command: str = ""
    settings: TrainingSettings = field(default_factory=TrainingSettings)  # length, learning rate, seed
    # Instead of ``settings.iterations``: as many iterations as a few first ones say will take about this long. The
    # number is logged and kept in the checkpoint; a training is repeated exactly by giving the number.
    minutes: float | None = None
    device: str = "cpu"  # "cpu" or "cuda"
    cache: str | os.PathLike[str] | None = None  # folder where the training data are kept for the next time


@dataclass(frozen=True)
class ScanRecipe(TrainingRecipe):
    """Describe a training on labelled scans; ``cache`` keeps them on their working grid."""

    licence: str = ""  # for the card
    augmentation: Augmentation = field(default_factory=Augmentation)  # how the scans vary
    # Working spacing in millimetres; by default that of the scans, or coarser for large ones.
    spacing: float | None = None
    intensity: Intensity = field(default_factory=Intensity)  # normalisation of the intensities
    # Names of label values; only these are learned if any are given.
    class_names: Mapping[int, str] = field(default_factory=dict)

    def loading(self, spacing: float, values: Sequence[int]) -> dict[str, Any]:
        """Arguments of :func:`itk_pdd.training.dataset.load_samples` for a spacing and the values of the classes."""
        return {"spacing": spacing, "intensity": self.intensity, "values": list(values), "cache": self.cache}


@dataclass(frozen=True)
class Run:
    """Hold the folder of a training, its processes, and the function that is told its progress."""

    folder: str | os.PathLike[str]  # of the model; the subfolder training is made, for checkpoint, log and curve
    processes: Processes  # which of several processes this is
    # Called with a fraction from 0 to 1 and the name of the step at hand.
    progress: Callable[[float, str], None] | None = None

    @property
    def work(self) -> Path:
        """The subfolder for checkpoint, log and curve; it is made if it is not there."""
        return made_folder(Path(self.folder) / "training")

    def tell(self, fraction: float, message: str) -> None:
        """Report progress to whoever wants to know."""
        if self.progress is not None:
            self.progress(fraction, message)

    def loop(
        self,
        trainer: Callable[[TrainingSettings], L],
        recipe: TrainingRecipe,
        *,
        timed: Callable[[TrainingSettings], Loop] | None = None,
    ) -> L:
        """The loop of a recipe, as long as its minutes allow if given; ``timed`` makes that whose steps are timed."""
        settings = recipe.settings
        if recipe.minutes is not None:
            count = planned_iterations((timed or trainer)(settings), recipe.minutes, self.processes)
            settings = replace(settings, iterations=count)
        return trainer(settings)

    def train(self, loop: Loop, *, begin: float = 0.0, end: float = 0.98) -> nn.Module:
        """Run a loop to its end, which is a share of the progress from ``begin`` to ``end``; the averaged weights."""

        def on_step(iteration: int, loss: float) -> None:
            share = begin + (end - begin) * iteration / loop.settings.iterations
            self.tell(share, f"training, loss {loss:.3f}")

        return loop.run(on_step=on_step)

    def provenance(
        self, loop: Loop, recipe: TrainingRecipe, scans: Sequence[LabelledScan], *, licence: str
    ) -> dict[str, Any]:
        """Return the provenance of a model for its card: the scans it learned from, their licence, and the training."""
        return {
            "scans": [scan.name for scan in scans],
            "licence": licence,
            "command": recipe.command,
            "iterations": loop.iteration,
            **({"extended_at": loop.starts[1:]} if loop.starts[1:] else {}),
            "batch": loop.settings.batch * self.processes.count,
            "seed": loop.settings.seed,
            "seconds": round(sum(row["seconds"] for row in loop.rows)),
            "device": recipe.device,
            "version": __version__,
        }


def planned_iterations(trainer: Loop, minutes: float, processes: Processes) -> int:
    """Count the iterations that fit, from the median of a few; the checkpoint's number if the training has begun."""
    begun = trainer.planned()
    if begun is not None:
        log.info("%d iterations were planned", begun)
        return begun
    seconds = []
    for _ in range(6):
        began = time.monotonic()
        trainer.step()
        seconds.append(time.monotonic() - began)
    # The first steps are slower: memory is claimed, kernels are compiled.
    count = max(20, int(minutes * 60 / processes.mean(statistics.median(seconds[2:]))))
    log.info("%g minutes are about %d iterations", minutes, count)
    return count
