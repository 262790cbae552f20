"""Judge a registration without a truth: good, to be looked at, or probably failed."""

from __future__ import annotations

from collections.abc import Mapping as Named
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from itk_pdd.evaluation.signs import field_signs, image_signs
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.mapping import Mapping
from itk_pdd.geometry.volume import Volume

__all__ = ["FAILED", "GOOD", "LOOK", "Sign", "Verdict", "judge", "risk", "signs_of"]

GOOD, LOOK, FAILED = "good", "look", "probably failed"
"""The words of a verdict, best first."""

INTERCEPT = 1.94
WEIGHTS = {"likeness": 2.79, "start": 3.03, "strain": -6.38, "unlike": -5.88, "outside": -3.77}
"""Logistic regression of success, learned by ``tests/benchmarks/verdicts.py choose``: a larger sum is better."""
RISKS = (0.13, 0.83)
"""Risk of failure from which a registration is to be looked at, and from which it has probably failed."""

_SHARES = (
    ("Range", "edge", (0.1, 1.0),
     "of the structure lies at the edge of what the search tried", "start closer (initialise affine)"),
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

    Parameters
    ----------
    figures : mapping of str to float
        Those of :func:`itk_pdd.evaluation.signs.image_signs` and ``field_signs``, and ``edge``.
    """
    from scipy.special import expit  # heavy

    return float(expit(-INTERCEPT - sum(weight * figures[name] for name, weight in WEIGHTS.items())))


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
) -> Verdict:
    """Judge a registration by its images, its field and its search.

    Parameters
    ----------
    fixed, moving : sequence of Volume
        The channels of both images.
    displacements : DisplacementField
        From fixed to moving points on the grid of the fixed image.
    initial : Mapping, optional
        Where the registration started.
    weights : sequence of float, optional
        Of the channels; all alike by default.
    fixed_mask, moving_mask : Volume, optional
        Where to look; by default everywhere.
    edge : float, optional
        Share of the structure at the edge of the range of the search; None where it is not known.
    doubts : sequence of str
        What the model itself had against these images.

    Returns
    -------
    Verdict
    """
    mask = None if fixed_mask is None else fixed_mask.array > 0
    figures = image_signs(
        fixed, moving, displacements, initial=initial, weights=weights, mask=mask, moving_mask=moving_mask
    )
    figures |= field_signs(displacements, mask) | {"edge": edge or 0.0}
    figures = {"risk": risk(figures), **figures, "doubts": float(len(doubts))}
    signs = (*signs_of(figures), *(Sign("Model", LOOK, doubt, "good without a doubt") for doubt in doubts))
    return Verdict(max((sign.word for sign in signs), key=(GOOD, LOOK, FAILED).index), signs, figures)


def signs_of(figures: Named[str, float]) -> tuple[Sign, ...]:
    """Turn figures into signs."""
    return (_match(figures), *(_share(name, figures[key], *rest) for name, key, *rest in _SHARES))


def _match(figures: Named[str, float]) -> Sign:
    (low, high), found = RISKS, risk(figures)
    word = GOOD if found < low else LOOK if found < high else FAILED
    how = {GOOD: "match", LOOK: "match in part", FAILED: "hardly match"}[word]
    text = (
        f"the images {how} (likeness {figures['likeness']:.2f}, {figures['start']:.2f} at the start; risk of failure "
        f"{found:.0%})"
    )
    return Sign("Match", word, text, f"good below a risk of {low:.0%}, probably failed from {high:.0%}")


def _share(name: str, share: float, last: tuple[float, float], text: str, advice: str) -> Sign:
    word = GOOD if share <= last[0] else LOOK if share <= last[1] else FAILED
    rule = f"good up to {100 * last[0]:g} %" + (f", probably failed above {100 * last[1]:g} %" if last[1] < 1 else "")
    advice = f": {advice}" if advice and word != GOOD else ""
    return Sign(name, word, f"{100 * share:.3g} % {text}{advice}", rule)
