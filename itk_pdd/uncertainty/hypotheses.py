"""Places where the search found several displacements that explain the images about equally well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from itk_pdd.grid import Grid
    from itk_pdd.uncertainty.recorder import Recorder

__all__ = ["Hypotheses", "hypotheses"]


@dataclass(frozen=True)
class Hypotheses:
    """Distinct displacements of one control point.

    Parameters
    ----------
    point : numpy.ndarray
        Physical position in the fixed image in millimetres, (dim,).
    displacements : numpy.ndarray
        Displacements in millimetres, (count, dim), the most probable first. The initial transform comes after them.
    probabilities : numpy.ndarray
        Of each hypothesis and its direct neighbours in the search, (count,); they need not add up to 1.
    stage : int
        Stage of the search, from 1.
    """

    point: np.ndarray
    displacements: np.ndarray
    probabilities: np.ndarray
    stage: int


def hypotheses(recorder: Recorder, grid: Grid) -> list[Hypotheses]:
    """All hypotheses in physical coordinates.

    Parameters
    ----------
    recorder : Recorder
        What the search told.
    grid : Grid
        The working grid.
    """
    matrix, found = grid.matrix, []
    for number, stage in enumerate(recorder.stages, start=1):
        block = stage.block[-1]
        index = stage.where[:, ::-1][:, : grid.dimension]
        points = grid.to_physical((index + 0.5) * block - 0.5)
        for point, modes, weights in zip(points, stage.modes, stage.weights, strict=True):
            known = ~np.isnan(modes[:, 0])
            vectors = modes[known][:, : grid.dimension] @ matrix.T
            found.append(Hypotheses(point, vectors, weights[known], number))
    return found
