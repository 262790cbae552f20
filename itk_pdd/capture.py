"""Whether the first search reached far enough: where the best displacement is the farthest one, it did not."""

from __future__ import annotations

import logging

import numpy as np

from itk_pdd.errors import warn

__all__ = ["EDGE_SHARE", "edge_share", "tell_edge"]

log = logging.getLogger("itk_pdd")

EDGE_SHARE = 0.25
"""Share of the structured points at the edge of the range above which a registration warns.

Measured: below 0.01 on abdominal and hippocampal pairs, 0.02 on a translation by 90 % of the range, 0.21 on a lung pair
that moved by 80 to 100 % of it and was registered well, 0.3 to 1 on translations beyond it (0.1 where more than two
thirds of the image had left the other one).
"""


def edge_share(field: np.ndarray, guide: np.ndarray, reach: float, step: float) -> float:
    """Share of the structured points whose displacement lies at the edge of the range that was searched.

    Parameters
    ----------
    field : numpy.ndarray
        Displacements after the first search, shape (z, y, x, 3), in any unit.
    guide : numpy.ndarray
        Mean intensities of the image at the same points: those where it changes more than on average have structure.
        Elsewhere displacements are those of the surroundings, or of nothing.
    reach, step : float
        Largest displacement along an axis and the distance of neighbouring ones in the same unit.

    Returns
    -------
    float
        From 0 to 1; the larger, the more of the image has moved farther than the search looked.
    """
    slopes = [np.gradient(guide.astype(np.float32), axis=axis) for axis in range(guide.ndim) if guide.shape[axis] > 1]
    slope = np.sqrt(sum(np.square(each) for each in slopes))
    structured = slope > slope.mean()
    if not structured.any():
        return 0.0
    outermost = np.abs(field[structured]).max(axis=-1) > reach - step / 2
    return float(outermost.mean())


def tell_edge(share: float, reach_mm: float) -> None:
    """Warn, or note in the log, that displacements lie at the edge of the range.

    Parameters
    ----------
    share : float
        From :func:`edge_share`.
    reach_mm : float
        Largest displacement along an axis in millimetres.
    """
    if share > EDGE_SHARE:
        warn(
            f"{share:.0%} of the image with structure lies at the edge of the range that was searched ({reach_mm:.3g} "
            "mm along each axis) and may belong beyond it: check the result, or start closer (initialise='center' or "
            "'affine', or an initial transform)"
        )
    elif share > 0:
        log.info("%.1f %% of the image with structure lies at the edge of the range, %.3g mm", 100 * share, reach_mm)
