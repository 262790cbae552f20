"""Registration with a trained PDD network: what the engine does where the model is one. Free of ITK."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from itk_pdd.errors import RegistrationError, warn
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.mapping import Mapping
from itk_pdd.io.volume import Volume
from itk_pdd.solver.memory import require
from itk_pdd.solver.operations import checked_device, on_device
from itk_pdd.solver.settings import Model

if TYPE_CHECKING:
    from itk_pdd.models.pddmodel import PddModel

__all__ = ["register_learned"]

log = logging.getLogger("itk_pdd")


def register_learned(
    fixed: tuple[Volume, ...],
    moving: tuple[Volume, ...],
    model: Model,
    *,
    initial: Mapping | None,
    masked: bool,
    device: str,
    spacing: float | None,
    refinement_iterations: int | None,
    memory: float | None,
    progress: Callable[[float, str], None],
) -> tuple[DisplacementField, Grid, float]:
    """Register with a PDD network; the parameters are those of :func:`itk_pdd.solver.engine.register_volumes`.

    Returns
    -------
    field : DisplacementField
        On the grid of the fixed image, the initial transform included.
    grid : Grid
        The working grid.
    capture_range_mm : float
        Half of the farthest displacement that is tried, as for the other models.

    Raises
    ------
    RegistrationError
        If there are several channels, another working spacing is asked for, or the memory is not enough (the network
        knows no blocks), or see :meth:`itk_pdd.models.pddmodel.PddModel.displacements`.
    """
    learned = _loaded(model)
    if len(fixed) > 1:
        raise RegistrationError(
            f"fixed and moving have {len(fixed)} channels, but model {model.name} was trained on images of one: give "
            "one, or choose another model"
        )
    if spacing is not None:
        raise RegistrationError(
            f"spacing is {spacing}, but model {model.name} works at the spacing it was trained for: leave it out, or "
            "choose another model"
        )
    if refinement_iterations is not None and refinement_iterations < 0:
        raise RegistrationError(f"refinement_iterations is {refinement_iterations}, expected at least 0")
    if masked:
        warn(f"masks are given, but model {model.name} does not use them")
    require(
        learned.needs(fixed[0].grid, moving[0].grid, on_host=checked_device(device) == "cpu"), limit=memory,
        what=f"a registration with model {model.name}",
        advice=f"{'close other programs' if memory is None else 'allow more (memory)'}, crop the images, or choose "
        "another model",
    )  # fmt: skip

    def found(operations: Any) -> tuple[Callable[[np.ndarray], np.ndarray], Grid]:
        return learned.displacements(
            fixed[0], moving[0], initial=initial, iterations=refinement_iterations,
            smallest_jacobian=model.smallest_jacobian, device=str(operations.device), progress=progress,
        )  # fmt: skip

    mapping, grid = on_device(device, found)
    capture = 0.5 * learned.capture_range_mm(grid)
    log.info("model %s, working grid %s, capture range %.3g mm", model.name, grid, capture)
    progress(0.95, "field")
    return DisplacementField.from_function(mapping, fixed[0].grid), grid, capture


def _loaded(model: Model) -> PddModel:
    from itk_pdd.models.pddmodel import PddModel

    if isinstance(model.pdd, PddModel):
        return model.pdd
    return PddModel.from_folder(str(model.pdd))
