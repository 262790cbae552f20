"""Pairs of images to learn registration from: of labelled scans, or of synthetic anatomies."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.network.preparation import Intensity
from itk_pdd.training.augmentation import Augmentation, Crop, crop_at, random_crop, vary_intensity
from itk_pdd.training.cases import ordered_pairs
from itk_pdd.training.dataset import Sample
from itk_pdd.training.losses import label_weights

__all__ = ["PairSource", "ScanPairs", "SyntheticPairs", "TrainingPair", "on_device"]

_STILL = Augmentation(rotation=0, scale=0, shear=0, elastic=0, intensity=0)


@dataclass(frozen=True)
class TrainingPair:
    """Two images on one working grid, and what is known about them."""

    fixed: Tensor  # normalised intensities (1, z, y, x)
    moving: Tensor
    fixed_labels: Tensor  # classes, uint8 (z, y, x); IGNORED beyond the field of view
    moving_labels: Tensor
    weights: Tensor  # of the classes in a label loss, (classes,)
    truth: Tensor | None = None  # displacements (z, y, x, 3) in voxels, components x, y, z, where they are known


def on_device(pairs: Sequence[TrainingPair], device: torch.device) -> list[TrainingPair]:
    """Pairs on a device; those that share an image still do."""
    if device.type == "cpu":
        return list(pairs)
    moved: dict[int, Tensor] = {}

    def there(part: Tensor) -> Tensor:
        if id(part) not in moved:
            moved[id(part)] = part.to(device)
        return moved[id(part)]

    return [
        TrainingPair(
            *(there(part) for part in (p.fixed, p.moving, p.fixed_labels, p.moving_labels, p.weights)),
            None if p.truth is None else there(p.truth),
        )
        for p in pairs
    ]


class PairSource(Protocol):
    """Give pairs of images for training."""

    shape: tuple[int, int, int]
    """Shape of the images, z, y, x."""
    names: list[str]
    """Names of the classes, background first."""
    values: list[int]
    """Their values in the label maps."""

    def draw(self, rng: np.random.Generator) -> TrainingPair:
        """A random pair to learn from, determined by ``rng``."""
        ...

    def draw_several(self, rng: np.random.Generator, images: int) -> list[TrainingPair]:
        """All ordered pairs of some random images; pairs that share an image share its tensors."""
        ...

    def validation(self) -> Sequence[TrainingPair]:
        """The pairs to measure on, always the same; one is made when it is asked for."""
        ...


class _Lazy(Sequence):
    """Pairs that are made when they are asked for: many of them would not fit in memory."""

    def __init__(self, count: int, make) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index):
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._make(index)


class ScanPairs:
    """Pairs of labelled scans as they lie in physical space, which is where a registration starts.

    The scans are on one working spacing; the fixed one is cut or continued to ``shape`` (z, y, x) around its centre,
    and the moving one is sampled at the same places. Fixed images vary as ``augmentation`` says; the moving ones vary
    in their intensities only, so that a pair varies once. ``pairs`` is the upper limit of the number of validation
    pairs, drawn with the seed among all ordered ones. RegistrationError if there are fewer than two scans to train on,
    or two of a kind do not overlap.
    """

    def __init__(
        self,
        train: Sequence[Sample],
        validation: Sequence[Sample],
        names: Sequence[str],
        values: Sequence[int],
        shape: tuple[int, int, int],
        *,
        augmentation: Augmentation,
        pairs: int = 6,
        seed: int = 0,
    ) -> None:
        if len(train) < 2:
            raise RegistrationError(f"data: {len(train)} scan is for training, expected two or more to make pairs of")
        self.shape, self.names, self.values = shape, list(names), list(values)
        self.train = list(train)
        for part in (train, validation):
            _check_overlap(part)
        self.augmentation = replace(augmentation, shape=shape)
        counts = torch.stack([torch.bincount(s.labels.flatten().int(), minlength=len(names)) for s in train])
        self.counts = counts.sum(0).cpu()
        self._weights = label_weights(self.counts)
        # Those that the finished model is measured on as well.
        self._validation = ordered_pairs(list(validation), pairs, seed)

    def draw(self, rng: np.random.Generator) -> TrainingPair:
        """See :class:`PairSource`."""
        return self.draw_several(rng, 2)[0]

    def draw_several(self, rng: np.random.Generator, images: int) -> list[TrainingPair]:
        """See :class:`PairSource`; of two images only the first pair. The first image is deformed, the others not."""
        if not 2 <= images <= len(self.train):
            raise RegistrationError(f"images is {images}, expected 2 to {len(self.train)}, the number of the scans")
        one, *others = (self.train[number] for number in rng.choice(len(self.train), images, replace=False))
        pairs = [self._pair(one, others[0], self.augmentation, rng)]
        if images == 2:
            return pairs
        crops = [self._seen(other, one, self.augmentation.intensity, rng) for other in others[1:]]
        first = pairs[0]
        shown = [(first.fixed, first.fixed_labels), (first.moving, first.moving_labels)]
        shown += [(crop.image[None], crop.labels) for crop in crops]
        return [
            TrainingPair(fixed, moving, labels, others, self._weights)
            for (fixed, labels), (moving, others) in itertools.permutations(shown, 2)
        ]

    def validation(self) -> Sequence[TrainingPair]:
        """See :class:`PairSource`."""
        still = replace(_STILL, shape=self.shape)

        def make(number: int) -> TrainingPair:
            return self._pair(*self._validation[number], still, np.random.default_rng(0))

        return _Lazy(len(self._validation), make)

    def _pair(self, one: Sample, other: Sample, augmentation: Augmentation, rng: np.random.Generator) -> TrainingPair:
        centre = [(n - 1) / 2 for n in one.image.shape]
        fixed = random_crop(
            one.image, one.labels, len(self.names), fold=1, augmentation=augmentation, rng=rng, centre=centre
        )
        moving = self._seen(other, one, augmentation.intensity, rng)
        return TrainingPair(fixed.image[None], moving.image[None], fixed.labels, moving.labels, self._weights)

    def _seen(self, moving: Sample, fixed: Sample, intensity: float, rng: np.random.Generator) -> Crop:
        """The moving scan where the fixed one lies."""
        matrix, offset = _index_mapping(fixed, moving)
        # From the crop to the fixed scan it is a shift.
        offset = offset + matrix @ [(n - k) / 2 for n, k in zip(fixed.image.shape[::-1], self.shape[::-1], strict=True)]
        same = self.shape == tuple(moving.image.shape) and np.abs(offset).max() < 1e-3
        if same and np.abs(matrix - np.eye(3)).max() * max(self.shape) < 1e-3:
            # All of the scan as it is: nothing to interpolate.
            return vary_intensity(Crop(moving.image.float(), moving.labels), intensity, rng)
        # What is linear is interpolated between the corners.
        corners = np.stack(np.meshgrid(*([0, n - 1] for n in self.shape), indexing="ij"), axis=-1)[..., ::-1]
        return crop_at(
            moving.image, moving.labels, corners @ matrix.T + offset, self.shape, intensity=intensity, rng=rng,
            step=[max(1, n - 1) for n in self.shape], begin=(0.0,) * 3,
        )  # fmt: skip


def _index_mapping(fixed: Sample, moving: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Matrix and offset from continuous indices (x, y, z) of one scan to those of another at the same place."""
    mapping = np.linalg.inv(moving.affine.numpy()) @ fixed.affine.numpy()
    return mapping[:3, :3], mapping[:3, 3]


def _check_overlap(scans: Sequence[Sample]) -> None:
    """Raise unless each scan shows some of the space of each other one."""
    for fixed, moving in itertools.combinations(scans, 2):
        axes = [np.linspace(0, n - 1, min(n, 12)) for n in fixed.image.shape[::-1]]
        matrix, offset = _index_mapping(fixed, moving)
        index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1) @ matrix.T + offset
        if not Grid.create(moving.image.shape[::-1]).contains_index(index).any():
            raise RegistrationError(
                f"data: {fixed.name} and {moving.name} do not overlap in physical space, where their registration "
                "starts: give them origins that bring them together, or leave one of them out"
            )


class SyntheticPairs:
    """Pairs of random shapes in random contrasts, deformed in a known way; no scan of anyone.

    Intensities are normalised by percentiles of each image, as random contrasts have no units (RegistrationError for a
    range). ``displacement`` is the largest one as a share of the mean extent. The seed is that of the validation pairs.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        intensity: Intensity | None = None,
        displacement: float = 0.1,
        pairs: int = 4,
        seed: int = 0,
    ) -> None:
        from itk_pdd.synthesis import label_names

        self._intensity = Intensity() if intensity is None else intensity
        if self._intensity.kind != "percentiles":
            raise RegistrationError(
                f"intensity is of the kind {self._intensity.kind!r}, but the contrasts of synthetic pairs are random "
                "and have no units: give percentiles"
            )
        self.shape, self._displacement, self._pairs, self._seed = shape, displacement, pairs, seed
        self.values, self.names = map(list, zip(*sorted(label_names("shapes").items()), strict=True))

    def draw(self, rng: np.random.Generator) -> TrainingPair:
        """See :class:`PairSource`."""
        return self._pair(int(rng.integers(2**62)), self._displacement * rng.uniform(0.2, 1.0))

    def draw_several(self, rng: np.random.Generator, images: int) -> list[TrainingPair]:
        """See :class:`PairSource`; there are two images of each anatomy."""
        if images != 2:
            raise RegistrationError(f"images is {images}, expected 2: synthetic images come in pairs")
        return [self.draw(rng)]

    def validation(self) -> Sequence[TrainingPair]:
        """See :class:`PairSource`."""
        seeds = np.random.default_rng([self._seed, 1]).integers(2**62, size=self._pairs)
        return _Lazy(self._pairs, lambda i: self._pair(int(seeds[i]), self._displacement))

    def _pair(self, seed: int, displacement: float) -> TrainingPair:
        from itk_pdd.synthesis import make_pair

        made = make_pair(
            self.shape[::-1], 1.0, seed=seed, kind="shapes", modality="random",
            displacement=displacement * float(np.mean(self.shape)),
        )  # fmt: skip
        images = [torch.from_numpy(self._intensity.normalise(v.array))[None] for v in (made.fixed, made.moving)]
        labels = [torch.from_numpy(v.array) for v in (made.fixed_labels, made.moving_labels)]
        counts = sum(torch.bincount(part.flatten().int(), minlength=len(self.names)) for part in labels)
        return TrainingPair(*images, *labels, label_weights(counts), torch.from_numpy(made.truth.vectors))
