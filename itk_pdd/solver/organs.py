"""Organ probabilities of both images, by a trained network that is made for such images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from itk_pdd.errors import RegistrationError, warn
from itk_pdd.geometry.grid import Grid
from itk_pdd.network.card import ModelCard
from itk_pdd.network.purpose import unlike_training, unsure
from itk_pdd.network.semantic import SemanticNetwork
from itk_pdd.solver.problem import Problem
from itk_pdd.solver.reuse import Kept

__all__ = ["Organs", "organs_of"]


@dataclass(frozen=True, eq=False)
class Organs:
    """Class probabilities of two images: (classes, z, y, x), background first, and where they lie."""

    card: ModelCard  # of the network that found them
    fixed: tuple[np.ndarray, Grid]
    moving: tuple[np.ndarray, Grid]


def organs_of(problem: Problem, network: SemanticNetwork, *, key: object, device: str, force: bool) -> Organs:
    """Let a network name the organs of both images; what was found in the fixed one is kept for the next moving image.

    ``key`` tells the network from others in what is kept. RegistrationError if an image is not what the network is for;
    with ``force`` a warning.
    """
    card = network.card
    # Before it looks at an image, which takes minutes where that is much too large.
    _refuse(
        card, {"fixed": unlike_training(card, problem.fixed), "moving": unlike_training(card, problem.moving)}, force
    )
    kept = problem.kept or Kept()
    fixed = kept.get(("organs", key, device), lambda: network.probabilities(problem.fixed))
    found = Organs(card, fixed, network.probabilities(problem.moving))
    _refuse(card, {"fixed": unsure(card, *found.fixed), "moving": unsure(card, *found.moving)}, force)
    return found


def _refuse(card: ModelCard, problems: dict[str, str | None], force: bool) -> None:
    """Raise an error, or warn once where the user insists, if an image is not what the network is for."""
    found = [f"{name} {problem}" for name, problem in problems.items() if problem]
    if not found:
        return
    text = f"model {card.name} is not made for these images: {found[0]}"
    if not force:
        raise RegistrationError(
            f"{text}: use model='auto', which is for any images, or force=True if it is right all the same"
        )
    warn(text, doubt=True)
