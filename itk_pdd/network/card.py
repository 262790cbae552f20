"""Model cards: what a trained network is, in plain text beside its weights."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from itk_pdd.errors import RegistrationError
from itk_pdd.network.preparation import Intensity
from itk_pdd.network.settings import DescriptorSettings, PddSettings, UNetSettings

__all__ = [
    "CARD",
    "SCHEMA",
    "WEIGHTS",
    "Card",
    "CombinedCard",
    "DescriptorCard",
    "LabelClass",
    "ModelCard",
    "PddCard",
    "kind_of",
]

SCHEMA = 1
"""The newest layout of a card that this version of the package reads."""
CARD, WEIGHTS = "card.json", "weights.safetensors"
"""Names of the two files of a model folder."""
_AXES = {"L": "x", "R": "x", "P": "y", "A": "y", "S": "z", "I": "z"}


@dataclass(frozen=True)
class LabelClass:
    """A class that the network tells from the others."""

    name: str  # for instance "spleen"
    value: int  # its number in the label maps
    volume: float  # mean volume in the training scans in cubic millimetres


@dataclass(frozen=True)
class Card:
    """Describe a trained network: the part that all kinds of cards share."""

    name: str
    description: str  # one or two sentences
    # Data, licence notes, command, seed, version of the package.
    training: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    validation: Mapping[str, Any] = field(default_factory=dict, kw_only=True)  # measured figures
    kind: ClassVar[str]
    """The word in the file that tells this kind of card from the others."""
    gives: ClassVar[str]
    """The result of a network of this kind, for errors."""

    def _require(self, condition: bool, problem: str) -> None:
        if not condition:
            raise RegistrationError(f"card of {self.name}: {problem}")

    @classmethod
    def _parts(cls, content: dict[str, Any]) -> dict[str, Any]:
        """The entries of a file that are objects of their own."""
        return {}

    def to_json(self) -> str:
        """The card as text."""
        entries = {"schema": SCHEMA, **asdict(self), "kind": self.kind}
        last = {
            name: entries.pop(name) for name in ("training", "validation", "kind", "uncertainty") if name in entries
        }
        return json.dumps(entries | last, indent=2) + "\n"

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str]) -> Self:
        """Read the card of a model folder.

        RegistrationError if there is no card, it is no card, it is of another kind, or it comes from a newer version.
        """
        path, content = Path(folder) / CARD, _read_content(folder)
        kind = content.pop("kind", ModelCard.kind)
        if kind != cls.kind:
            raise RegistrationError(
                f"model: {path}: kind is {kind!r}, expected {cls.kind!r}, that of a network that gives {cls.gives}"
            )
        try:
            return cls(**content | cls._parts(content))
        except RegistrationError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise RegistrationError(f"model: {path} is no complete model card ({error})") from error


@dataclass(frozen=True)
class ModelCard(Card):
    """Describe a trained segmentation network: its size, its training data and its measured accuracy."""

    network: UNetSettings
    spacing: float  # of its answer in mm; it looks at the scan with ``spacing / network.fold``
    intensity: Intensity  # how it normalises intensities
    classes: tuple[LabelClass, ...]  # in the order of its channels, background first
    # Calibration of the uncertainty of registrations with the model (see :mod:`itk_pdd.uncertainty.calibration`); empty
    # for that of the default model.
    uncertainty: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    # What scans that the model is for look like to it: ``certainty``, the mean of the largest probability where a class
    # wins (see :mod:`itk_pdd.network.purpose`); empty where that is unknown.
    purpose: Mapping[str, float] = field(default_factory=dict, kw_only=True)
    # Weight of the local correlation of the intensities beside the class probabilities in a registration (see
    # :class:`itk_pdd.solver.settings.Refinement`), from 0 to 1.
    correlation: float = field(default=0.04, kw_only=True)
    kind: ClassVar[str] = "semantic"
    gives: ClassVar[str] = "class probabilities"

    def __post_init__(self) -> None:
        numbers = [self.spacing, self.intensity.low, self.intensity.high, *(c.volume for c in self.classes)]
        finite = all(isinstance(n, int | float) and math.isfinite(n) for n in numbers)
        self._require(finite, "spacing, intensities and volumes must be finite numbers")
        texts = all(isinstance(t, str) for t in (self.name, self.description, *(c.name for c in self.classes)))
        whole = all(type(c.value) is int for c in self.classes)
        self._require(texts and whole, "names must be texts and values of classes whole numbers")
        shown = all(c.volume > 0 for c in self.classes[1:])
        self._require(shown, "a class has the volume 0, expected its mean in mm^3")
        self._require(1e-3 <= self.spacing <= 1e3, f"spacing is {self.spacing} mm, expected 0.001 to 1000")
        self._require(0 <= self.correlation <= 1, f"correlation is {self.correlation}, expected a number from 0 to 1")
        named, answered = len(self.classes), self.network.classes
        self._require(named == answered, f"it names {named} classes, but its network has {answered}")

    @classmethod
    def _parts(cls, content: dict[str, Any]) -> dict[str, Any]:
        return {
            "network": UNetSettings(**content["network"]),
            "intensity": Intensity(**content["intensity"]),
            "classes": tuple(LabelClass(**entry) for entry in content["classes"]),
        }

    @property
    def image_spacing(self) -> float:
        """Spacing at which the network looks at a scan, in millimetres."""
        return self.spacing / self.network.fold


@dataclass(frozen=True)
class PddCard(Card):
    """Describe a trained PDD network: its settings, its training data and its measured accuracy."""

    network: PddSettings
    intensity: Intensity  # how it normalises intensities
    # Working spacing in millimetres; by default that of the fixed image (its geometric mean).
    spacing: float | None = None
    # Anatomical directions in which the axes x, y, z of the working grid run, one of each pair L/R, A/P and S/I; the
    # features of a network depend on them.
    axes: str = "LPS"
    # Classes of the segmentation network, background first, where its probabilities are the features.
    classes: tuple[LabelClass, ...] = field(default=(), kw_only=True)
    # What scans that the model is for look like to its segmentation network, see :class:`ModelCard`.
    purpose: Mapping[str, float] = field(default_factory=dict, kw_only=True)
    # Calibration of the uncertainty, see :class:`ModelCard`; empty for that of the package for PDD networks.
    uncertainty: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    kind: ClassVar[str] = "pdd"
    gives: ClassVar[str] = "displacements"

    def __post_init__(self) -> None:
        if self.network.organs is not None:
            self._require(self.spacing is not None and self.axes == "LPS", "organs need a spacing and the axes LPS")
            self.segmentation()
        positive = self.spacing is None or self.spacing > 0
        self._require(positive, f"spacing is {self.spacing} mm, expected a positive number")
        complete = sorted(_AXES.get(letter, letter) for letter in self.axes) == sorted("xyz")
        self._require(complete, f"axes is {self.axes!r}, expected one of L and R, of A and P, of S and I each")

    @classmethod
    def _parts(cls, content: dict[str, Any]) -> dict[str, Any]:
        return {
            "network": PddSettings.from_json(content["network"]),
            "intensity": Intensity(**content["intensity"]),
            "classes": tuple(LabelClass(**entry) for entry in content.get("classes", ())),
        }

    def segmentation(self) -> ModelCard:
        """The card of the segmentation network alone; RegistrationError if it is not complete."""
        assert self.network.organs is not None and self.spacing is not None
        return ModelCard(
            self.name, self.description, self.network.organs, self.spacing * self.network.organs.fold, self.intensity,
            self.classes, purpose=self.purpose,
        )  # fmt: skip

    def order(self) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """Return the anatomical axis (0 left, 1 back, 2 up) of each axis x, y, z, and True if it runs backwards."""
        return tuple("xyz".index(_AXES[letter]) for letter in self.axes), tuple(c in "RAI" for c in self.axes)


@dataclass(frozen=True)
class DescriptorCard(Card):
    """Describe a learned descriptor: its size and its training data."""

    network: DescriptorSettings
    share: float = 0.5  # weight of its bits in the last search, from 0 to 1; the rest is left to the bits of MIND-SSC
    kind: ClassVar[str] = "descriptor"
    gives: ClassVar[str] = "descriptors"

    def __post_init__(self) -> None:
        self._require(0 < self.share < 1, f"share is {self.share}, expected a number between 0 and 1")

    @classmethod
    def _parts(cls, content: dict[str, Any]) -> dict[str, Any]:
        return {"network": DescriptorSettings(**content["network"])}


@dataclass(frozen=True)
class CombinedCard(Card):
    """Describe a model that goes on where a PDD network ends."""

    search: str  # name of the folder of the PDD network, which lies beside that of the card
    correlation: float = 0.04  # weight of the local correlation in the descent, see :class:`ModelCard`
    # Calibration of the uncertainty, see :class:`ModelCard`; empty for that of the package for such models.
    uncertainty: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    kind: ClassVar[str] = "combined"
    gives: ClassVar[str] = "a start for a descent"

    def __post_init__(self) -> None:
        # No path: a card says nothing about other places of the disk.
        plain = isinstance(self.search, str) and bool(self.search.strip(".")) and not set(self.search) & set("/\\:")
        self._require(plain, f"search is {self.search!r}, expected the name of a folder beside this one")
        self._require(0 <= self.correlation <= 1, f"correlation is {self.correlation}, expected a number from 0 to 1")


def kind_of(folder: str | os.PathLike[str]) -> str:
    """The kind of the model in a folder: the word of a class of cards; errors as :meth:`Card.from_folder`."""
    return str(_read_content(folder).get("kind", ModelCard.kind))


def _read_content(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the entries of the card in a model folder, and check its version; errors as :meth:`Card.from_folder`."""
    path = Path(folder) / CARD
    if not path.is_file():
        raise RegistrationError(f"model: {folder} is no model folder, it has no {CARD}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RegistrationError(f"model: {path} cannot be read ({error})") from error
    schema = content.pop("schema", None) if isinstance(content, dict) else None
    if not isinstance(schema, int):
        raise RegistrationError(f"model: {path} is no model card, it has no number 'schema'")
    if schema > SCHEMA:
        raise RegistrationError(
            f"model: {path} was written by a newer version of itk_pdd (schema {schema}, this one reads up to "
            f"{SCHEMA}): update itk_pdd"
        )
    return content
