"""Choose the landmarks that can be believed: those that agree with the images, or with one another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Doubt", "Trust", "trusted"]

_TIGHT = 3.0  # working voxels by which displacements may differ beside the uncertainty of the landmarks
_STRAIN = 0.25  # change of the displacement per distance that is usual
_FAR = 8.0  # working voxels: the most that the strain allows
_CLOSE = 60.0  # working voxels between landmarks that can support one another
_FEW = 8  # landmarks that a user has set with care one by one: two that agree are enough
_SEEN = 0.02  # share of chance places that match as well, below which a place is the right one
_LIKELY = 0.1
_UNLIKELY = 0.3
_MOST = 400  # landmarks among which groups are looked for


@dataclass(frozen=True)
class Doubt:
    """Hold the evidence of the images for and against landmarks.

    Parameters
    ----------
    chance : numpy.ndarray
        For each landmark the share of places of the moving image that match as well as its own, from 0 to 1.
    better : numpy.ndarray
        Where the place of the landmark matches better than the one that the search found.
    """

    chance: np.ndarray
    better: np.ndarray


@dataclass(frozen=True)
class Trust:
    """The landmarks that are obeyed, and why the others are not."""

    obeyed: np.ndarray
    reasons: tuple[str, ...]


def trusted(points: np.ndarray, residuals: np.ndarray, sigma: np.ndarray, doubt: Doubt) -> Trust:
    """Choose the landmarks that are obeyed.

    A landmark is obeyed if the images found nearly the same displacement, or a group of landmarks that agree supports
    it, or its place matches clearly. Of few landmarks, each is obeyed unless the images speak against it.

    Parameters
    ----------
    points : numpy.ndarray
        Positions (n, 3) in working voxels.
    residuals : numpy.ndarray
        Displacements of the landmarks minus those that the images alone give, (n, 3), in working voxels.
    sigma : numpy.ndarray
        Standard deviation of each landmark in working voxels (n,).
    doubt : Doubt
        What the images say.
    """
    count = len(points)
    slack = _TIGHT + 2 * sigma
    size = np.linalg.norm(residuals, axis=1)
    by_images = size <= slack
    weight = 0.2 + np.clip(-np.log10(np.maximum(doubt.chance, 1e-2)), 0, 2)
    group = _group(points, residuals, slack, weight, reach=np.inf, strain=_STRAIN)
    # What the images found counts as much as some landmarks: it is wrong only where several agree on something else.
    core = by_images if weight[by_images].sum() + 2.0 >= weight[group].sum() or group.sum() < 3 else group
    obeyed = core.copy()
    left = ~obeyed
    careful = count <= _FEW or left.sum() <= max(3, 0.3 * count)
    support = _supported(points, residuals, slack, least=2 if careful else 3, candidates=left)
    predicted = _smooth(points, residuals, core)
    nearest = _distance(points, points[core])
    off = np.linalg.norm(residuals - predicted, axis=1)
    near = off <= slack + np.minimum(_STRAIN * nearest, _FAR)
    tight = off <= slack
    clear = (doubt.chance <= _SEEN) & doubt.better
    likely = doubt.chance <= (_LIKELY if core.any() else _UNLIKELY)
    if careful:
        # Beside others that are believed, a pair far off needs clear evidence; without any, none against it.
        seen = (doubt.chance <= _SEEN) | ((doubt.chance <= _LIKELY / 2) & doubt.better)
        obeyed |= support | near | (seen if core.any() else likely)
    else:
        obeyed |= tight & (nearest <= _CLOSE) | (near & likely) | (support & likely) | (clear & near)
    reasons = []
    for i in range(count):
        if obeyed[i]:
            reasons.append("")
            continue
        said = "" if likely[i] else f"{100 * doubt.chance[i]:.0f} % of chance places match as well"
        others = f"it lies {off[i]:.0f} voxels off what the images and the other landmarks say"
        reasons.append(f"{others}; {said}" if said else others)
    return Trust(obeyed, tuple(reasons))


def _group(
    points: np.ndarray, residuals: np.ndarray, slack: np.ndarray, weight: np.ndarray, *, reach: float, strain: float
) -> np.ndarray:
    """Find the heaviest group of landmarks each two of which agree, by growing one from every landmark."""
    few = np.argsort(-weight, kind="stable")[:_MOST]
    agree = _agreement(points[few], residuals[few], slack[few], reach, strain)
    best, best_weight = np.zeros(len(points), bool), -1.0
    for seed in range(len(few)):
        members, allowed = [seed], agree[seed].copy()
        allowed[seed] = False
        while allowed.any():
            # The one that leaves the most others in the group.
            candidates = np.flatnonzero(allowed)
            ties = agree[np.ix_(candidates, candidates)] @ weight[few[candidates]]
            chosen = candidates[int(np.argmax(ties + weight[few[candidates]]))]
            members.append(int(chosen))
            allowed &= agree[chosen]
            allowed[chosen] = False
        total = float(weight[few[members]].sum())
        if total > best_weight:
            best_weight = total
            best[:] = False
            best[few[members]] = True
    return best


def _agreement(points: np.ndarray, residuals: np.ndarray, slack: np.ndarray, reach: float, strain: float) -> np.ndarray:
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    apart = np.linalg.norm(residuals[:, None] - residuals[None], axis=-1)
    allowed = 0.5 * (slack[:, None] + slack[None]) + np.minimum(strain * distance, _FAR)
    return (apart <= allowed) & (distance <= reach)


def _supported(
    points: np.ndarray, residuals: np.ndarray, slack: np.ndarray, *, least: int, candidates: np.ndarray
) -> np.ndarray:
    """Find landmarks beside the core that close neighbours agree with, at least ``least`` of them together."""
    result = np.zeros(len(points), bool)
    rest = np.flatnonzero(candidates)
    if least <= len(rest) <= _MOST:
        agree = _agreement(points[rest], residuals[rest], 0.7 * slack[rest], _CLOSE, 0.0)
        group = _group(points[rest], residuals[rest], 0.7 * slack[rest], np.ones(len(rest)), reach=_CLOSE, strain=0.0)
        if group.sum() >= least:
            result[rest[group]] = True
        enough = agree.sum(axis=1) >= least
        result[rest[enough]] |= agree[enough][:, group].any(axis=1) & (group.sum() >= least)
    return result


def _smooth(points: np.ndarray, residuals: np.ndarray, core: np.ndarray) -> np.ndarray:
    """Predict the residual at each landmark from those of the core around it; far from all of them it is zero."""
    if not core.any():
        return np.zeros_like(residuals)
    square = np.square(points[:, None] - points[core][None]).sum(axis=-1)
    weights = np.exp(-0.5 * square / (_CLOSE / 2) ** 2)
    weights[np.flatnonzero(core), np.arange(core.sum())] = 0.0
    total = weights.sum(axis=1, keepdims=True)
    return weights @ residuals[core] / (total + 0.05)


def _distance(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Measure the distance of each point from the nearest of others, itself left out."""
    if not len(others):
        return np.full(len(points), np.inf)
    distance = np.linalg.norm(points[:, None] - others[None], axis=-1)
    distance[distance == 0] = np.inf
    return distance.min(axis=1)
