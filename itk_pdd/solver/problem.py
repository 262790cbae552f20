"""Inputs and outputs of a registration: the problem, the options, the result, and the interface of a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.evaluation.overlap import Overlap
from itk_pdd.evaluation.verdict import Verdict
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.mapping import Mapping
from itk_pdd.guidance.guidance import Guidance
from itk_pdd.guidance.landmarks import LandmarkError
from itk_pdd.io.volume import Volume
from itk_pdd.solver.intensities import without_outliers
from itk_pdd.solver.reuse import Kept
from itk_pdd.solver.trust import Trust

if TYPE_CHECKING:
    from itk_pdd.uncertainty.estimate import Uncertainty  # slow to import, and only named here

__all__ = ["Model", "Options", "Problem", "Result"]


def _quiet(fraction: float, text: str) -> None:
    """Take in the progress and tell nobody."""


@dataclass(frozen=True)
class Problem:
    """Two images to register: read and checked.

    RegistrationError if the images have not as many channels, or the channels of one lie on different grids.
    """

    fixed_channels: tuple[Volume, ...]  # the channels of each image, all on one grid, of one dimension
    moving_channels: tuple[Volume, ...]
    # Where the registration starts, from fixed to moving points; None for the coordinates as they are.
    initial: Mapping | None = None
    fixed_mask: Volume | None = None  # bool volumes on the grids of the images; only voxels inside count
    moving_mask: Volume | None = None
    weights: tuple[float, ...] = ()  # how much each channel counts beside the others; empty for all alike
    guidance: Guidance | None = None  # what is known about the images
    # Takes intermediate results of the fixed image, and gives those of registrations before.
    kept: Kept | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        counts = len(self.fixed_channels), len(self.moving_channels)
        if counts[0] != counts[1]:
            raise RegistrationError(
                f"fixed has {counts[0]} channels and moving {counts[1]}, expected as many (red, green and blue are "
                "channels, and so are the volumes of a 4-D image): turn a colour image to grey, take one volume of a "
                "series, or leave out the channels that only one image has"
            )
        for name, channels in (("fixed", self.fixed_channels), ("moving", self.moving_channels)):
            if any(channel.grid != channels[0].grid for channel in channels):
                raise RegistrationError(f"the channels of {name} lie on different grids, expected one: resample them")
        if not self.weights:
            object.__setattr__(self, "weights", (1.0,) * counts[0])

    @property
    def fixed(self) -> Volume:
        """The first channel of the fixed image."""
        return self.fixed_channels[0]

    @property
    def moving(self) -> Volume:
        """The first channel of the moving image."""
        return self.moving_channels[0]

    def without_outliers(self) -> Problem:
        """Replace the intensities of single voxels far beyond all others (see :mod:`itk_pdd.solver.intensities`)."""
        fixed, moving = (
            tuple(without_outliers(volume, name) for volume in channels)
            for name, channels in (("fixed", self.fixed_channels), ("moving", self.moving_channels))
        )
        return replace(self, fixed_channels=fixed, moving_channels=moving)

    def weighted(self, weights: Sequence[float]) -> Problem:
        """Give the channels other weights: a finite number for each, not below 0 and some above."""
        channels = len(self.fixed_channels)
        try:
            found = tuple(float(weight) for weight in weights)
        except (TypeError, ValueError) as error:
            raise RegistrationError(f"channel_weights is {weights!r}, expected a number for each channel") from error
        if len(found) != channels:
            raise RegistrationError(
                f"channel_weights are {len(found)} numbers, expected one for each channel: {channels}"
            )
        if not (np.isfinite(found).all() and min(found) >= 0 and sum(found) > 0):
            raise RegistrationError(f"channel_weights are {found}, expected finite numbers from 0 on, some above 0")
        return replace(self, weights=found)


@dataclass(frozen=True)
class Options:
    """Hold the options of a registration that all models share; RegistrationError if a number makes no sense."""

    # "auto" (a GPU where torch finds one that works, else the CPU), "cpu", "cuda", "cuda:1", ...; resampling, spanning
    # trees and the descent on class probabilities are the CPU's on every device.
    device: str = "auto"
    threads: int | None = None  # CPU threads; as many as torch uses by default
    # Working spacing in millimetres instead of the model's, whose limit of voxels it overrides; smaller is more exact
    # and slower.
    spacing: float | None = None
    # Factor of the model's regularisation; a larger one gives a smoother field that fits less closely.
    smoothness: float = 1.0
    # What the process may hold in memory, in GB (10^9 bytes); by default nearly all that is free. Where it is short,
    # the costs are computed in blocks (the same result, slower), or the images compared at a coarser spacing (with a
    # warning).
    memory: float | None = None
    uncertainty: bool | str = False  # False, True or "where possible": estimate how far the field can be believed
    force: bool = False  # use a trained model on images that it is not made for, with a warning instead of an error
    # Called with a fraction from 0 to 1 and the name of the step at hand.
    progress: Callable[[float, str], None] = _quiet

    def __post_init__(self) -> None:
        if not 0 < self.smoothness < math.inf:
            raise RegistrationError(f"smoothness is {self.smoothness}, expected a finite number above 0")
        if self.spacing is not None and not self.spacing > 0:
            raise RegistrationError(f"spacing is {self.spacing}, expected a length above 0 mm")
        if self.threads is not None and self.threads < 1:
            raise RegistrationError(f"threads is {self.threads}, expected at least 1")


@dataclass(frozen=True)
class Result:
    """Hold the result of a registration."""

    # From fixed to moving points on the grid of the fixed image, the initial transform included.
    field: DisplacementField
    model: Model
    working_grid: Grid  # grid on which the images were compared
    capture_range_mm: float  # displacement, beside the initial transform, up to which a deformation is found
    uncertainty: Uncertainty | None = None  # how far the field can be believed, where that was asked for
    # Share of the structured points at the edge of the range after the first search (see
    # :mod:`itk_pdd.solver.capture`); None where the model does not know.
    edge: float | None = None
    verdict: Verdict | None = None  # whether the registration succeeded, where it was judged
    trust: Trust | None = None  # landmarks that were obeyed, and why others were not
    landmarks: tuple[LandmarkError, ...] = ()  # how far each landmark was off, before and after
    overlap: Overlap | None = None  # how well the labels that guided it overlap, before and after
    warnings: tuple[str, ...] = ()  # what the registration warned of
    seconds: float = 0.0  # how long it took, with the verdict


class Model(Protocol):
    """A way to register two images, with all its settings and weights."""

    @property
    def name(self) -> str:
        """Name of the model."""

    def register(self, problem: Problem, options: Options) -> Result:
        """Register two images.

        Raises
        ------
        RegistrationError
            If the model cannot use an image or an option, there is no such device, or the memory is not enough.
        """
