"""The card of a user's own network of features: what it takes and gives."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from itk_pdd.errors import RegistrationError

__all__ = ["FeatureCard"]

_KINDS = ("features", "probabilities")


@dataclass(frozen=True)
class FeatureCard:
    """Tell what a network of features takes and gives.

    Parameters
    ----------
    spacing : float, optional
        Voxel size in millimetres that the network looks at; by default that of the fixed image.
    low, high : float, optional
        Intensities that become ``to[0]`` and ``to[1]``; those beyond are clipped. By default intensities stay as they
        are.
    to : tuple of float
        See ``low``.
    mean, std : float or "image", optional
        Subtracted from the intensities, and what they are divided by, after ``low`` and ``high``; "image" takes those
        of the image at hand.
    dimension : int, optional
        2 or 3; a network of 2-D images sees the slices of a 3-D one along z. By default that of the images.
    channels : int
        Channels that go in; an image of one channel is repeated.
    multiple : int
        The sizes that go in are padded to a multiple of this number.
    patch : int
        Voxels along each axis of the patches that are looked at one by one; 0 for the whole image if it is not large.
    layers : tuple of int
        Which tensors of a list count, counted from 0; by default all.
    values : {"features", "probabilities"}
        Probabilities lie from 0 to 1 and sum up to 1; features have any scale.
    background : bool
        The first channel of probabilities is the background, which tells nothing new.
    weight : float
        Cost of a difference in all features in the search, beside 1 for one in all MIND-SSC features; by default 1, and
        15 for probabilities.
    descent : float
        How much the features count in the descent, beside the local correlation of the intensities; 0 leaves them out.
    alone : bool
        Compare nothing else in the search.
    """

    spacing: float | None = None
    low: float | None = None
    high: float | None = None
    to: tuple[float, float] = (-1.0, 1.0)
    mean: float | str | None = None
    std: float | str | None = None
    dimension: int | None = None
    channels: int = 1
    multiple: int = 1
    patch: int = 0
    layers: tuple[int, ...] = ()
    values: str = "features"
    background: bool = True
    weight: float | None = None
    descent: float = 1.0
    alone: bool = False

    def __post_init__(self) -> None:
        numbers = {"spacing": self.spacing, "weight": self.weight}
        bad = [f"{name} is {n!r}, expected a number above 0" for name, n in numbers.items() if not _positive(n)]
        if self.values not in _KINDS:
            bad.append(f"values is {self.values!r}, expected 'features' or 'probabilities'")
        if (self.low is None) != (self.high is None) or (self.low is not None and not self.low < float(self.high or 0)):
            bad.append(f"low and high are {self.low} and {self.high}, expected low below high, or none of them")
        if self.dimension not in (None, 2, 3):
            bad.append(f"dimension is {self.dimension!r}, expected 2 or 3")
        whole = {"channels": self.channels, "multiple": self.multiple, "patch": self.patch}
        for name, n in whole.items():
            if not isinstance(n, int) or n < (name != "patch"):
                bad.append(f"{name} is {n!r}, expected a whole number from {int(name != 'patch')} on")
        if not isinstance(self.layers, tuple) or not all(isinstance(n, int) and n >= 0 for n in self.layers):
            bad.append(f"layers is {self.layers!r}, expected a list of numbers of layers, counted from 0")
        if not isinstance(self.to, tuple) or len(self.to) != 2 or not all(map(_finite, self.to)):
            bad.append(f"to is {self.to!r}, expected two numbers")
        for name, given in (("mean", self.mean), ("std", self.std)):
            if given not in (None, "image") and (not _finite(given) or (name == "std" and not _positive(given))):
                bad.append(f"{name} is {given!r}, expected 'image' or a number{' above 0' * (name == 'std')}")
        if not _finite(self.descent) or self.descent < 0:
            bad.append(f"descent is {self.descent!r}, expected a number from 0 on")
        if bad:
            raise RegistrationError(f"feature_card: {bad[0]}")

    @classmethod
    def of(cls, given: Any) -> FeatureCard:
        """Read a card from a mapping or a JSON file; RegistrationError if an entry is unknown or makes no sense."""
        if isinstance(given, FeatureCard):
            return given
        if isinstance(given, str | os.PathLike):
            try:
                given = json.loads(Path(given).read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else error
                raise RegistrationError(f"feature_card: {given} cannot be read as JSON ({reason})") from None
        known = [each.name for each in fields(cls)]
        if not isinstance(given, Mapping):
            raise RegistrationError(f"feature_card is a {type(given).__name__}, expected a mapping or a JSON file")
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise RegistrationError(f"feature_card has the entry {unknown[0]!r}, expected some of {', '.join(known)}")
        try:
            return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in given.items()})
        except TypeError as error:
            raise RegistrationError(f"feature_card has a value of a wrong kind ({error})") from None


def _positive(number: Any) -> bool:
    return number is None or (_finite(number) and number > 0)


def _finite(number: Any) -> bool:
    return isinstance(number, int | float) and bool(np.isfinite(number))
