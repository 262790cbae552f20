"""From nothing but random shapes to the folder of a learned descriptor."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from itk_pdd.network.card import DescriptorCard
from itk_pdd.network.descriptor import Descriptor
from itk_pdd.network.export import write_model
from itk_pdd.network.settings import DescriptorSettings
from itk_pdd.network.unet import count_weights
from itk_pdd.training.descriptor_trainer import DescriptorTrainer
from itk_pdd.training.distributed import Processes
from itk_pdd.training.running import Run, TrainingRecipe
from itk_pdd.training.schedule import TrainingSettings
from itk_pdd.training.views import ViewSource, label_maps

__all__ = ["DESCRIPTOR_TRAINING", "DescriptorRecipe", "train_descriptor"]

log = logging.getLogger("itk_pdd")

DESCRIPTOR_TRAINING = TrainingSettings(iterations=1500, batch=1, rate=1.5e-3, decay=1e-5, average=0.99)
"""Ten minutes on 2 CPU cores, after four for the label maps."""


@dataclass(frozen=True)
class DescriptorRecipe(TrainingRecipe):
    """Describe the training of a descriptor; ``cache`` keeps the label maps."""

    settings: TrainingSettings = DESCRIPTOR_TRAINING
    network: DescriptorSettings = field(default_factory=DescriptorSettings)  # what is trained
    share: float = 0.5  # see :class:`itk_pdd.network.card.DescriptorCard`
    maps: int = 200  # label maps that are drawn before the training, one or two seconds each; more vary more


def train_descriptor(
    folder: str | os.PathLike[str],
    recipe: DescriptorRecipe,
    *,
    processes: Processes | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> tuple[Descriptor, DescriptorCard]:
    """Train a descriptor and write it as a model folder; see :func:`itk_pdd.training.recipe.train_model`."""
    run = Run(folder, processes or Processes(), progress)
    work = run.work
    maps = label_maps(
        recipe.maps, seed=recipe.settings.seed, cache=recipe.cache,
        progress=lambda fraction: run.tell(0.1 * fraction, "drawing shapes"),
    )  # fmt: skip

    def trainer(settings: TrainingSettings) -> DescriptorTrainer:
        return DescriptorTrainer(
            work, recipe.network, ViewSource(maps), share=recipe.share, settings=settings, device=recipe.device,
            processes=run.processes,
        )  # fmt: skip

    loop = run.loop(trainer, recipe)
    log.info("%d label maps, %d weights", len(maps), count_weights(loop.network.descriptor))

    descriptor = run.train(loop, begin=0.1, end=1.0).descriptor.cpu()
    figures = {} if not loop.rows else {"synthetic_loss": round(loop.rows[-1]["validation loss"], 4)}
    card = DescriptorCard(
        recipe.name, recipe.description, recipe.network, recipe.share,
        training={
            **run.provenance(loop, recipe, [], licence="random synthetic shapes only"),
            "maps": recipe.maps,
        },
        validation=figures,
    )  # fmt: skip
    if run.processes.rank == 0:
        write_model(folder, descriptor, card)
    return descriptor, card
