"""The PDD network as a whole: features of two images, dense searches, and the displacements they find."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from itk_pdd.errors import RegistrationError
from itk_pdd.kernels.interpolation.definition import interpolate, sample
from itk_pdd.kernels.mind.definition import mind_ssc
from itk_pdd.network.costs import ControlGrid, DisplacementSet
from itk_pdd.network.distribution import DisplacementDistribution
from itk_pdd.network.instance import optimise
from itk_pdd.network.masking import Masks
from itk_pdd.network.obelisk import Obelisk, reference_positions
from itk_pdd.network.organs import OrganFeatures
from itk_pdd.network.pdd import ProbabilisticDenseDisplacements
from itk_pdd.network.regularisation import Regularisation
from itk_pdd.network.settings import PddSettings, Warp

__all__ = ["Lattice", "PddNetwork", "dense", "descriptors", "lattice"]

# Costs of self-similarities, which lie in (0, 1], are smaller than those of learned features: where training begins.
_TEMPERATURE = {"obelisk": 16.0, "mind-ssc": 150.0, "organs": 10_000.0}
_MIND_CHANNELS = 12


@dataclass(frozen=True)
class Lattice:
    """Hold the places of features in an image, and the control points and displacements of a search among them.

    Sequences run along z, y, x. ``first`` and ``step`` tell how results in feature voxels are understood.
    """

    features: tuple[Tensor, ...]  # image voxel indices of the features
    control: ControlGrid  # in feature voxels
    displacements: DisplacementSet  # in feature voxels
    first: tuple[float, ...]  # image voxel index of the first feature
    step: tuple[float, ...]  # image voxels per feature voxel
    half: tuple[float, ...]  # half the extent in feature voxels: the unit of reaches

    def positions(self) -> list[Tensor]:
        """Image voxel indices of the control points along z, y, x."""
        along = zip(self.control.positions(), self.first, self.step, strict=True)
        return [p * step + first for p, first, step in along]

    def to_image(self, vectors: Tensor) -> Tensor:
        """Displacements (..., 3), components x, y, z, from feature to image voxels."""
        return vectors * torch.tensor(self.step[::-1]).to(vectors)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of features along z, y, x."""
        return tuple(len(along) for along in self.features)


def lattice(settings: PddSettings, warp: Warp, size: Sequence[int]) -> Lattice:
    """Lay out a search in an image of a size (z, y, x); RegistrationError if that is not two features per axis."""
    count = [n // settings.stride for n in size]
    if min(count) < 2:
        raise RegistrationError(
            f"the image has {' x '.join(str(n) for n in reversed(size))} voxels (x, y, z) on the working grid, "
            f"expected at least {2 * settings.stride} along each axis"
        )
    radius = (warp.displacements - 1) // 2
    if settings.corners:
        features = reference_positions(size, stride=settings.stride)
        half = tuple((n - 1) / 2 for n in count)
        control = ControlGrid((warp.points,) * 3, (0.0,) * 3, tuple((n - 1) / (warp.points - 1) for n in count))
        first, step = (0.0,) * 3, tuple((n - 1) / (c - 1) for n, c in zip(size, count, strict=True))
    else:
        extent = settings.extent or tuple(float(n) for n in size)
        first = tuple((n - 1 - settings.stride * (c - 1)) / 2 for n, c in zip(size, count, strict=True))
        step = (float(settings.stride),) * 3
        features = tuple(
            torch.arange(c, dtype=torch.float64) * settings.stride + f for c, f in zip(count, first, strict=True)
        )
        half = tuple(e / (2 * settings.stride) for e in extent)
        # Between the features there is nothing new to be found: no more control points than those.
        shape = [max(2, min(c, round(warp.points * n / e))) for n, e, c in zip(size, extent, count, strict=True)]
        control = ControlGrid.covering(count, shape=shape)
    displacements = DisplacementSet((radius,) * 3, tuple(warp.reach * h / radius for h in half))
    return Lattice(features, control, displacements, first, step, half)


def descriptors(image: Tensor, positions: Sequence[Tensor], *, stride: int) -> Tensor:
    """MIND-SSC features (12, ...) of an image (z, y, x) at some positions, averaged over ``stride`` voxels per axis."""
    found = mind_ssc(image)
    if stride > 1:
        margin = stride // 2
        padding = (margin, stride - 1 - margin) * 3
        found = functional.avg_pool3d(functional.pad(found[None], padding, mode="replicate"), stride, stride=1)[0]
        # An even window is centred between two voxels.
        positions = [p + (margin - (stride - 1) / 2) for p in positions]
    return sample(found, positions)


class PddNetwork(nn.Module):
    """Features shared by both images, and a regularisation for each search."""

    def __init__(self, settings: PddSettings, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.settings = settings
        self.obelisk = None
        self.organs = None if settings.organs is None else OrganFeatures(settings.organs)
        if settings.features == "obelisk":
            self.obelisk = Obelisk(
                channels=settings.channels, norm=settings.norm, extent=settings.extent, outside=settings.outside,
                generator=generator,
            )  # fmt: skip
        self.searches = nn.ModuleList(
            ProbabilisticDenseDisplacements(
                Regularisation(temperature=_TEMPERATURE[settings.features], average=settings.mean_field)
            )
            for _ in settings.warps
        )

    @property
    def channels(self) -> int:
        """Number of features."""
        if self.settings.organs is not None:
            return self.settings.organs.classes - 1
        return _MIND_CHANNELS if self.obelisk is None else self.settings.channels

    def lattice(self, size: Sequence[int], *, warp: int = 0) -> Lattice:
        """The layout of a search in an image of a shape (z, y, x); see :func:`lattice`."""
        return lattice(self.settings, self.settings.warps[warp], size)

    @property
    def local(self) -> bool:
        """Return True if features of a part of an image are those of the whole image there, in training too."""
        return self.organs is None and (self.obelisk is None or self.settings.norm == "running")

    def features(self, image: Tensor, window: Sequence[slice] | None = None) -> Tensor:
        """Features (channels, z', y', x') of an image (1, z, y, x), or only a window of them (see :meth:`local`)."""
        return self.features_at(image, self.lattice(image.shape[1:]).features, window)

    def features_at(self, image: Tensor, positions: Sequence[Tensor], window: Sequence[slice] | None = None) -> Tensor:
        """Features (channels, z', y', x') at voxel indices along z, y, x of an image (1, z, y, x), or a window of them.

        Those of a window take the other positions for their neighbours.
        """
        if self.organs is not None:
            found = self.organs.at(self.organs.maps(image), positions)
            return found if window is None else found[(slice(None), *window)]
        if self.obelisk is None:
            found = descriptors(image[0], positions, stride=self.settings.stride)
            return found if window is None else found[(slice(None), *window)]
        return self.obelisk(image, positions, window=window)

    def margins(self, layout: Lattice) -> list[float]:
        """Image voxels along z, y, x around a place that its features look at."""
        # The first map is sampled at learned offsets, in units of half the extent.
        offsets = [0.0] * 3 if self.obelisk is None else self.obelisk.offsets.abs().amax((0, 1)).flip(-1).tolist()
        half = [h * s for h, s in zip(layout.half, layout.step, strict=True)]
        return [2 * self.settings.stride + 8 + o * h for o, h in zip(offsets, half, strict=True)]

    def search(
        self,
        fixed: Tensor,
        moving: Tensor,
        layout: Lattice,
        *,
        warp: int = 0,
        block: Sequence[slice] | None = None,
        windows: Sequence[Sequence[slice]] | None = None,
        masks: Masks = (None, None),
    ) -> DisplacementDistribution:
        """Distribution over the displacements from control points in the fixed to places in the moving features.

        Features (channels, z', y', x') are of images of one size, that of the layout. ``block`` leaves only some of the
        control points, ``windows`` say which features of fixed and moving image are given: those that the block can
        reach. Both are slices along z, y, x. ``masks`` (see :data:`itk_pdd.network.masking.Masks`) need whole features.
        """
        control = layout.control if block is None else layout.control.part(block)
        firsts = None if windows is None else [[part.start for part in window] for window in windows]
        return self.searches[warp](
            fixed, moving, control=control, displacements=layout.displacements, firsts=firsts, masks=masks
        )

    @torch.no_grad()
    def displacements(
        self,
        fixed: Tensor,
        moving: Tensor,
        layout: Lattice,
        *,
        warp: int = 0,
        iterations: int | None = None,
        masks: Masks = (None, None),
        listener: Callable[[DisplacementDistribution, Tensor], None] | None = None,
    ) -> Tensor:
        """Displacements (..., 3) of control points in image voxels, x first; with instance optimisation if wanted.

        The parameters are those of :meth:`search`; ``iterations`` are steps of the optimisation instead of the
        settings'. ``listener`` is called with the distribution and its mean, before that.
        """
        distribution = self.search(fixed, moving, layout, warp=warp, masks=masks)
        vectors = distribution.mean()
        if listener is not None:
            listener(distribution, vectors)
        settings = self.settings.optimisation
        if iterations is not None:
            settings = replace(settings, iterations=iterations)
        if settings.iterations:
            vectors = optimise(distribution, vectors, settings, half=sum(layout.half) / len(layout.half))
        return layout.to_image(vectors)


def dense(vectors: Tensor, positions: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Displacements of control points interpolated linearly on a regular grid, (*targets, 3); beyond them they go on.

    ``positions`` are where the control points lie, two or more along each axis, ``targets`` where values are wanted,
    both along z, y, x in one unit.
    """
    for axis, (along, wanted) in enumerate(zip(positions, targets, strict=True)):
        step = float(along[1] - along[0])
        vectors = interpolate(vectors, (wanted.double() - along[0]) / step, axis)
    return vectors
