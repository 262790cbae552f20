"""Group the slices of a series into stacks, and choose the one that is meant."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterable, Sequence

import numpy as np

from itk_pdd.errors import RegistrationError, warn
from itk_pdd.io.dicom.headers import DISTINGUISHING, Slice
from itk_pdd.io.dicom.voxels import decode

__all__ = ["choose_stack"]

log = logging.getLogger("itk_pdd")

_SAME_COSINE = 1e-4  # difference of direction cosines within one stack
_SAME_PLACE_PIXELS = 1e-2  # slices closer than this lie at the same place


def choose_stack(slices: Sequence[Slice], *, name: str, where: str) -> list[Slice]:
    """Return the slices of one image, sorted by position, from those of one series.

    Slices are grouped by orientation, size and spacing. Where two slices of a group lie at the same place, it is split
    by the first attribute (or two) that tells them apart: echo, time, acquisition, and so on. The largest stack is
    meant; localisers only if there is nothing else. Two equally large stacks, or two different slices at the same
    place, are an error.
    """
    stacks: list[tuple[str, list[Slice]]] = []
    for group in _alike(slices):
        stacks += _split(group, name, where)
    stacks.sort(key=lambda stack: ("LOCALIZER" in _kind(stack[1][0]), -len(stack[1])))
    (label, chosen), others = stacks[0], stacks[1:]
    rivals = [stack for stack in others if len(stack[1]) >= len(chosen) and "LOCALIZER" not in _kind(stack[1][0])]
    if rivals or (others and "LOCALIZER" in _kind(chosen[0]) and len(others[0][1]) == len(chosen)):
        listed = "; ".join(_describe(label, stack) for label, stack in stacks[:4])
        raise RegistrationError(
            f"{name}: the series in {where} holds {len(stacks)} images, the largest of the same number of slices, "
            f"expected one: move the files of one to a folder of their own ({listed})"
        )
    if others:
        left = "; ".join(_describe(label, stack) for label, stack in others[:4])
        warn(
            f"{name}: the series in {where} holds {len(stacks)} images; the largest is read, "
            f"{_describe(label, chosen)}; left out: {left}{' ...' if len(others) > 4 else ''}"
        )
    log.info("%s: read %s from %s", name, _describe(label, chosen), where)
    return chosen


def _alike(slices: Iterable[Slice]) -> list[list[Slice]]:
    """Group slices of the same orientation, size and spacing."""
    groups: list[list[Slice]] = []
    for piece in slices:
        for group in groups:
            if _fits(piece, group[0]):
                group.append(piece)
                break
        else:
            groups.append([piece])
    return groups


def _fits(one: Slice, other: Slice) -> bool:
    if one.size != other.size or not np.allclose(one.spacing, other.spacing, rtol=1e-3, atol=0):
        return False
    if ("LOCALIZER" in _kind(one)) != ("LOCALIZER" in _kind(other)):
        return False
    if one.axes is None or other.axes is None:
        return one.axes is other.axes
    return bool(np.abs(one.axes - other.axes).max() <= _SAME_COSINE)


def _kind(piece: Slice) -> str:
    return piece.tags.get("ImageType", "") + "\\" + piece.tags.get("FrameType", "")


def _split(slices: list[Slice], name: str, where: str) -> list[tuple[str, list[Slice]]]:
    """Split slices of one orientation into stacks in which no two lie at the same place."""
    if any(piece.position is None for piece in slices):
        return [("", sorted(slices, key=lambda piece: (piece.number, piece.path, piece.frame)))]
    places = _places(slices)
    most = max(map(len, places))
    if most == 1:
        return [("", [place[0] for place in places])]
    # Not an attribute that differs from slice to slice, like a time: as few groups as can be.
    varied = [key for key in DISTINGUISHING if 1 < len({piece.tags.get(key) for piece in slices}) <= most]
    for keys in itertools.chain(itertools.combinations(varied, 1), itertools.combinations(varied, 2)):
        groups = _grouped(slices, keys)
        if len(groups) == most and all(max(map(len, _places(group))) == 1 for group in groups.values()):
            labels = [", ".join(f"{k} {v}" for k, v in zip(keys, values, strict=True)) for values in groups]
            return [(text, [p[0] for p in _places(g)]) for text, g in zip(labels, groups.values(), strict=True)]
    return [("", _without_copies(places, name, where))]


def _places(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Sort slices along their normal; those at the same place together."""
    normal = slices[0].normal
    along = np.array([piece.position @ normal for piece in slices])
    tolerance = _SAME_PLACE_PIXELS * min(slices[0].spacing)
    places: list[list[Slice]] = []
    last = -math.inf
    for i in np.argsort(along, kind="stable"):
        if along[i] - last > tolerance:
            places.append([])
            last = along[i]
        places[-1].append(slices[i])
    return places


def _grouped(slices: Iterable[Slice], keys: Sequence[str]) -> dict[tuple[str | None, ...], list[Slice]]:
    groups: dict[tuple[str | None, ...], list[Slice]] = {}
    for piece in slices:
        groups.setdefault(tuple(piece.tags.get(key) for key in keys), []).append(piece)
    return groups


def _without_copies(places: list[list[Slice]], name: str, where: str) -> list[Slice]:
    """Drop slices that are copies of another at the same place; refuse different ones."""
    copies = []
    for first, *others in places:
        for other in others:
            alike = (first.slope, first.intercept) == (other.slope, other.intercept)
            if not (alike and np.array_equal(decode(first, name), decode(other, name))):
                raise RegistrationError(
                    f"{name}: {where} holds different slices at the same place, and nothing in their headers tells the "
                    f"images apart: move the files of one image to a folder of their own ({first.path.name} and "
                    f"{other.path.name} coincide)"
                )
            copies.append(other.path.name)
    warn(f"{name}: {len(copies)} slices in {where} are copies of others and are left out ({', '.join(copies[:4])})")
    return [place[0] for place in places]


def _describe(label: str, stack: Sequence[Slice]) -> str:
    """Name a stack in messages, for instance "24 slices of 512 x 512 (EchoTime 4.9), first a.dcm"."""
    columns, rows = stack[0].size
    what = label or ("localiser" if "LOCALIZER" in _kind(stack[0]) else "")
    return f"{len(stack)} slices of {columns} x {rows}{f' ({what})' if what else ''}, first {stack[0].path.name}"
