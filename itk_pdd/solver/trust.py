"""Choose the landmarks that can be believed: those that agree with the images, or with one another.

Among many landmarks some agree by accident. How many, is computed from the size of the images: as in Moisan and Stival
(A probabilistic criterion to detect rigid point matches, IJCV 57, 2004), an agreement counts if fewer than a small
number of them are expected among as many landmarks set at random.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
_PLACES = 100  # chance places that each landmark is compared with, see image_doubt
_MOST = 400  # landmarks among which groups are looked for
_BY_ACCIDENT = 0.05  # number of random landmarks that may be believed


@dataclass(frozen=True)
class Doubt:
    """Hold the evidence of the images for and against landmarks."""

    # For each landmark the share of places of the moving image that match as well as its own, from 0 to 1.
    chance: np.ndarray
    better: np.ndarray  # where the place of the landmark matches better than the one that the search found


@dataclass(frozen=True)
class Trust:
    """The landmarks that are obeyed, and why the others are not."""

    obeyed: np.ndarray
    reasons: tuple[str, ...]


def trusted(
    points: np.ndarray, residuals: np.ndarray, sigma: np.ndarray, doubt: Doubt, shape: Sequence[int] = (100, 100, 100)
) -> Trust:
    """Choose the landmarks that are obeyed.

    A landmark is obeyed if the images found nearly the same displacement, or a group of landmarks that agree supports
    it, or its place matches clearly. Of few landmarks, or of many that mostly agree, each is obeyed unless the images
    speak against it. Of many that mostly disagree, those are obeyed that agree better than random ones would.

    In working voxels: ``points`` (n, 3), ``residuals`` (n, 3), their displacements minus those that the images alone
    give, ``sigma`` (n,), standard deviations, and ``shape``, along each axis: in larger images fewer landmarks agree by
    accident.
    """
    count = len(points)
    slack = _TIGHT + 2 * sigma
    size = np.linalg.norm(residuals, axis=1)
    by_images = size <= slack
    weight = 0.2 + np.clip(-np.log10(np.maximum(doubt.chance, 1e-2)), 0, 2)
    group = _group(points, residuals, slack, weight, reach=np.inf, strain=_STRAIN)
    # What the images found counts as much as some landmarks: it is wrong only where several agree on something else.
    core = by_images if weight[by_images].sum() + 2.0 >= weight[group].sum() or group.sum() < 3 else group
    likely = doubt.chance <= (_LIKELY if core.any() else _UNLIKELY)
    if count <= _FEW or (~core).sum() <= max(3, 0.3 * count):
        off, nearest = _off(points, residuals, core)
        near = off <= slack + np.minimum(_STRAIN * nearest, _FAR)
        support = _supported(points, residuals, slack, ~core)
        # Beside others that are believed, a pair far off needs clear evidence; without any, none against it.
        seen = (doubt.chance <= _SEEN) | ((doubt.chance <= _LIKELY / 2) & doubt.better)
        obeyed = core | support | near | (seen if core.any() else likely)
    else:
        obeyed = _beyond_accident(points, residuals, slack, doubt, by_images, shape)
        off, _ = _off(points, residuals, obeyed)
    reasons = []
    for i in range(count):
        if obeyed[i]:
            reasons.append("")
            continue
        said = "" if likely[i] else f"{100 * doubt.chance[i]:.0f} % of chance places match as well"
        others = f"it lies {off[i]:.0f} voxels off what the images and the other landmarks say"
        reasons.append(f"{others}; {said}" if said else others)
    return Trust(obeyed, tuple(reasons))


def _share(shape: Sequence[int], radius: np.ndarray) -> np.ndarray:
    """Share of an image within a radius in voxels: how probably a random landmark comes as close."""
    ball = math.pi * radius**2 if sum(size > 1 for size in shape) == 2 else 4 / 3 * math.pi * radius**3
    return np.minimum(ball / float(np.prod(shape)), 1.0)


def _beyond_accident(
    points: np.ndarray,
    residuals: np.ndarray,
    slack: np.ndarray,
    doubt: Doubt,
    by_images: np.ndarray,
    shape: Sequence[int],
) -> np.ndarray:
    """Find the landmarks that agree with the images, or with a group of others, better than random ones would."""
    count = len(points)
    grown, expected = _rare_group(points, residuals, slack, shape)
    # As many landmarks as agree with what the images found, at least, must agree on something else.
    core = grown if expected <= _BY_ACCIDENT and grown.sum() > by_images.sum() else by_images
    obeyed = np.zeros(count, bool)
    for _ in range(3):
        off, _ = _off(points, residuals, core)
        # A place that matches better than most is evidence of its own: Fisher's method joins the two probabilities.
        both = _share(shape, np.maximum(off, slack / 2)) * np.maximum(doubt.chance, 1 / _PLACES)
        found = (count - core.sum() + 1) * both * (1 - np.log(both)) <= _BY_ACCIDENT
        if (found == obeyed).all():
            break
        core = obeyed = found
    return obeyed


def _rare_group(
    points: np.ndarray, residuals: np.ndarray, slack: np.ndarray, shape: Sequence[int]
) -> tuple[np.ndarray, float]:
    """Find the group of landmarks that agree with one another which is least likely among random ones, bool (n,).

    Also return the number of such groups among as many random landmarks.
    """
    some = np.arange(len(points)) if len(points) <= _MOST else np.random.default_rng(0).permutation(len(points))[:_MOST]
    points, residuals, slack, total = points[some], residuals[some], slack[some], len(points)
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    apart = np.linalg.norm(residuals[:, None] - residuals[None], axis=-1)
    # The share of random landmarks that differ as little, for as far apart as they are.
    usual = 0.5 * (slack[:, None] + slack[None]) + np.minimum(_STRAIN * distance, _FAR)
    log = np.where(apart <= usual, np.log(_share(shape, usual)), np.inf)
    np.fill_diagonal(log, np.inf)
    best, least = np.zeros(total, bool), np.inf
    for seed in range(len(some)):
        members, cost = [seed], log[seed].copy()
        expected = math.log(len(some))
        for size in range(2, len(some) + 1):
            # Every member agrees with most of those before it, and is as rare as its closest agreement.
            agree = np.isfinite(log[members]).mean(axis=0) >= 0.7
            agree[members] = False
            allowed = np.flatnonzero(agree & np.isfinite(cost))
            if not len(allowed):
                break
            chosen = int(allowed[np.argmin(cost[allowed])])
            expected += cost[chosen] + math.log((len(some) - size + 1) / (size - 1))
            members.append(chosen)
            cost = np.minimum(cost, log[chosen])
            if expected < least:
                least, best = expected, np.zeros(total, bool)
                best[some[members]] = True
    return best, math.exp(min(least, 50.0))


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


def _supported(points: np.ndarray, residuals: np.ndarray, slack: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Find landmarks beside the core that close neighbours agree with, at least two of them together."""
    result = np.zeros(len(points), bool)
    rest = np.flatnonzero(candidates)
    if 2 <= len(rest) <= _MOST:
        agree = _agreement(points[rest], residuals[rest], 0.7 * slack[rest], _CLOSE, 0.0)
        group = _group(points[rest], residuals[rest], 0.7 * slack[rest], np.ones(len(rest)), reach=_CLOSE, strain=0.0)
        if group.sum() >= 2:
            result[rest[group]] = True
            enough = agree.sum(axis=1) >= 2
            result[rest[enough]] |= agree[enough][:, group].any(axis=1)
    return result


def _off(points: np.ndarray, residuals: np.ndarray, core: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Measure how far each residual is from those of the core around it, and how far the nearest of the core lies."""
    off = np.linalg.norm(residuals - _smooth(points, residuals, core), axis=1)
    return off, _distance(points, points[core])


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
