"""Models by name: settings and trained weights. Each is one class with one method, ``register``.

May import the solver and all below it.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itk_pdd.errors import RegistrationError
from itk_pdd.network.card import CARD, DescriptorCard, ModelCard, kind_of
from itk_pdd.solver.engine import DenseModel
from itk_pdd.solver.settings import Refinement, Stage

if TYPE_CHECKING:
    from itk_pdd.models.pddmodel import PddModel
    from itk_pdd.solver.problem import Model

__all__ = ["DEFAULT", "from_reference", "load", "names"]

DEFAULT = DenseModel(
    name="mind-ssc",
    stages=(
        Stage(shrink=2, cell=4, radius=7, step=2, dilations=(1, 3), smoothness=0.052, stride=2),
        Stage(shrink=2, cell=3, radius=5, step=1, dilations=(1, 3), smoothness=0.0128),
        Stage(shrink=2, cell=2, radius=3, step=1, dilations=(1, 2), smoothness=0.0128),
    ),
    # Once structures lie near each other, intensities tell more than self-similarities.
    refinement=Refinement(),
)
"""Hand-made features only: any modality, no training."""

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """List the models that come with the package."""
    return [DEFAULT.name, *sorted(path.parent.name for path in _FOLDER.glob(f"*/{CARD}"))]


def load(name: str | os.PathLike[str] | Model) -> Any:
    """Load the model of a name or in a folder.

    Parameters
    ----------
    name : str, path-like or Model
        "auto" for the default, one of :func:`names`, or the folder of a trained network (``card.json`` and
        ``weights.safetensors``, as ``pdd-train`` writes it); a model is returned as it is.

    Returns
    -------
    DenseModel (or a CombinedModel, which is one) or PddModel
        See :class:`itk_pdd.solver.problem.Model`.

    Raises
    ------
    RegistrationError
        If there is no such model, or its files are damaged.
    """
    if not isinstance(name, str | os.PathLike):
        return name
    text = os.fspath(name)
    if text in ("auto", DEFAULT.name):
        return DEFAULT
    for folder in (_FOLDER / text if text in names() else None, Path(text)):
        if folder is not None and (folder / CARD).is_file():
            kind, where = kind_of(folder), folder.resolve()
            if kind == "pdd":
                from itk_pdd.models.pddmodel import PddModel

                return PddModel.from_folder(where)
            if kind == "combined":
                from itk_pdd.models.combined import CombinedModel

                return CombinedModel.from_folder(where, DEFAULT)
            if kind == "descriptor":
                return _described(where)
            return _semantic(where)
    raise RegistrationError(
        f"model is {text!r}, expected 'auto', one of {', '.join(names())}, or a folder with a {CARD}"
    )


def _semantic(folder: Path) -> DenseModel:
    """Make the default model that also compares class probabilities, in the descent with some of the intensities."""
    refinement = Refinement.of_classes(ModelCard.from_folder(folder).correlation)
    return replace(DEFAULT, name=folder.name, network=str(folder), class_weight=15.0, refinement=refinement)


def _described(folder: Path) -> DenseModel:
    """Make the default model whose last search also compares a learned descriptor."""
    # Far from the truth it is no better than the hand-made features, so the first searches do without it.
    *first, last = DEFAULT.stages
    stages = (*first, replace(last, learned=DescriptorCard.from_folder(folder).share))
    return replace(DEFAULT, name=folder.name, stages=stages, descriptor=str(folder))


def from_reference(features: str | os.PathLike[str], **options: Any) -> PddModel:
    """Read a checkpoint of the author's program; see :func:`itk_pdd.models.reference.from_reference`."""
    from itk_pdd.models import reference

    return reference.from_reference(features, **options)
