"""Settings of the networks, as they stand in their cards. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from itk_pdd.errors import RegistrationError

__all__ = ["FEATURES", "RARITY", "DescriptorSettings", "InstanceOptimisation", "PddSettings", "UNetSettings", "Warp"]

FEATURES = ("obelisk", "mind-ssc", "organs")
"""Learned features, hand-made ones, or the organ probabilities of a segmentation network."""
RARITY = -0.3
"""Power of an organ's volume that is its weight in costs: small organs count more than their share of the volume."""

# A damaged card must not ask for more than any machine has.
_MOST_BLOCKS, _MOST_FOLD, _MOST_LEVELS, _MOST_CHANNELS = 32, 16, 10, 1 << 16


@dataclass(frozen=True)
class Warp:
    """One dense search; a second one works on the moving image warped by the first."""

    # Largest displacement along each axis as a share of half the extent (the paper's q). A larger one captures more and
    # is coarser.
    reach: float = 0.4
    # How many are tried along each axis, odd so that none at all is among them. More are more exact; time and memory
    # grow with their cube.
    displacements: int = 15
    # Control points along each axis of the extent. More follow finer deformations; time and memory grow with their
    # cube.
    points: int = 32

    def __post_init__(self) -> None:
        if not (math.isfinite(self.reach) and self.reach > 0):
            raise RegistrationError(f"reach is {self.reach}, expected a share of half the extent above 0")
        if self.displacements < 3 or self.displacements % 2 == 0:
            raise RegistrationError(f"displacements is {self.displacements}, expected an odd number from 3 on")
        if self.points < 2:
            raise RegistrationError(f"points is {self.points}, expected 2 or more control points along each axis")


@dataclass(frozen=True)
class InstanceOptimisation:
    """Gradient descent on the displacements of one pair, for larger probabilities and a smoother field."""

    iterations: int = 0  # Adam steps; 0 for none
    # Weight of the squared differences of neighbouring displacements, in the units of the paper (see
    # :func:`itk_pdd.network.instance.diffusion`); larger is smoother.
    diffusion: float = 1.5
    rate: float = 0.02  # step of Adam as a share of half the extent

    def __post_init__(self) -> None:
        if self.iterations < 0 or self.diffusion < 0 or not self.rate > 0:
            raise RegistrationError(
                f"iterations, diffusion and rate of the instance optimisation are {self.iterations}, {self.diffusion} "
                f"and {self.rate}, expected none below 0 and a rate above it"
            )


@dataclass(frozen=True)
class PddSettings:
    """A PDD network."""

    # "obelisk", "mind-ssc", "organs": learned features; hand-made ones, of which only temperature and ratio of the
    # regularisation are learned; or the organ probabilities of a segmentation network, which sees much farther than the
    # paper's features.
    features: str = "obelisk"
    channels: int = 16  # number of learned features ("obelisk")
    warps: tuple[Warp, ...] = (Warp(),)  # one dense search, or several one after the other
    # Whether the costs of neighbouring control points are averaged (the paper's mean-field inference).
    mean_field: bool = True
    optimisation: InstanceOptimisation = InstanceOptimisation()  # what follows each search
    stride: int = 3  # image voxels per voxel of the features
    # Image voxels, axes z, y, x, that reaches and numbers of control points refer to: those of the training. Images of
    # another size get more or fewer control points and the same reach. By default each image's own extent.
    extent: tuple[float, float, float] | None = None
    # "group", "batch", "running": normalisation of the learned features, see :class:`itk_pdd.network.obelisk.Obelisk`.
    # With running statistics a training can compute parts of the features, which group normalisation does not allow.
    norm: str = "group"
    outside: str = "nearest"  # "nearest", "zero": what the learned features see beyond the image
    # Features, control points and displacements from corner to corner of the image, as in the author's program.
    corners: bool = False
    organs: UNetSettings | None = None  # the segmentation network; given exactly for features "organs"

    def __post_init__(self) -> None:
        object.__setattr__(self, "warps", tuple(self.warps))
        if self.extent is not None:
            object.__setattr__(self, "extent", tuple(float(length) for length in self.extent))
            if len(self.extent) != 3 or min(self.extent) <= 0:
                raise RegistrationError(f"extent is {self.extent}, expected three lengths above 0")
        if self.features not in FEATURES:
            raise RegistrationError(f"features is {self.features!r}, expected one of {', '.join(FEATURES)}")
        if (self.features == "organs") != (self.organs is not None):
            raise RegistrationError(
                f"features is {self.features!r}, expected 'organs' exactly where a segmentation network is given"
            )
        if self.channels < 1 or self.stride < 1 or not self.warps:
            raise RegistrationError(
                f"channels, stride and number of warps are {self.channels}, {self.stride} and {len(self.warps)}, "
                "expected 1 or more of each"
            )

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> PddSettings:
        """The settings of a card."""
        values = dict(content)
        values["warps"] = tuple(Warp(**warp) for warp in values["warps"])
        values["optimisation"] = InstanceOptimisation(**values["optimisation"])
        if values.get("organs") is not None:
            values["organs"] = UNetSettings(**values["organs"])
        return cls(**values)


@dataclass(frozen=True)
class DescriptorSettings:
    """Size of a :class:`itk_pdd.network.descriptor.Descriptor`."""

    # Dilations in voxels of the MIND-SSC features it looks at; larger ones show more surroundings.
    dilations: tuple[int, ...] = (1, 2, 3, 4)
    hidden: int = 128  # width of the hidden layer; more tells more apart and costs more time

    def __post_init__(self) -> None:
        object.__setattr__(self, "dilations", tuple(int(d) for d in self.dilations))
        if len(self.dilations) < 2 or min(self.dilations) < 1 or max(self.dilations) > 64 or len(self.dilations) > 16:
            raise RegistrationError(f"dilations are {self.dilations}, expected 2 to 16 whole numbers from 1 to 64")
        if not 1 <= self.hidden <= 1 << 16:
            raise RegistrationError(f"hidden is {self.hidden}, expected 1 to 65536")


@dataclass(frozen=True)
class UNetSettings:
    """Size of a :class:`itk_pdd.network.unet.UNet`."""

    classes: int  # number of output classes, background included
    # Channels at each resolution, finest first. More levels see farther, more channels tell more apart; the finest
    # level costs most of the time.
    widths: tuple[int, ...] = (16, 32, 64, 128)
    blocks: int = 1  # residual blocks at each resolution below the finest, on the way down and on the way up
    # Blocks of ``fold`` voxels per axis of the image become the channels of one voxel of the network: the network sees
    # the fine detail and works (and answers) at ``fold`` times the spacing of the image.
    fold: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(int(width) for width in self.widths))
        if self.classes < 2:
            raise RegistrationError(f"classes is {self.classes}, expected 2 or more (background is one)")
        if len(self.widths) < 2 or min(self.widths) < 1:
            raise RegistrationError(f"widths is {self.widths}, expected two or more positive numbers of channels")
        if not (1 <= self.blocks <= _MOST_BLOCKS and 1 <= self.fold <= _MOST_FOLD):
            raise RegistrationError(
                f"blocks and fold are {self.blocks} and {self.fold}, expected 1 to {_MOST_BLOCKS} and 1 to {_MOST_FOLD}"
            )
        if len(self.widths) > _MOST_LEVELS or max(*self.widths, self.classes) > _MOST_CHANNELS:
            raise RegistrationError(
                f"widths and classes are {self.widths} and {self.classes}, expected up to {_MOST_LEVELS} widths, of up "
                f"to {_MOST_CHANNELS} channels each"
            )

    @property
    def multiple(self) -> int:
        """The shape of the network's grid must be a multiple of this along each axis."""
        return 2 ** (len(self.widths) - 1)
