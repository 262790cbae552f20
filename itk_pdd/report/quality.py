"""A traffic light for one registration, measured without a truth: it says where to look, and decides nothing."""

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
    """Limits of the traffic light; each pair is (last value of green, last value of amber).

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
    """One sign of the traffic light.

    Attributes
    ----------
    name : str
        Name of the measure.
    value : str
        What was found, in words.
    light : {"good", "look", "poor"}
        The light.
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
    """Measure the signs of a registration.

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
    inner = determinant[where]
    folded = metrics.folding_percentage(inner)
    extreme = 100 * float(np.mean((inner > 5) | ((inner > 0) & (inner < 0.2))))
    outside = 100 * float(np.mean(~inside["after"][where]))
    signs = [
        _sign(
            "Folding", f"{folded:.3g} % of the voxels fold (Jacobian determinant not positive)", folded, limits.folding
        ),
        _sign(
            "Extreme volume change",
            f"{extreme:.3g} % of the voxels shrink or grow more than fivefold",
            extreme,
            limits.extreme,
        ),
        _similarity(fixed.array, before.array, after.array, inside, where, limits),
        _sign(
            "Coverage",
            f"{outside:.3g} % of the fixed image has no counterpart in the moving image",
            outside,
            limits.outside,
        ),
    ]
    if uncertainty is not None:
        p95 = float(np.percentile(uncertainty.array[where], 95))
        value = f"95 % of the voxels below a standard deviation of {p95:.3g} mm"
        signs.append(_sign("Uncertainty", value, p95, limits.uncertainty, "mm"))
    return signs


def judged(quality: Quality) -> Sign:
    """Turn the quality that the registration estimates of itself into a sign."""
    return Sign(
        "Evidence",
        f"predicted overlap of structures {quality.figure:.2f}",
        _light(-quality.figure, (-1.25 * quality.threshold, -quality.threshold)),
        f"good from {1.25 * quality.threshold:.2f}, poor below {quality.threshold:.2f}",
    )


def overall(signs: list[Sign]) -> str:
    """Return the worst light."""
    return max((sign.light for sign in signs), key=(GREEN, AMBER, RED).index)


def _light(value: float, last: tuple[float, float]) -> str:
    return GREEN if value <= last[0] else AMBER if value <= last[1] else RED


def _sign(name: str, value: str, number: float, last: tuple[float, float], unit: str = "%") -> Sign:
    rule = f"good up to {last[0]:g} {unit}, poor above {last[1]:g} {unit}"
    return Sign(name, value, _light(number, last), rule)


def _similarity(
    fixed: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    inside: Mapping[str, np.ndarray],
    where: np.ndarray,
    limits: Limits,
) -> Sign:
    """Compare mutual information where the images overlap before and after: a smaller overlap is no gain."""
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
