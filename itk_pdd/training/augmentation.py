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
from itk_pdd.kernels.interpolation.definition import interpolate
from itk_pdd.synthesis.deformation import random_affine, random_deformation

__all__ = ["IGNORED", "Augmentation", "Crop", "crop_at", "random_crop", "soft_targets", "vary_intensity"]

_STEP = 4  # voxels of a crop from one place that is computed to the next
_CURVE = 4096  # entries of a table of intensities
IGNORED = 255
"""Label of voxels beyond the field of view, which count in no loss."""


@dataclass(frozen=True)
class Augmentation:
    """Hold the strength of the random changes of crops."""

    # Shape of a crop in voxels of the network's output, axes z, y, x; None to choose it by the scans. Larger crops show
    # more surroundings and cost more time.
    shape: tuple[int, int, int] | None = None
    rotation: float = 15.0  # largest rotation about each axis in degrees
    scale: float = 0.2  # largest natural logarithm of the scale along each axis
    shear: float = 0.1  # largest shear
    elastic: float = 0.06  # 95th percentile of the elastic displacement in units of the crop's mean extent; 0 for none
    # Share of crops centred (but for some jitter) on a voxel of a class drawn at random; the rest anywhere.
    foreground: float = 0.7
    # Strength of changes of contrast, brightness and gamma, noise and blur; 0 for none, 1 for the usual.
    intensity: float = 1.0

    def __post_init__(self) -> None:
        if self.shape is not None:
            object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))

    @property
    def still(self) -> bool:
        """Return True if nothing moves."""
        return self.rotation == self.scale == self.shear == self.elastic == 0


@dataclass(frozen=True)
class Crop:
    """Hold an image for the network and the labels that it should give."""

    image: Tensor  # normalised intensities (z, y, x)
    labels: Tensor  # class of each voxel, uint8 (z, y, x), :data:`IGNORED` beyond the field of view


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
    """Draw a crop of a scan, of shape ``fold * augmentation.shape``, determined entirely by ``rng``.

    Image and labels (z, y, x) are normalised intensities and classes (uint8), on isotropic voxels. ``fold`` are voxels
    of the image per voxel of the network's output along each axis. ``centre`` is the continuous index (z, y, x) of the
    crop's centre instead of a random one.
    """
    if augmentation.shape is None:
        raise RegistrationError("augmentation has no shape of the crops, expected three numbers of voxels")
    shape = tuple(fold * n for n in augmentation.shape)
    if centre is None:
        centre = _centre(labels, classes, np.asarray(shape), augmentation.foreground, rng)
    if augmentation.still and shape == tuple(image.shape) and np.allclose(centre, (np.asarray(shape) - 1) / 2):
        # All of the scan as it is: nothing to interpolate.
        return vary_intensity(Crop(image.float(), labels), augmentation.intensity, rng)
    places, begin = _places(np.asarray(centre, dtype=float), shape, augmentation, rng)
    return crop_at(
        image, labels, places, shape, step=(_STEP,) * 3, begin=begin, intensity=augmentation.intensity, rng=rng
    )


def crop_at(
    image: Tensor,
    labels: Tensor,
    places: np.ndarray,
    shape: tuple[int, ...],
    *,
    step: Sequence[float],
    begin: Sequence[float],
    intensity: float,
    rng: np.random.Generator,
) -> Crop:
    """Show a scan at given places, on a CPU by a compiled kernel; beyond the border the image goes on, labels do not.

    ``places`` (z', y', x', 3) are continuous indices in the scan, components x, y, z, on a coarse grid of two or more
    along each axis; between them they are interpolated linearly. ``step`` and ``begin`` are voxels of the crop, along
    z, y, x, from one place to the next, and from the first one to the first voxel. ``intensity`` is that of
    :class:`Augmentation`; ``rng`` determines how the intensities vary.
    """
    if image.device.type == "cpu":
        from itk_pdd.kernels.crops import cpu

        found = cpu.crop(
            image.float().numpy(), labels.numpy(), np.ascontiguousarray(places, dtype=np.float32), shape,
            step=step, begin=begin, ignored=IGNORED,
        )  # fmt: skip
        return vary_intensity(Crop(*map(torch.from_numpy, found)), intensity, rng)
    points = _points(places, shape, step, begin, image.device)
    crop = _sample(image, points, mode="bilinear", padding="border")
    found = _sample(labels, points, offset=1.0, mode="nearest", padding="zeros").to(torch.int16) - 1
    found = torch.where(found < 0, IGNORED, found).to(torch.uint8)
    return vary_intensity(Crop(crop, found), intensity, rng)


def soft_targets(labels: Tensor, classes: int, *, fold: int) -> Tensor:
    """Share of each class in each block of ``fold``^3 voxels: (N, classes, z / fold, y / fold, x / fold).

    Labels are uint8 (N, z, y, x), :data:`IGNORED` where nothing is known. The shares add up to the known share of the
    block.
    """
    n, *size = labels.shape
    z, y, x = (length // fold for length in size)
    if labels.device.type == "cpu":
        from itk_pdd.kernels.crops import cpu

        cut = labels[:, : z * fold, : y * fold, : x * fold].contiguous().numpy()
        return torch.from_numpy(np.stack([cpu.class_shares(part, classes, fold) for part in cut]))
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


def _places(
    centre: np.ndarray, shape: tuple[int, ...], augmentation: Augmentation, rng: np.random.Generator
) -> tuple[np.ndarray, tuple[float, ...]]:
    """Return places (z, y, x, 3) in the scan of every fourth voxel of the crop, and its first voxel's place among them.

    The deformation is smooth and can be interpolated between them. Places are continuous indices x, y, z.
    """
    coarse = tuple(-(-n // _STEP) + 1 for n in shape)
    grid = Grid.create(coarse[::-1], float(_STEP), -(np.asarray(coarse[::-1]) - 1) / 2 * _STEP)
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
    # Centred: the coarse grid reaches beyond the crop by up to a step.
    begin = tuple(float(((k - 1) * _STEP + 1 - n) // 2) for k, n in zip(coarse, shape, strict=True))
    return points @ affine[:-1, :-1].T + affine[:-1, -1] + centre[::-1], begin


def _points(
    places: np.ndarray, shape: tuple[int, ...], step: Sequence[float], begin: Sequence[float], device: torch.device
) -> Tensor:
    """Places of all voxels of a crop (z, y, x, 3), interpolated between those of :func:`crop_at`."""
    points = torch.from_numpy(np.ascontiguousarray(places, dtype=np.float32)).to(device)
    for axis, (n, width, first) in enumerate(zip(shape, step, begin, strict=True)):
        points = interpolate(points, (torch.arange(n, dtype=torch.float64) + first) / width, axis)
    return points


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
    exponent, factor = float(np.exp(0.35 * strength * gamma)), float(np.exp(0.25 * strength * contrast))
    low, high = (float(value) for value in image.aminmax())
    if image.device.type == "cpu" and high > low:
        from itk_pdd.kernels.crops import cpu

        table = (np.linspace(0, 1, _CURVE) ** exponent * (high - low) + low).astype(np.float32)
        image = torch.from_numpy(cpu.recoloured(image.numpy(), table, low, high))
    else:
        span = max(high - low, 1e-6)
        image = ((image - low) / span) ** exponent * span + low
    mean = float(image.mean())
    image = (image - mean).mul_(factor).add_(mean + 0.15 * strength * brightness)
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
