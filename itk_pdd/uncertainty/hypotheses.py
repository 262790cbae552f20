"""Places where the search found several displacements that explain the images about equally well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from itk_pdd.geometry.grid import Grid
from itk_pdd.uncertainty.recorder import StageRecord

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


def hypotheses(stages: Sequence[StageRecord], grid: Grid) -> tuple[Hypotheses, ...]:
    """Convert all hypotheses of a search on a working grid to physical coordinates."""
    matrix, found = grid.matrix, []
    for number, stage in enumerate(stages, start=1):
        index = stage.where[:, ::-1][:, : grid.dimension]
        points = grid.blocks(stage.block[-1]).to_physical(index)
        vectors = stage.modes[..., : grid.dimension] @ matrix.T
        counts = (~np.isnan(vectors[..., 0])).sum(axis=1)
        for point, modes, weights, count in zip(points, vectors, stage.weights, counts, strict=True):
            found.append(Hypotheses(point, modes[:count], weights[:count], number))
    return tuple(found)
