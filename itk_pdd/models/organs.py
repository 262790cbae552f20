"""PDD networks that compare the organ probabilities of a trained segmentation network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from itk_pdd.models.pddmodel import PddModel
from itk_pdd.network.card import PddCard
from itk_pdd.network.pdd import ProbabilisticDenseDisplacements
from itk_pdd.network.pddnet import PddNetwork
from itk_pdd.network.semantic import SemanticNetwork
from itk_pdd.network.settings import RARITY, PddSettings

__all__ = ["pdd_of_organs"]


def pdd_of_organs(
    segmentation: SemanticNetwork,
    settings: PddSettings,
    *,
    name: str,
    description: str = "",
    temperatures: Sequence[float] = (),
) -> PddModel:
    """Make a PDD network of a trained segmentation network, whose probabilities are the features.

    Nothing is trained here. The factors of the organs follow from their volumes: small organs count more than their
    share of the volume.

    Parameters
    ----------
    settings : PddSettings
        The searches; ``stride`` and ``extent`` are in voxels of the images that the segmentation network sees.
        ``features`` and ``organs`` are set here.
    temperatures : sequence of float
        Factors of the costs in the softmax of each search; a larger one gives sharper distributions. By default the
        network's.
    """
    card = segmentation.card
    settings = replace(settings, features="organs", organs=card.network)
    network = PddNetwork(settings)
    assert network.organs is not None
    network.organs.unet.load_state_dict(segmentation.network.state_dict())
    weights = torch.tensor([entry.volume**RARITY for entry in card.classes[1:]])
    network.organs.factors.data.copy_((weights / weights.mean()).sqrt())
    for search, temperature in zip(network.searches, temperatures, strict=False):
        assert isinstance(search, ProbabilisticDenseDisplacements)
        search.regularisation.log_temperature.data.fill_(math.log(temperature))
    made = PddCard(
        name, description, settings, card.intensity, card.image_spacing, classes=card.classes, purpose=card.purpose,
        training=card.training,
    )  # fmt: skip
    return PddModel(network, made)
