"""Spacing and layout that microscopes' TIFF files state in words: ImageJ's and OME's descriptions of their stacks."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from itk_pdd.errors import RegistrationError
from itk_pdd.io.units import MM_PER_UNIT, set_stated_spacing

if TYPE_CHECKING:
    import SimpleITK

__all__ = ["EXTENSIONS", "apply_description"]

EXTENSIONS = (".tif", ".tiff")
_DESCRIPTION, _X_RESOLUTION, _Y_RESOLUTION = 270, 282, 283  # tags


@dataclass(frozen=True)
class _Stack:
    """Hold a description's spacing along x, y, z (None where it says nothing), its unit, and counts of pages."""

    spacing: tuple[float, float, float] | None
    unit: str
    pages: int | None
    kinds: dict[str, int]


def apply_description(image: SimpleITK.Image, path: Path, *, where: str) -> None:
    """Give an image that was read from a TIFF file the spacing of its description, in place.

    ITK reads a resolution in inches or centimetres, but no distance of pages and no unit in words. Pages that are
    channels or time points as well as slices are refused, and files of which ITK has not read all pages.
    """
    tags = _tags(path)
    text = str(tags.get(_DESCRIPTION, ""))
    stack = _imagej(text, tags) if text.startswith("ImageJ=") else _ome(text) if "<OME" in text else None
    if stack is None:
        return
    several = {kind: count for kind, count in stack.kinds.items() if count > 1}
    if several and image.GetDimension() > 2:
        counts = " and ".join(f"{count} {kind}" for kind, count in several.items())
        raise RegistrationError(
            f"{where} holds {counts} as pages of one stack, expected slices only: save one of each by itself"
        )
    read = image.GetSize()[2] if image.GetDimension() > 2 else 1
    if stack.pages is not None and stack.pages > read:
        raise RegistrationError(
            f"{where} says that it holds {stack.pages} pages, {read} can be read: save it again as plain TIFF"
        )
    if stack.spacing is not None:
        set_stated_spacing(image, stack.spacing, stack.unit, where=where)


def _imagej(text: str, tags: dict[int, object]) -> _Stack:
    fields = dict(line.partition("=")[::2] for line in text.splitlines())
    unit = fields.get("unit", "").strip()
    pixels = [_number(tags.get(tag)) for tag in (_X_RESOLUTION, _Y_RESOLUTION)]
    spacing = None
    if unit and unit.lower() not in ("pixel", "pixels") and all(pixels):
        spacing = (1 / pixels[0], 1 / pixels[1], _number(fields.get("spacing")) or 1.0)
    kinds = {"channels": _count(fields.get("channels")), "time points": _count(fields.get("frames"))}
    return _Stack(spacing, unit, _count(fields["images"]) if "images" in fields else None, kinds)


def _ome(text: str) -> _Stack | None:
    """The first image of an OME-XML; its sizes and lengths are attributes of the element Pixels."""
    found = re.search(r"<(?:\w+:)?Pixels\b([^>]*)>", text)
    if found is None:
        return None
    fields = {key: html.unescape(value) for key, value in re.findall(r'(\w+)\s*=\s*"([^"]*)"', found[1])}
    lengths = [_number(fields.get(f"PhysicalSize{axis}")) for axis in "XYZ"]
    units = [fields.get(f"PhysicalSize{axis}Unit", "µm") for axis in "XYZ"]
    spacing = None
    if lengths[0] and lengths[1]:
        factors = [MM_PER_UNIT.get(unit.lower(), 1.0) / MM_PER_UNIT.get(units[0].lower(), 1.0) for unit in units]
        y, z = (length * factor for length, factor in zip(lengths[1:], factors[1:], strict=True))
        spacing = (lengths[0], y, z or lengths[0])
    kinds = {"channels": _count(fields.get("SizeC")), "time points": _count(fields.get("SizeT"))}
    return _Stack(spacing, units[0], None, kinds)


def _tags(path: Path) -> dict[int, object]:
    """The tags of the first page; none where they cannot be read."""
    from PIL import TiffImagePlugin

    try:
        with open(path, "rb") as file:
            header = file.read(8)
            if header[2:4] in (b"\x2b\x00", b"\x00\x2b"):
                header += file.read(8)  # of a file with 64-bit offsets
            directory = TiffImagePlugin.ImageFileDirectory_v2(header)
            file.seek(directory.next)
            directory.load(file)
            return {tag: directory.get(tag) for tag in (_DESCRIPTION, _X_RESOLUTION, _Y_RESOLUTION) if tag in directory}
    except Exception:
        # Pillow raises errors of many kinds on damaged directories; without tags the file is read as ITK reads it.
        return {}


def _number(text: object) -> float:
    """A positive number, 0 for anything else."""
    try:
        number = float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return 0.0
    return number if 0 < number < 1e12 else 0.0


def _count(text: object) -> int:
    return max(1, int(_number(text)))
