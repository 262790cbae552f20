"""Random crops of a scan: affine and elastic deformation, and what scanners do to intensities. No mirroring: left and
right organs are different classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.synthesis.deformation import random_affine, random_deformation

__all__ = ["IGNORED", "Augmentation", "Crop", "crop_at", "random_crop", "soft_targets", "vary_intensity"]

IGNORED = 255
"""Label of voxels beyond the field of view, which count in no loss."""


@dataclass(frozen=True)
class Augmentation:
    """How much crops vary.

    Parameters
    ----------
    shape : tuple of int
        Shape of a crop in voxels of the network's output, axes z, y, x; None to choose it by the scans. Larger crops
        show more surroundings and cost more time.
    rotation : float
        Largest rotation about each axis in degrees.
    scale : float
        Largest natural logarithm of the scale along each axis.
    shear : float
        Largest shear.
    elastic : float
        95th percentile of the elastic displacement in units of the crop's mean extent; 0 for none.
    foreground : float
        Share of crops centred (but for some jitter) on a voxel of a class drawn at random; the rest anywhere.
    intensity : float
        Strength of changes of contrast, brightness and gamma, noise and blur; 0 for none, 1 for the usual.
    """

    shape: tuple[int, int, int] | None = None
    rotation: float = 15.0
    scale: float = 0.2
    shear: float = 0.1
    elastic: float = 0.06
    foreground: float = 0.7
    intensity: float = 1.0

    def __post_init__(self) -> None:
        if self.shape is not None:
            object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))

    @property
    def still(self) -> bool:
        """Whether nothing moves."""
        return self.rotation == self.scale == self.shear == self.elastic == 0


@dataclass(frozen=True)
class Crop:
    """What the network sees and what it should say.

    Parameters
    ----------
    image : Tensor, shape (z, y, x)
        Normalised intensities.
    labels : Tensor, shape (z, y, x), uint8
        Class of each voxel, :data:`IGNORED` beyond the field of view.
    """

    image: Tensor
    labels: Tensor


def random_crop(
    image: Tensor,
    labels: Tensor,
    classes: int,
    *,
    fold: int,
    augmentation: Augmentation,
    rng: np.random.Generator,
    centre: Sequence[float] | None = None,
) -> Crop:
    """Draw a crop of a scan.

    Parameters
    ----------
    image, labels : Tensor, shape (z, y, x)
        Normalised intensities and classes (uint8), on isotropic voxels.
    classes : int
        Number of classes.
    fold : int
        Voxels of the image per voxel of the network's output along each axis.
    augmentation : Augmentation
        How much it varies.
    rng : numpy.random.Generator
        Determines the crop entirely.
    centre : sequence of float, optional
        Continuous index (z, y, x) in the scan of the crop's centre instead of a random one.

    Returns
    -------
    Crop
        Of shape ``fold * augmentation.shape``.
    """
    if augmentation.shape is None:
        raise RegistrationError("augmentation has no shape of the crops, expected three numbers of voxels")
    shape = tuple(fold * n for n in augmentation.shape)
    if centre is None:
        centre = _centre(labels, classes, np.asarray(shape), augmentation.foreground, rng)
    if augmentation.still and shape == tuple(image.shape) and np.allclose(centre, (np.asarray(shape) - 1) / 2):
        # All of the scan as it is: nothing to interpolate.
        return vary_intensity(Crop(image.float(), labels), augmentation.intensity, rng)
    points = _points(np.asarray(centre, dtype=float), shape, augmentation, rng, image.device)
    return crop_at(image, labels, points, intensity=augmentation.intensity, rng=rng)


def crop_at(image: Tensor, labels: Tensor, points: Tensor, *, intensity: float, rng: np.random.Generator) -> Crop:
    """What a scan shows at given places.

    Parameters
    ----------
    image, labels : Tensor, shape (z, y, x)
        See :func:`random_crop`.
    points : Tensor, shape (z', y', x', 3), float32
        Continuous indices in the scan, components x, y, z.
    intensity : float
        See :class:`Augmentation`.
    rng : numpy.random.Generator
        Determines how the intensities vary.

    Returns
    -------
    Crop
        Of the shape of ``points``; beyond the border the image goes on, and nothing is known of the labels.
    """
    crop = _sample(image, points, mode="bilinear", padding="border")
    found = _sample(labels, points, offset=1.0, mode="nearest", padding="zeros").to(torch.int16) - 1
    found = torch.where(found < 0, IGNORED, found).to(torch.uint8)
    return vary_intensity(Crop(crop, found), intensity, rng)


def soft_targets(labels: Tensor, classes: int, *, fold: int) -> Tensor:
    """Share of each class in each block of ``fold``^3 voxels.

    Parameters
    ----------
    labels : Tensor, shape (N, z, y, x), uint8
        Classes, :data:`IGNORED` where nothing is known.
    classes : int
        Number of classes.
    fold : int
        Length of the blocks.

    Returns
    -------
    Tensor, shape (N, classes, z / fold, y / fold, x / fold)
        Sums to the known share of the block, 1 where all of it is known.
    """
    n, *size = labels.shape
    z, y, x = (length // fold for length in size)
    blocks = labels.reshape(n, z, fold, y, fold, x, fold).permute(0, 2, 4, 6, 1, 3, 5).reshape(n, fold**3, z, y, x)
    # One spare class takes what is ignored. All blocks are counted in one pass over the voxels.
    index = torch.where(blocks == IGNORED, classes, blocks).long()
    first = torch.arange(n * z * y * x, device=labels.device).view(n, 1, z, y, x) * (classes + 1)
    counts = torch.bincount((index + first).flatten(), minlength=n * z * y * x * (classes + 1))
    target = counts.view(n, z, y, x, classes + 1).permute(0, 4, 1, 2, 3)[:, :classes]
    return target.to(torch.float32).contiguous() / fold**3


def _centre(labels: Tensor, classes: int, shape: np.ndarray, foreground: float, rng: np.random.Generator) -> np.ndarray:
    """Centre of a crop, a continuous index (z, y, x)."""
    size = np.asarray(labels.shape)
    anywhere = rng.uniform(0, 1, 3) * (size - 1)
    biased, wanted, pick = rng.random() < foreground, int(rng.integers(1, classes)), rng.random()
    jitter = rng.uniform(-0.25, 0.25, 3) * shape
    if biased:
        # A class that this scan does not show falls back to any foreground.
        # Every second slice shows any organ, and looking through a whole scan would take as long as the network does.
        for part in (labels[::2], labels):
            where = (part == wanted).flatten().nonzero()
            if len(where):
                break
        else:
            where = (part > 0).flatten().nonzero()
        if len(where):
            flat = int(where[int(pick * len(where))])
            found = np.asarray(np.unravel_index(flat, tuple(part.shape)), dtype=float)
            anywhere = found * (size / part.shape).round() + jitter
    # Where the crop fits, keep it inside: beyond the border there is nothing to learn.
    half = np.minimum((shape - 1) / 2, (size - 1) / 2)
    return np.clip(anywhere, half, size - 1 - half)


def _points(
    centre: np.ndarray,
    shape: tuple[int, ...],
    augmentation: Augmentation,
    rng: np.random.Generator,
    device: torch.device,
) -> Tensor:
    """Where the voxels of the crop lie in the scan: continuous indices (z, y, x, 3), components x, y, z."""
    # The deformation is drawn and evaluated on every fourth voxel; what is smooth can be interpolated.
    step = 4
    coarse = tuple(-(-n // step) + 1 for n in shape)
    grid = Grid.create(coarse[::-1], float(step), -(np.asarray(coarse[::-1]) - 1) / 2 * step)
    seeds = rng.integers(2**32, size=2)
    affine = random_affine(
        grid, seed=int(seeds[0]), rotation=augmentation.rotation, scale=augmentation.scale, shear=augmentation.shear,
        translation=0.0,
    )  # fmt: skip
    points = grid.points()
    if augmentation.elastic > 0:
        extent = float(np.mean(shape))
        magnitude = augmentation.elastic * extent * rng.uniform(0, 1)
        deformation = random_deformation(
            grid, seed=int(seeds[1]), magnitude=magnitude, quantile=0.95, scales=(extent / 3.5, extent / 7)
        )
        points = points + deformation.forward().vectors
    points = points @ affine[:-1, :-1].T + affine[:-1, -1] + centre[::-1]
    lattice = torch.from_numpy(np.moveaxis(points, -1, 0).astype(np.float32))[None].to(device)
    fine = functional.interpolate(
        lattice, size=tuple((n - 1) * step + 1 for n in coarse), mode="trilinear", align_corners=True
    )[0]
    # Centred: the coarse lattice reaches beyond the crop by up to ``step`` voxels.
    offsets = [(have - want) // 2 for have, want in zip(fine.shape[1:], shape, strict=True)]
    window = tuple(slice(offset, offset + want) for offset, want in zip(offsets, shape, strict=True))
    return fine[(slice(None), *window)].permute(1, 2, 3, 0)


def _sample(volume: Tensor, points: Tensor, *, mode: str, padding: str, offset: float = 0.0) -> Tensor:
    """Values at continuous indices (x, y, z), plus an offset where they lie inside."""
    # Only the part that is looked at is turned into numbers of single precision.
    size = torch.tensor(volume.shape[::-1], dtype=torch.float32, device=volume.device)
    # Points are stored one component after the other: a minimum over each is fast, over rows of three it is not.
    flat = points.movedim(-1, 0).flatten(1)
    lower = torch.minimum((flat.amin(1).floor() - 1).clamp(min=0), size - 2).clamp(min=0)
    upper = torch.maximum(torch.minimum(flat.amax(1).ceil() + 2, size), torch.minimum(lower + 2, size))
    window = tuple(slice(int(a), int(b)) for a, b in zip(lower.flip(0), upper.flip(0), strict=True))
    part = volume[window].float() + offset
    normalised = (points - lower) * (2 / (upper - lower - 1).clamp(min=1)) - 1
    sampled = functional.grid_sample(
        part[None, None], normalised[None], mode=mode, padding_mode=padding, align_corners=True
    )
    return sampled[0, 0]


def vary_intensity(crop: Crop, strength: float, rng: np.random.Generator) -> Crop:
    """A crop with intensities as another scanner might have given them; ``strength`` as in :class:`Augmentation`."""
    return Crop(_varied(crop.image, strength, rng), crop.labels)


def _varied(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    # Drawn in the same order whatever is applied.
    gamma, contrast, brightness, noise = rng.uniform(-1, 1, 4)
    noisy, blurred, sliced = rng.random(3)
    sigma, thickness = rng.uniform(0.3, 1.0), int(rng.integers(2, 4))
    axis, seed = int(rng.integers(3)), int(rng.integers(2**32))
    if strength == 0:
        return image
    if blurred < 0.2:
        image = _blur(image, strength * sigma)
    if sliced < 0.25:
        image = _thick_slices(image, thickness, axis)
    low, high = image.min(), image.max()
    span = (high - low).clamp(min=1e-6)
    image = (((image - low) / span) ** float(np.exp(0.35 * strength * gamma))) * span + low
    image = (image - image.mean()) * float(np.exp(0.25 * strength * contrast)) + image.mean()
    image = image + 0.15 * strength * brightness
    if noisy < 0.5:
        generator = torch.Generator().manual_seed(seed)
        image = image + 0.12 * strength * abs(noise) * torch.randn(image.shape, generator=generator).to(image.device)
    return image


def _blur(image: Tensor, sigma: float) -> Tensor:
    radius = max(1, int(np.ceil(2 * sigma)))
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    taps = (taps / taps.sum()).to(image.device)
    for axis in range(3):
        moved = image.movedim(axis, -1)
        rows = functional.pad(moved.reshape(1, -1, moved.shape[-1]), (radius, radius), mode="replicate")
        blurred = functional.conv1d(rows.transpose(0, 1), taps[None, None])
        image = blurred.reshape(moved.shape).movedim(-1, axis)
    return image


def _thick_slices(image: Tensor, thickness: int, axis: int) -> Tensor:
    """Averages of ``thickness`` slices, interpolated back: a scan of thick slices."""
    moved = image.movedim(axis, -1)
    flat = moved.reshape(1, -1, moved.shape[-1])
    thick = functional.avg_pool1d(flat, thickness, ceil_mode=True)
    back = functional.interpolate(thick, size=moved.shape[-1], mode="linear", align_corners=False)
    return back.reshape(moved.shape).movedim(-1, axis)
