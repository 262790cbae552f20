"""A traffic light for one registration, from what can be known without a truth: a hint where to look, no verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from itk_pdd.evaluation import metrics
from itk_pdd.io.volume import Volume
from itk_pdd.uncertainty.quality import Quality

__all__ = ["Limits", "Sign", "assess", "judged", "overall"]

GREEN, AMBER, RED = "good", "look", "poor"
"""The lights, best first."""


@dataclass(frozen=True)
class Limits:
    """Where the light changes; each pair is (last value of green, last value of amber).

    Attributes
    ----------
    folding : tuple of float
        Percentage of folded voxels.
    extreme : tuple of float
        Percentage of voxels whose volume shrinks or grows more than fivefold.
    gain : tuple of float
        Relative gain in mutual information: green from the first value upwards, amber from the second.
    outside : tuple of float
        Percentage of fixed voxels that are mapped outside the moving image.
    uncertainty : tuple of float
        95th percentile of the standard deviation of the displacement in millimetres.
    """

    folding: tuple[float, float] = (0.2, 1.0)
    extreme: tuple[float, float] = (1.0, 5.0)
    gain: tuple[float, float] = (0.02, -0.01)
    outside: tuple[float, float] = (25.0, 60.0)
    uncertainty: tuple[float, float] = (3.0, 8.0)


@dataclass(frozen=True)
class Sign:
    """One thing that was looked at.

    Attributes
    ----------
    name : str
        What.
    value : str
        What was found, in words.
    light : {"good", "look", "poor"}
        What it means.
    rule : str
        Where the light changes, in words.
    """

    name: str
    value: str
    light: str
    rule: str


def assess(
    fixed: Volume,
    before: Volume,
    after: Volume,
    inside: Mapping[str, np.ndarray],
    determinant: np.ndarray,
    *,
    mask: np.ndarray | None = None,
    uncertainty: Volume | None = None,
    limits: Limits | None = None,
) -> list[Sign]:
    """Look at a registration.

    Parameters
    ----------
    fixed, before, after : Volume
        The fixed image, and the moving image on its grid before and after the registration.
    inside : mapping of numpy.ndarray
        ``before`` and ``after``: bool arrays, where the fixed voxels fall inside the moving image.
    determinant : numpy.ndarray
        Jacobian determinant of the mapping at the fixed voxels.
    mask : numpy.ndarray of bool, optional
        Where to look; by default everywhere.
    uncertainty : Volume, optional
        Standard deviation of the displacement in millimetres.
    limits : Limits, optional
        Where the lights change.

    Returns
    -------
    list of Sign
    """
    limits = limits or Limits()
    where = np.ones(fixed.grid.shape, bool) if mask is None else mask
    signs = [_folding(determinant[where], limits), _extreme(determinant[where], limits)]
    signs.append(_similarity(fixed.array, before.array, after.array, inside, where, limits))
    share = 100 * float(np.mean(~inside["after"][where]))
    signs.append(
        Sign(
            "Coverage",
            f"{share:.3g} % of the fixed image has no counterpart in the moving image",
            _light(share, limits.outside),
            f"good up to {limits.outside[0]:g} %, poor above {limits.outside[1]:g} %",
        )
    )
    if uncertainty is not None:
        p95 = float(np.percentile(uncertainty.array[where], 95))
        signs.append(
            Sign(
                "Uncertainty",
                f"95 % of the voxels below a standard deviation of {p95:.3g} mm",
                _light(p95, limits.uncertainty),
                f"good up to {limits.uncertainty[0]:g} mm, poor above {limits.uncertainty[1]:g} mm",
            )
        )
    return signs


def judged(quality: Quality) -> Sign:
    """What the evidence of the search and of the images says about a whole registration."""
    return Sign(
        "Evidence",
        f"predicted overlap of structures {quality.figure:.2f}",
        _light(-quality.figure, (-1.25 * quality.threshold, -quality.threshold)),
        f"good from {1.25 * quality.threshold:.2f}, poor below {quality.threshold:.2f}",
    )


def overall(signs: list[Sign]) -> str:
    """The worst of the lights."""
    return max((sign.light for sign in signs), key=(GREEN, AMBER, RED).index)


def _light(value: float, last: tuple[float, float]) -> str:
    return GREEN if value <= last[0] else AMBER if value <= last[1] else RED


def _folding(determinant: np.ndarray, limits: Limits) -> Sign:
    share = metrics.folding_percentage(determinant)
    return Sign(
        "Folding",
        f"{share:.3g} % of the voxels fold (Jacobian determinant not positive)",
        _light(share, limits.folding),
        f"good up to {limits.folding[0]:g} %, poor above {limits.folding[1]:g} %",
    )


def _extreme(determinant: np.ndarray, limits: Limits) -> Sign:
    share = 100 * float(np.mean((determinant > 5) | ((determinant > 0) & (determinant < 0.2))))
    return Sign(
        "Extreme volume change",
        f"{share:.3g} % of the voxels shrink or grow more than fivefold",
        _light(share, limits.extreme),
        f"good up to {limits.extreme[0]:g} %, poor above {limits.extreme[1]:g} %",
    )


def _similarity(
    fixed: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    inside: Mapping[str, np.ndarray],
    where: np.ndarray,
    limits: Limits,
) -> Sign:
    """Mutual information where both states have something to compare, so that a smaller overlap is no gain."""
    rule = f"good from {100 * limits.gain[0]:+g} %, poor below {100 * limits.gain[1]:+g} %"
    common = inside["before"] & inside["after"] & where
    if common.sum() < 0.05 * where.sum():
        return Sign("Similarity", "the images hardly overlapped before: nothing to compare with", AMBER, rule)
    old, new = (metrics.mutual_information(fixed, moved, common) for moved in (before, after))
    gain = (new - old) / max(old, 1e-6)
    light = GREEN if gain >= limits.gain[0] else AMBER if gain >= limits.gain[1] else RED
    return Sign(
        "Similarity", f"mutual information {old:.3g} before, {new:.3g} after ({100 * gain:+.3g} %)", light, rule
    )
