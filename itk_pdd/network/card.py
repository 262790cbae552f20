"""Model cards: what a trained network is, in plain text beside its weights."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from itk_pdd.errors import RegistrationError
from itk_pdd.network.preparation import Intensity
from itk_pdd.network.settings import DescriptorSettings, PddSettings
from itk_pdd.network.unet import UNetSettings

__all__ = ["CARD", "SCHEMA", "WEIGHTS", "DescriptorCard", "LabelClass", "ModelCard", "PddCard", "kind_of"]

SCHEMA = 1
"""The newest layout of a card that this version of the package reads."""
CARD, WEIGHTS = "card.json", "weights.safetensors"
"""Names of the two files of a model folder."""
T = TypeVar("T")
_AXES = {"L": "x", "R": "x", "P": "y", "A": "y", "S": "z", "I": "z"}


@dataclass(frozen=True)
class LabelClass:
    """A class that the network tells from the others.

    Parameters
    ----------
    name : str
        For instance "spleen".
    value : int
        Its number in the label maps.
    volume : float
        Mean volume in the training scans in cubic millimetres.
    """

    name: str
    value: int
    volume: float


@dataclass(frozen=True)
class ModelCard:
    """What a trained network is, what it was trained on, and how well it does.

    Parameters
    ----------
    name : str
        Name of the model.
    description : str
        One or two sentences.
    network : UNetSettings
        Size of the network.
    spacing : float
        Spacing of its answer in millimetres; it looks at the scan with ``spacing / network.fold``.
    intensity : Intensity
        How it normalises intensities.
    classes : tuple of LabelClass
        In the order of its channels, background first.
    training : mapping
        Data, licence notes, command, seed, version of the package.
    validation : mapping
        Measured figures.
    kind : str
        "semantic": it gives class probabilities. (That of a :class:`PddCard` is "pdd".)
    uncertainty : mapping
        Calibration of the uncertainty of registrations with the model (see :mod:`itk_pdd.uncertainty.calibration`);
        empty for that of the default model.
    """

    name: str
    description: str
    network: UNetSettings
    spacing: float
    intensity: Intensity
    classes: tuple[LabelClass, ...]
    training: Mapping[str, Any] = field(default_factory=dict)
    validation: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "semantic"
    uncertainty: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        numbers = [self.spacing, self.intensity.low, self.intensity.high, *(c.volume for c in self.classes)]
        texts = [self.name, self.description, *(c.name for c in self.classes)]
        if not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
            raise RegistrationError(f"card of {self.name}: spacing, intensities and volumes must be finite numbers")
        if not all(isinstance(t, str) for t in texts) or not all(type(c.value) is int for c in self.classes):
            raise RegistrationError(f"card of {self.name}: names must be texts and values of classes whole numbers")
        if not all(c.volume > 0 for c in self.classes[1:]):
            raise RegistrationError(f"card of {self.name}: a class has the volume 0, expected its mean in mm^3")
        if self.kind != "semantic":
            raise RegistrationError(f"card of {self.name}: kind is {self.kind!r}, expected 'semantic'")
        if not 1e-3 <= self.spacing <= 1e3:
            raise RegistrationError(f"card of {self.name}: spacing is {self.spacing} mm, expected 0.001 to 1000")
        if len(self.classes) != self.network.classes:
            raise RegistrationError(
                f"card of {self.name} names {len(self.classes)} classes, but its network has {self.network.classes}"
            )

    @property
    def image_spacing(self) -> float:
        """Spacing at which the network looks at a scan, in millimetres."""
        return self.spacing / self.network.fold

    def to_json(self) -> str:
        """The card as text."""
        return as_text(self)

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str]) -> ModelCard:
        """Read the card of a model folder.

        Raises
        ------
        RegistrationError
            If there is no card, it is no card, or it comes from a newer version of the package.
        """
        return _from_folder(
            cls, folder, "semantic", "class probabilities",
            network=lambda found: UNetSettings(**found), intensity=lambda found: Intensity(**found),
            classes=lambda found: tuple(LabelClass(**entry) for entry in found),
        )  # fmt: skip


@dataclass(frozen=True)
class PddCard:
    """What a trained PDD network is, what it was trained on, and how well it does.

    Parameters
    ----------
    name : str
        Name of the model.
    description : str
        One or two sentences.
    network : PddSettings
        Features and searches.
    intensity : Intensity
        How it normalises intensities.
    spacing : float, optional
        Working spacing in millimetres; by default that of the fixed image (its geometric mean).
    axes : str
        Anatomical directions in which the axes x, y, z of the working grid run; the features of a network depend on
        them. One of each pair L/R, A/P and S/I.
    training, validation : mapping
        See :class:`ModelCard`.
    kind : str
        "pdd": it gives displacements.
    """

    name: str
    description: str
    network: PddSettings
    intensity: Intensity
    spacing: float | None = None
    axes: str = "LPS"
    training: Mapping[str, Any] = field(default_factory=dict)
    validation: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "pdd"

    def __post_init__(self) -> None:
        if self.spacing is not None and not self.spacing > 0:
            raise RegistrationError(f"card of {self.name}: spacing is {self.spacing} mm, expected a positive number")
        if sorted(_AXES.get(letter, letter) for letter in self.axes) != sorted("xyz"):
            raise RegistrationError(
                f"card of {self.name}: axes is {self.axes!r}, expected one of L and R, of A and P, of S and I each"
            )

    def order(self) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """Which anatomical axis (0 to the left, 1 to the back, 2 up) each axis x, y, z runs along, and if backwards."""
        return tuple("xyz".index(_AXES[letter]) for letter in self.axes), tuple(c in "RAI" for c in self.axes)

    def to_json(self) -> str:
        """The card as text."""
        return as_text(self)

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str]) -> PddCard:
        """Read the card of a model folder; see :meth:`ModelCard.from_folder`."""
        return _from_folder(
            cls, folder, "pdd", "displacements", network=PddSettings.from_json,
            intensity=lambda found: Intensity(**found),
        )  # fmt: skip


@dataclass(frozen=True)
class DescriptorCard:
    """What a learned descriptor is, and what it was trained on.

    Parameters
    ----------
    name : str
        Name of the model.
    description : str
        One or two sentences.
    network : DescriptorSettings
        Its size.
    share : float
        What its bits count in the last search, from 0 to 1; the rest is left to the bits of MIND-SSC.
    training, validation : mapping
        See :class:`ModelCard`.
    kind : str
        "descriptor": it describes voxels.
    """

    name: str
    description: str
    network: DescriptorSettings
    share: float = 0.5
    training: Mapping[str, Any] = field(default_factory=dict)
    validation: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "descriptor"

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise RegistrationError(f"card of {self.name}: share is {self.share}, expected a number between 0 and 1")

    def to_json(self) -> str:
        """The card as text."""
        return as_text(self)

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str]) -> DescriptorCard:
        """Read the card of a model folder; see :meth:`ModelCard.from_folder`."""
        return _from_folder(cls, folder, "descriptor", "descriptors", network=lambda found: DescriptorSettings(**found))


def _from_folder(
    card: Callable[..., T], folder: str | os.PathLike[str], kind: str, gives: str, **parts: Callable[[Any], Any]
) -> T:
    """A card of a kind, of a network that ``gives`` something; ``parts`` make its entries of what the file says."""
    path, content = Path(folder) / CARD, read_content(folder)
    check_kind(path, content, kind, gives)
    try:
        made = {name: make(content.pop(name)) for name, make in parts.items()}
        return card(**content, **made)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, RegistrationError):
            raise
        raise RegistrationError(f"model: {path} is no complete model card ({error})") from error


def as_text(card: ModelCard | PddCard | DescriptorCard) -> str:
    """A card as JSON."""
    return json.dumps({"schema": SCHEMA, **asdict(card)}, indent=2) + "\n"


def kind_of(folder: str | os.PathLike[str]) -> str:
    """The kind of the model in a folder, "semantic", "pdd" or "descriptor"; errors as :func:`read_content`."""
    return str(read_content(folder).get("kind", "semantic"))


def check_kind(path: Path, content: Mapping[str, Any], kind: str, gives: str) -> None:
    """Raise unless the content of a card is of a kind."""
    found = content.get("kind", "semantic")
    if found != kind:
        raise RegistrationError(
            f"model: {path}: kind is {found!r}, expected {kind!r}, that of a network that gives {gives}"
        )


def read_content(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What the card in a model folder says, unchecked but for its version.

    Raises
    ------
    RegistrationError
        If there is no card, it is no card, or it comes from a newer version of the package.
    """
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
