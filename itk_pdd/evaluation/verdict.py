"""Judge a registration without a truth: good, to be looked at, or probably failed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from collections.abc import Mapping as Named
from dataclasses import dataclass, field
from typing import Any

from itk_pdd.evaluation.signs import field_signs, image_signs
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.mapping import Mapping
from itk_pdd.geometry.volume import Volume

__all__ = ["FAILED", "GOOD", "LOOK", "Rivals", "Sign", "Verdict", "judge", "model_sign", "risk", "signs_of"]

GOOD, LOOK, FAILED = "good", "look", "probably failed"
"""The words of a verdict, best first."""

INTERCEPT = 1.94
WEIGHTS = {"likeness": 2.79, "start": 3.03, "strain": -6.38, "unlike": -5.88, "outside": -3.77}
"""Logistic regression of success, learned by ``tests/benchmarks/verdicts.py choose``: a larger sum is better."""
DOUBT = (0.06, 0.95)
"""Risks by the rule above between which the pair is registered again, and the rule below decides."""
RIVAL_INTERCEPT = 5.02
RIVAL_WEIGHTS = {
    "start_gain": 3.12, "behind": -4.86, "short": -10.39, "chance": -6.71, "unlike": -10.43, "outside": -6.29,
}  # fmt: skip
"""The same for pairs that were registered again, learned on these; for the first three see :func:`rival_ratios`."""
RIVAL_FIGURES = ("again", "chance", "chance_start", "best", "behind", "short")
"""Figures of a pair that was registered again, see :class:`Rivals`."""
RISKS, RIVAL_RISKS = (0.13, 0.83), (0.25, 0.6)
"""Risks by each rule from which a registration is to be looked at, and from which it has probably failed."""

_FLOOR = 0.05
"""Added to likenesses before their ratio is taken: below it they say nothing."""
_CLEARLY = 0.15
"""Difference of likeness from which another start is named."""
_MODEL_SHORT = 0.32
"""Difference of likeness from which a model that doubts the images has failed beside the default model."""
_SHARES = (
    ("Range", "edge", (0.1, 1.0),
     "of the structure lies at the edge of what the search tried",
     "start closer (initialise affine, or, if that was done, an initial transform)"),
    ("Overlap", "outside", (0.4, 0.8), "of the fixed image has no counterpart in the moving image", ""),
    ("Folding", "folded", (0.002, 0.1), "of the voxels fold (Jacobian determinant not positive)", ""),
    ("Extreme volume change", "extreme", (0.02, 0.3), "of the voxels shrink or grow more than fivefold", ""),
)  # fmt: skip
"""Shares: name, figure, largest of "good" and of "look", what it is a share of, advice."""


@dataclass(frozen=True)
class Sign:
    """One thing that was looked at.

    Attributes
    ----------
    name : str
        What was looked at.
    word : {"good", "look", "probably failed"}
        What it says.
    found : str
        What was found, in words.
    rule : str
        Where the word changes, in words.
    """

    name: str
    word: str
    found: str
    rule: str


@dataclass(frozen=True)
class Rivals:
    """Hold the likeness of two images after quick registrations from the same start and from others."""

    # likeness (see :func:`itk_pdd.evaluation.signs.image_signs`) from the same start, after and before
    again: float
    start: float
    # the same where one image was turned or mirrored first; medians
    chance: float
    chance_start: float
    best: float  # the largest likeness from another start, turned ones among them
    way: str  # which start that was

    def figures(self, likeness: float) -> dict[str, float]:
        """Compare with each other and with the likeness of the registration itself."""
        return {
            "again": self.again, "chance": self.chance, "chance_start": self.chance_start, "best": self.best,
            "behind": max(self.best - self.again, 0.0), "short": max(self.again - likeness, 0.0),
        }  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """Tell whether a registration succeeded, as its images, its field and its search say.

    Attributes
    ----------
    word : {"good", "look", "probably failed"}
        The worst of the signs.
    signs : tuple of Sign
        All that was looked at.
    figures : mapping of str to float
        What was measured: ``risk`` of failure, from 0 to 1, and what it was computed from.
    """

    word: str
    signs: tuple[Sign, ...]
    figures: Named[str, float] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Return True if the registration has probably failed."""
        return self.word == FAILED

    @property
    def reasons(self) -> tuple[str, ...]:
        """Name what is not good, worst first, or where all is good what speaks for that."""
        bad = [sign.found for word in (FAILED, LOOK) for sign in self.signs if sign.word == word]
        return tuple(bad) if bad else (self.signs[0].found,)

    def to_dict(self) -> dict[str, Any]:
        """Convert to what JSON can hold."""
        return {"word": self.word, "reasons": list(self.reasons), "figures": dict(self.figures)}

    def __str__(self) -> str:
        text = "; ".join(self.reasons)
        return f"Verdict: {self.word}. {text[:1].upper()}{text[1:]}."


def risk(figures: Named[str, float]) -> float:
    """Estimate the risk, from 0 to 1, that a registration failed.

    By the figures of :func:`itk_pdd.evaluation.signs.image_signs` and ``field_signs``, and, where the pair was
    registered again, by those of :meth:`Rivals.figures`, which then decide.
    """
    if "again" in figures:
        return _logistic(RIVAL_INTERCEPT, RIVAL_WEIGHTS, {**figures, **rival_ratios(figures)})
    return _logistic(INTERCEPT, WEIGHTS, figures)


def rival_ratios(figures: Named[str, float]) -> dict[str, float]:
    """Compare the likenesses of a pair that was registered again, as logarithms of their ratios.

    ``start_gain``: the start beside the turned ones, before any deformation; ``behind``: the best other start beside
    the same one, after it, if it is better; ``short``: the default model beside the registration, likewise.
    """
    return {
        "start_gain": _ratio(figures["start"], figures["chance_start"]),
        "behind": max(_ratio(figures["best"], figures["again"]), 0.0),
        "short": max(_ratio(figures["again"], figures["likeness"]), 0.0),
    }


def _ratio(first: float, second: float) -> float:
    return math.log((first + _FLOOR) / (second + _FLOOR))


def _logistic(intercept: float, weights: Named[str, float], figures: Named[str, float]) -> float:
    from scipy.special import expit  # heavy

    return float(expit(-intercept - sum(weight * figures[name] for name, weight in weights.items())))


def judge(
    fixed: Sequence[Volume],
    moving: Sequence[Volume],
    displacements: DisplacementField,
    *,
    initial: Mapping | None = None,
    weights: Sequence[float] | None = None,
    fixed_mask: Volume | None = None,
    moving_mask: Volume | None = None,
    edge: float | None = None,
    doubts: Sequence[str] = (),
    rivals: Callable[[], Rivals] | None = None,
) -> Verdict:
    """Judge a registration by its images, its field and its search.

    Parameters
    ----------
    fixed, moving : sequence of Volume
        The channels of both images; their ``weights`` are all alike by default.
    displacements : DisplacementField
        From fixed to moving points on the grid of the fixed image, the start ``initial`` included.
    fixed_mask, moving_mask : Volume, optional
        Where to look; by default everywhere.
    edge : float, optional
        Share of the structure at the edge of the range of the search; None where it is not known.
    doubts : sequence of str
        What the model itself had against these images.
    rivals : callable, optional
        Registers the pair again (see :func:`itk_pdd.solver.rivals.rivals`); called where the risk lies within
        ``DOUBT``.
    """
    mask = None if fixed_mask is None else fixed_mask.array > 0
    figures = image_signs(
        fixed, moving, displacements, initial=initial, weights=weights, mask=mask, moving_mask=moving_mask
    )
    figures |= field_signs(displacements, mask) | {"edge": edge or 0.0}
    way, first = "", risk(figures)
    if rivals is not None and DOUBT[0] < first < DOUBT[1]:
        found = rivals()
        way, figures = found.way, figures | found.figures(figures["likeness"])
    figures = {"risk": risk(figures), **figures, "doubts": float(len(doubts))}
    signs = (*signs_of(figures, way), *([model_sign(figures, _joined(doubts))] if doubts else []))
    return Verdict(max((sign.word for sign in signs), key=(GOOD, LOOK, FAILED).index), signs, figures)


def signs_of(figures: Named[str, float], way: str = "") -> tuple[Sign, ...]:
    """Turn figures into signs; ``way`` names the best of the other starts (see :class:`Rivals`)."""
    return (_match(figures, way), *(_share(name, figures[key], *rest) for name, key, *rest in _SHARES))


def _match(figures: Named[str, float], way: str) -> Sign:
    (low, high), found = RIVAL_RISKS if "again" in figures else RISKS, risk(figures)
    word = GOOD if found < low else LOOK if found < high else FAILED
    how = {GOOD: "match", LOOK: "match in part", FAILED: "hardly match"}[word]
    told = [f"likeness {figures['likeness']:.2f}, {figures['start']:.2f} at the start"]
    if "again" in figures:
        told.append(f"{figures['chance']:.2f} by chance")
    told.append(f"risk of failure {100 * found:.0f} %")
    text = f"the images {how} ({'; '.join(told)})"
    if word != GOOD and way and figures["behind"] > _CLEARLY:
        text += f"; {way} they match better ({figures['best']:.2f})"
    return Sign("Match", word, text, f"good below a risk of {100 * low:.0f} %, probably failed from {100 * high:.0f} %")


def model_sign(figures: Named[str, float], doubt: str) -> Sign:
    """Tell what a model had against the images; it has failed where the default model matches them much better."""
    short = figures.get("short", 0.0)
    word = FAILED if short > _MODEL_SHORT else LOOK
    text = f", and the default model matches them better ({figures['again']:.2f})" if short > _CLEARLY else ""
    return Sign(
        "Model", word, doubt + text, f"good without a doubt, probably failed if {_MODEL_SHORT:g} short of the default"
    )


def _joined(doubts: Sequence[str]) -> str:
    """Join doubts to one text; what they begin with alike, up to a colon, is said once."""
    first, *others = dict.fromkeys(doubts)
    start = first[: first.find(": ") + 2]
    return "; ".join((first, *(each.removeprefix(start) for each in others)))


def _share(name: str, share: float, last: tuple[float, float], text: str, advice: str) -> Sign:
    word = GOOD if share <= last[0] else LOOK if share <= last[1] else FAILED
    rule = f"good up to {100 * last[0]:g} %" + (f", probably failed above {100 * last[1]:g} %" if last[1] < 1 else "")
    advice = f": {advice}" if advice and word != GOOD else ""
    return Sign(name, word, f"{100 * share:.3g} % {text}{advice}", rule)
