"""Check the reach of the first search: it is too short where the best displacement is the farthest one."""

from __future__ import annotations

import logging

import numpy as np

from itk_pdd.errors import warn

__all__ = ["EDGE_SHARE", "edge_share", "tell_edge"]

log = logging.getLogger("itk_pdd")

EDGE_SHARE = 0.1
"""Share of the structured points at the edge of the range above which a registration warns.

Measured: below 0.01 on abdominal and hippocampal pairs, 0.02 on a translation by 90 % of the range, 0.06 on a lung pair
that moved by 80 to 100 % of it and was registered well (0.21 without its mask), 0.25 on two abdomens as they come from
the scanner (organs met at a Dice of .14), 0.3 to 1 on translations beyond it (0.1 where more than two thirds of the
image had left the other one).
"""


def edge_share(
    field: np.ndarray, contrasts: np.ndarray, reach: float, step: float, *, mask: np.ndarray | None = None
) -> float:
    """Share of the structured points, from 0 to 1, whose displacement lies at the edge of the range that was searched.

    ``field`` (z, y, x, 3) holds the displacements after the first search, in the unit of ``reach``, the largest one
    along an axis, and of ``step``, the distance of neighbouring ones. ``contrasts`` (channels, z, y, x) are the mean
    intensities at the same points, weighted: points where they change more than on average have structure. Elsewhere
    displacements are those of the surroundings, or of nothing. ``mask`` (z, y, x) tells the points that count.
    """
    axes = [axis for axis in range(1, contrasts.ndim) if contrasts.shape[axis] > 1]
    # Of each channel by itself: what is bright in one and dark in another has structure in both.
    slopes = [np.square(np.gradient(contrasts.astype(np.float32), axis=axis)).sum(axis=0) for axis in axes]
    slope = np.sqrt(sum(slopes))
    counted = slope if mask is None else slope[mask]
    structured = slope > (counted.mean() if counted.size else np.inf)
    if mask is not None:
        structured &= mask
    if not structured.any():
        return 0.0
    outermost = np.abs(field[structured]).max(axis=-1) > reach - step / 2
    return float(outermost.mean())


def tell_edge(share: float, reach_mm: float) -> None:
    """Warn, or note in the log, that a share of displacements (:func:`edge_share`) lies at the edge of the range."""
    if share > EDGE_SHARE:
        warn(
            f"{share:.0%} of the image with structure lies at the edge of the range that was searched ({reach_mm:.3g} "
            "mm along each axis) and may belong beyond it: start closer (initialise='affine', or, if that was done, an "
            "initial transform)"
        )
    elif share > 0:
        log.info("%.1f %% of the image with structure lies at the edge of the range, %.3g mm", 100 * share, reach_mm)
