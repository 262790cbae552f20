"""From evidence to millimetres: a small log-linear model with heavy tails, learned on pairs with known truth."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from itk_pdd.errors import RegistrationError

__all__ = ["DESCENT", "PDD", "Calibration", "calibration_in", "calibration_of", "calibration_of_package"]

log = logging.getLogger("itk_pdd")

_FOLDER = Path(__file__).parents[1] / "models"
_DEFAULT = "mind-ssc"
PDD, DESCENT = "pdd", "pdd-descent"
"""Names of the package's calibrations for PDD networks, and for a descent after one."""


@dataclass(frozen=True)
class Calibration:
    """The certainty that follows from evidence.

    The error of the displacement has a multivariate Student distribution about zero. Its squared scale per axis, in
    working voxels, is the sum of three parts: imprecision where the match is right, the possibility of a wrong match,
    and the spread over distinct places that fit about equally. The logarithms of the first two are each ``intercept +
    sum of weight * log(feature + offset)``; no weight is below zero, so that worse evidence never makes a result more
    certain. Imprecision has a floor, that of quantisation, and the whole a ceiling: a product of powers has no
    bound where evidence is worse than any that was learned from, but a wrong match is wrong by about the range of the
    search.

    Parameters
    ----------
    intercept : float
        Logarithm of the scale where all terms are zero; a larger one makes everything less certain.
    weights : mapping of str to float
        Exponents of the features (see :mod:`itk_pdd.uncertainty.features`) for the imprecision; 0 ignores one.
    offsets : mapping of str to float
        Added to the features, so that a zero is no certainty.
    mismatch : mapping
        ``intercept`` and ``weights`` of the possibility of a wrong match; empty leaves it out.
    ambiguity : float
        How much of the spread over distinct hypotheses is added to it, in quadrature.
    tail : float
        Degrees of freedom of the Student distribution, above 2; fewer make far outliers more likely.
    structure : float
        Share, from 0 to 1, of the covariance's shape that comes from the image structure, the rest being isotropic.
    marginals : float
        Share of it that comes from the marginals of the search.
    temperature : float
        Factor of the stages' temperature at which the marginals of the search are probabilities.
    floor : float
        Least scale per axis in working voxels.
    ceiling : float
        Largest standard deviation per axis in working voxels.
    coherence : float
        Distance in working voxels over which errors resemble each other (standard deviation of the Gaussian that
        smooths white noise into them); larger makes smoother samples.
    quality : mapping
        Weights of the quality figure (see :mod:`itk_pdd.uncertainty.quality`).
    learned : mapping
        On what and how it was learned, for the reader.
    """

    intercept: float
    weights: Mapping[str, float]
    offsets: Mapping[str, float]
    tail: float
    structure: float = 0.0
    marginals: float = 0.0
    mismatch: Mapping[str, Any] = field(default_factory=dict)
    ambiguity: float = 0.0
    temperature: float = 0.4
    floor: float = 0.0
    ceiling: float = 17.0
    coherence: float = 8.0
    quality: Mapping[str, Any] = field(default_factory=dict)
    learned: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.tail > 2:
            raise RegistrationError(f"calibration: tail is {self.tail}, expected more than 2 degrees of freedom")
        for weights in (self.weights, self.mismatch.get("weights", {})):
            if min(weights.values(), default=0.0) < 0:
                raise RegistrationError(f"calibration: weights are {dict(weights)}, expected none below 0")
        if not (0 <= self.structure and 0 <= self.marginals and self.structure + self.marginals <= 1):
            raise RegistrationError(
                f"calibration: structure {self.structure} and marginals {self.marginals} are shares, expected from 0 "
                "on and not above 1 together"
            )

    def to_dict(self) -> dict[str, Any]:
        """Convert to what JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], *, name: str = "calibration") -> Calibration:
        """Make a calibration of what :meth:`to_dict` gave; RegistrationError if it is not complete or no such thing."""
        try:
            return cls(**content)
        except (TypeError, AttributeError) as error:
            raise RegistrationError(f"{name} is no complete calibration ({error})") from error

    def scale(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """Scale of the Student distribution per axis, in working voxels, shape of each feature."""
        result = np.square(np.maximum(self._product(self.intercept, self.weights, features), np.float32(self.floor)))
        if self.mismatch:
            wrong = self._product(self.mismatch["intercept"], self.mismatch["weights"], features)
            result = result + np.square(wrong)
        if self.ambiguity:
            result = result + np.square(np.float32(self.ambiguity) * features["ambiguity"])
        return np.minimum(np.sqrt(result), np.float32(self.ceiling * np.sqrt((self.tail - 2) / self.tail)))

    def _product(self, intercept: float, weights: Mapping[str, float], features: Mapping[str, np.ndarray]) -> Any:
        # Features that a model does not have, of stages that it lacks, are left out.
        logs: Any = np.float32(intercept)
        for name, weight in weights.items():
            if name in features:
                logs = logs + np.float32(weight) * np.log(features[name] + np.float32(self.offsets[name]))
        return np.exp(logs)

    def shape(self, spread: Mapping[str, np.ndarray]) -> np.ndarray:
        """Shape of the covariance: matrices (..., dim, dim) of trace 1, along the axes of the working grid.

        It is made of matrices of that shape (see :class:`itk_pdd.uncertainty.features.Evidence`).
        """
        whole = next(iter(spread.values())).shape
        rest = np.float32((1 - self.structure - self.marginals) / whole[-1])
        result = rest * np.eye(whole[-1], dtype=np.float32)
        for share, name in ((self.structure, "structure"), (self.marginals, "marginals")):
            if share:
                result = result + np.float32(share) * spread[name]
        return np.broadcast_to(result, whole)


def calibration_of(name: str, network: str | None = None) -> Calibration:
    """Find the calibration of a model: on the card of a trained one, else that of the default model.

    Parameters
    ----------
    name : str
        Name of the model.
    network : str, optional
        Folder of its trained network.

    Raises
    ------
    RegistrationError
        If the calibration on the card makes no sense.
    """
    if network is not None:
        from itk_pdd.network.card import ModelCard

        card = ModelCard.from_folder(network)
        return calibration_in(name, card.uncertainty, default=_DEFAULT)
    return calibration_in(name, {}, default=_DEFAULT)


def calibration_in(name: str, content: Mapping[str, Any], *, default: str) -> Calibration:
    """Take the calibration on a model's card, or one of the package's where there is none.

    Parameters
    ----------
    name : str
        Name of the model.
    content : mapping
        ``uncertainty`` of its card.
    default : str
        See :func:`calibration_of_package`.

    Raises
    ------
    RegistrationError
        If the calibration on the card makes no sense.
    """
    if content:
        return Calibration.from_dict(content, name=f"uncertainty in the card of {name}")
    if name != default:
        log.info("uncertainty: model %s has no calibration, that of %s is used", name, default)
    return calibration_of_package(default)


@functools.cache
def calibration_of_package(name: str = _DEFAULT) -> Calibration:
    """Read a calibration that comes with the package.

    Parameters
    ----------
    name : str
        "mind-ssc" for the default model, :data:`PDD` for a PDD network, :data:`DESCENT` for one with a descent.
    """
    path = _FOLDER / f"{name}.uncertainty.json"
    return Calibration.from_dict(json.loads(path.read_text(encoding="utf-8")), name=str(path))
