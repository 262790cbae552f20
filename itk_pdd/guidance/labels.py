"""Labels of both images as a guide: which of them count, and what the search and the descent see of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from itk_pdd.errors import RegistrationError, counted, warn
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.mapping import Mapping
from itk_pdd.geometry.resampling import resample
from itk_pdd.guidance.labelmaps import LabelSource, read_labels, read_table
from itk_pdd.io.volume import Volume
from itk_pdd.kernels.operations import HOST, Array, Operations
from itk_pdd.kernels.thermometer.cpu import share_bits
from itk_pdd.network.settings import RARITY

__all__ = ["GuideLabel", "LabelGuide", "LabelMaps", "label_guide", "rigid_parts", "sliding_label"]

log = logging.getLogger("itk_pdd")

_MOST_IN_BITS = 32  # labels of which each has bits of its own in a code
_WORD_BITS = 16  # bits that a label sets in a code where there are more
_CHANNELS = 16  # of which feature_gradient compares a multiple
_MOST_BYTES = 300e6  # of the features of one image; with more labels they are compared at a coarser spacing
_MANY_TIMES = 4.0  # as large in one image as in the other: told


@dataclass(frozen=True)
class GuideLabel:
    """A structure that is labelled in both images: its name, and its labels in the fixed and in the moving image."""

    name: str
    fixed: int
    moving: int


@dataclass(frozen=True)
class LabelGuide:
    """Labels of both images that guide a registration."""

    labels: tuple[GuideLabel, ...]  # the structures that count
    fixed: LabelSource
    moving: LabelSource
    weight: float = 1.0  # how much they count against the intensities; a larger one follows the labels more closely
    left_out: dict[str, str] = field(default_factory=dict)  # names of labels that do not count, with the reason

    def maps(self, working: Grid, initial: Mapping | None, class_weight: float) -> tuple[LabelMaps, LabelMaps]:
        """Make what is compared of both images: of the fixed one, and of the moving one seen through a mapping."""
        size = [self.fixed.size_mm(label.fixed) for label in self.labels]
        weights = [max(each, 1e-9) ** RARITY for each in size]
        return (
            LabelMaps(self.fixed, tuple(each.fixed for each in self.labels), weights, working, class_weight),
            LabelMaps(self.moving, tuple(each.moving for each in self.labels), weights, working, class_weight, initial),
        )

    def volumes(self, fixed: Grid) -> tuple[Volume, Volume]:
        """Draw the labels that count as label maps, numbered as in the fixed image: on its grid, and on their own."""
        own = _drawn(self.fixed, {label.fixed: label.fixed for label in self.labels})
        other = _drawn(self.moving, {label.moving: label.fixed for label in self.labels})
        return resample(own, fixed, interpolation="nearest", outside="zero"), other


@dataclass(frozen=True)
class LabelMaps:
    """Labels of an image as probabilities, seen from the working grid."""

    source: LabelSource
    labels: tuple[int, ...]  # those that count
    weights: Sequence[float]  # how much each counts
    working: Grid  # the working grid
    weight: float  # cost of a difference in all bits, beside 1 for one in all bits of the MIND-SSC features
    mapping: Mapping | None = None  # from physical points of the working grid to those of the image
    descends: ClassVar[bool] = True
    finishes: ClassVar[bool] = True

    @property
    def bits(self) -> list[int]:
        """Bits of each label in a code."""
        return share_bits(list(self.weights)) if len(self.labels) <= _MOST_IN_BITS else [_WORD_BITS] * len(self.labels)

    @property
    def scale(self) -> float:
        """Cost of a differing bit."""
        return self.weight / min(64, sum(self.bits))

    @property
    def shrink(self) -> int:
        """Working voxels per block along each axis on which labels are compared: finer needs too much memory."""
        shrink, channels = 1, -(-len(self.labels) // _CHANNELS) * _CHANNELS
        while channels * self.working.blocks(shrink).voxels > _MOST_BYTES:
            shrink += 1
        return shrink

    def codes(self, shrink: int, operations: Operations = HOST) -> Array:
        """Encode the labels at the centres of blocks of ``shrink`` working voxels, 64 bits (z, y, x).

        Each label has bits of its own. More than 32 labels share the bits: codes of two labels, and a code and that of
        no label, then differ in about as many.
        """
        shares = (self._share(label, shrink) for label in self.labels)
        if len(self.labels) <= _MOST_IN_BITS:
            values = np.stack(list(shares), axis=-1)
            return operations.thermometer_codes(operations.array(values), self.bits)
        random = np.random.default_rng(0)
        words = [sum(1 << int(bit) for bit in random.permutation(64)[:_WORD_BITS]) for _ in self.labels]
        best: Any = np.float32(0.5)
        codes: Any = np.uint64(0)
        for word, share in zip(words, shares, strict=True):
            codes = np.where(share > best, np.uint64(word), codes)
            best = np.maximum(best, share)
        return operations.array(np.ascontiguousarray(codes))

    def features(self, shrink: int) -> np.ndarray:
        """Sample the probabilities at the centres of blocks of ``shrink`` working voxels, uint8 (z, y, x, 16 n).

        They are scaled so that the squared difference of a label counts as much as its bits do in a code.
        """
        factors = 255 * np.sqrt(np.asarray(self.bits) / max(self.bits))
        target = self.working.blocks(shrink)
        shape = target.shape if target.dimension == 3 else (1, *target.shape)
        result = np.zeros((*shape, -(-len(self.labels) // _CHANNELS) * _CHANNELS), np.uint8)
        for i, label in enumerate(self.labels):
            result[..., i] = np.rint(self._share(label, shrink) * np.float32(factors[i]))
        return result

    def _share(self, label: int, shrink: int) -> np.ndarray:
        """Share of each block of ``shrink`` working voxels that a label has, float32 (z, y, x)."""
        target = self.working.blocks(shrink)
        found = np.clip(resample(self.source.share(label), target, mapping=self.mapping).array, 0, 1)
        return found if target.dimension == 3 else found[None]


def label_guide(
    fixed: Any,
    moving: Any,
    *,
    dimension: int,
    guide: Any = None,
    label_map: Any = None,
    weight: float = 1.0,
    what: str = "guide",
) -> LabelGuide:
    """Match the labels of both images and choose those that guide.

    ``guide`` is "all", numbers in the fixed image or names of the labels that count; by default all that both images
    have. Without ``label_map`` (see :func:`itk_pdd.guidance.labelmaps.read_table`) the same numbers mean the same.
    ``what`` is the name of ``guide`` in errors. RegistrationError if a label that is asked for is not known, or none is
    left.
    """
    if not (np.isfinite(weight) and weight > 0):
        raise RegistrationError(f"label_weight is {weight}, expected a finite number above 0")
    sources = [
        read_labels(each, dimension=dimension, name=f"{side}_labels")
        for side, each in (("fixed", fixed), ("moving", moving))
    ]
    names = {**sources[1].names, **sources[0].names} if label_map is None else dict(sources[0].names)
    if label_map is None:
        pairs = {label: label for source in sources for label in source.places}
    else:
        pairs, named = read_table(label_map)
        names |= named
    wanted = _chosen(guide, pairs, names, what)
    kept, left_out = [], {}
    for label in sorted(pairs) if wanted is None else wanted:
        name = names.get(label, str(label))
        lacking = [
            side
            for side, source, value in zip(("fixed", "moving"), sources, (label, pairs[label]), strict=True)
            if value not in source.places
        ]
        if lacking:
            left_out[name] = f"is not in {' and '.join(f'{side}_labels' for side in lacking)}"
        else:
            kept.append(GuideLabel(name, label, pairs[label]))
    result = LabelGuide(tuple(kept), sources[0], sources[1], weight, left_out)
    _tell(result)
    return result


def rigid_parts(fixed: Any, rigid: Any, dimension: int) -> tuple[tuple[str, Volume], ...]:
    """Find the parts of the fixed image that move rigidly: the name and the share (0 to 1) of each label."""
    source = read_labels(fixed, dimension=dimension, name="fixed_labels")
    labels = _chosen(rigid, {label: label for label in source.places}, source.names, "rigid") or sorted(source.places)
    return tuple((source.names.get(label, str(label)), source.share(label)) for label in labels)


def sliding_label(
    fixed: Any, moving: Any, sliding: Any, *, dimension: int, label_map: Any = None
) -> tuple[str, Volume, Volume]:
    """Find the one label along whose border the field slides: its name, and its share in both images."""
    guide = label_guide(fixed, moving, dimension=dimension, guide=sliding, label_map=label_map, what="sliding")
    if len(guide.labels) != 1:
        raise RegistrationError(f"sliding names {len(guide.labels)} labels, expected one")
    label = guide.labels[0]
    return label.name, guide.fixed.share(label.fixed), guide.moving.share(label.moving)


def _drawn(source: LabelSource, numbers: dict[int, int]) -> Volume:
    """Draw labels as one label map; a voxel belongs to a label that has half of it or more."""
    array = np.zeros(source.grid.shape, np.int32)
    for label, number in numbers.items():
        array[source.share(label).array >= 0.5] = number
    return Volume(array, source.grid)


def _chosen(guide: Any, pairs: dict[int, int], names: dict[int, str], what: str) -> list[int] | None:
    """Turn numbers and names into labels of the fixed image; None for all."""
    if guide is None or (isinstance(guide, str) and guide.strip().lower() == "all"):
        return None
    each = guide.split(",") if isinstance(guide, str) else [guide] if isinstance(guide, int) else list(guide)
    known, chosen = {name.lower(): label for label, name in names.items()}, []
    for word in each:
        text = str(word).strip()
        label = known.get(text.lower())
        if label is None and text.lstrip("-").isdigit():
            label = int(text)
        if label is None:
            told = ", ".join(sorted(known)) or "none"
            raise RegistrationError(f"{what} names {text!r}, expected 'all', numbers of labels or known names ({told})")
        if label not in pairs:
            there = ", ".join(map(str, sorted(pairs)))
            raise RegistrationError(f"{what} names the label {text}, but the labels are {there}")
        if label not in chosen:
            chosen.append(label)
    if not chosen:
        raise RegistrationError(f"{what} names no label, expected 'all', numbers or names of labels")
    return chosen


def _tell(guide: LabelGuide) -> None:
    """Warn of labels that are left out, or of very different size; refuse a guide without labels."""
    reasons = [f"label {name} {reason}" for name, reason in guide.left_out.items()]
    if not guide.labels:
        raise RegistrationError(f"no label guides the registration: {'; '.join(reasons)}")
    if reasons:
        warn(f"labels that do not guide the registration: {'; '.join(reasons)}")
    for label in guide.labels:
        sizes = guide.fixed.size_mm(label.fixed), guide.moving.size_mm(label.moving)
        if max(sizes) > _MANY_TIMES * min(sizes):
            warn(
                f"label {label.name} is {max(sizes) / min(sizes):.0f} times as large in one image as in the other: "
                "check that it is whole in both, and the same structure"
            )
    log.info("guided by %s: %s", counted(len(guide.labels), "label"), ", ".join(label.name for label in guide.labels))
