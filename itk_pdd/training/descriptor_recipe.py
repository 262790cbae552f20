"""From nothing but random shapes to the folder of a learned descriptor."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from itk_pdd.network.card import DescriptorCard
from itk_pdd.network.descriptor import Descriptor
from itk_pdd.network.export import write_model
from itk_pdd.network.settings import DescriptorSettings
from itk_pdd.network.unet import count_weights
from itk_pdd.training.descriptor_trainer import DescriptorTrainer
from itk_pdd.training.distributed import Processes
from itk_pdd.training.recipe import planned_iterations, provenance, tell_progress, work_folder
from itk_pdd.training.schedule import TrainingSettings
from itk_pdd.training.views import ViewSource, label_maps

__all__ = ["DESCRIPTOR_TRAINING", "DescriptorRecipe", "train_descriptor"]

log = logging.getLogger("itk_pdd")

DESCRIPTOR_TRAINING = TrainingSettings(iterations=1500, batch=1, rate=1.5e-3, decay=1e-5, average=0.99)
"""Ten minutes on 2 CPU cores, after four for the label maps."""


@dataclass(frozen=True)
class DescriptorRecipe:
    """What is trained, and how.

    Parameters
    ----------
    name, description, command : str
        For the card.
    network : DescriptorSettings
        What is trained.
    share : float
        See :class:`itk_pdd.network.card.DescriptorCard`.
    maps : int
        Label maps that are drawn before the training, one or two seconds each; more vary more.
    settings : TrainingSettings
        Length, learning rate, seed.
    minutes : float, optional
        See :class:`itk_pdd.training.recipe.Recipe`.
    device : str
        "cpu" or "cuda".
    cache : path-like, optional
        Folder where the label maps are kept for the next time.
    """

    name: str
    description: str = ""
    command: str = ""
    network: DescriptorSettings = field(default_factory=DescriptorSettings)
    share: float = 0.5
    maps: int = 200
    settings: TrainingSettings = DESCRIPTOR_TRAINING
    minutes: float | None = None
    device: str = "cpu"
    cache: str | os.PathLike[str] | None = None


def train_descriptor(
    folder: str | os.PathLike[str],
    recipe: DescriptorRecipe,
    *,
    processes: Processes | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> tuple[Descriptor, DescriptorCard]:
    """Train a descriptor and write it as a model folder.

    Parameters
    ----------
    folder : path-like
        Gets card.json, weights.safetensors and, in the subfolder training, checkpoint, log.csv and curve.png. A
        training that was interrupted is resumed.
    recipe, processes, progress
        See :func:`itk_pdd.training.recipe.train_model`.

    Raises
    ------
    OutputError
        If the results cannot be written.
    """
    processes = processes or Processes()
    work = work_folder(folder)
    maps = label_maps(
        recipe.maps, seed=recipe.settings.seed, cache=recipe.cache,
        progress=lambda fraction: tell_progress(progress, 0.1 * fraction, "drawing shapes"),
    )  # fmt: skip

    def trainer(settings: TrainingSettings) -> DescriptorTrainer:
        return DescriptorTrainer(
            work, recipe.network, ViewSource(maps), share=recipe.share, settings=settings, device=recipe.device,
            processes=processes,
        )  # fmt: skip

    settings = recipe.settings
    if recipe.minutes is not None:
        settings = replace(settings, iterations=planned_iterations(trainer(settings), recipe.minutes, processes))
    loop = trainer(settings)
    log.info("%d label maps, %d weights", len(maps), count_weights(loop.network.descriptor))

    def on_step(iteration: int, loss: float) -> None:
        tell_progress(progress, 0.1 + 0.9 * iteration / settings.iterations, f"training, loss {loss:.3f}")

    descriptor = loop.run(on_step=on_step).descriptor.cpu()
    figures = {} if not loop.rows else {"synthetic_loss": round(loop.rows[-1]["validation loss"], 4)}
    card = DescriptorCard(
        recipe.name, recipe.description, recipe.network, recipe.share,
        training={
            **provenance(
                loop, [], licence="random synthetic shapes only", command=recipe.command, device=recipe.device
            ),
            "maps": recipe.maps,
        },
        validation=figures,
    )  # fmt: skip
    if processes.rank == 0:
        write_model(folder, descriptor, card)
    return descriptor, card
