"""Units of length that image headers state and ITK does not read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from itk_pdd.errors import RegistrationError, warn

if TYPE_CHECKING:
    import SimpleITK

__all__ = ["MM_PER_UNIT", "check_nrrd_units", "set_stated_spacing"]

_NAMES = {
    1e-7: ("a", "angstrom", "å"),
    1e-6: ("nm", "nanometer", "nanometre", "nanometers"),
    1e-3: ("um", "µm", "μm", "micron", "microns", "micrometer", "micrometre", "micrometers", r"\u00b5m"),
    1.0: ("mm", "millimeter", "millimetre", "millimeters"),
    10.0: ("cm", "centimeter", "centimetre", "centimeters"),
    25.4: ("in", "inch", "inches", '"'),
    1e3: ("m", "meter", "metre", "meters"),
}
MM_PER_UNIT = {name: factor for factor, names in _NAMES.items() for name in names}
"""Millimetres of each unit of length, by its name in small letters."""


def set_stated_spacing(image: SimpleITK.Image, stated: tuple[float, ...], unit: str, *, where: str) -> None:
    """Give an image, in place, the spacing in ``unit`` that its file states in a way that ITK does not read.

    A warning says that the unit is not millimetres, but converted, or no unit of length: then the spacing stays.
    """
    stated = stated[: image.GetDimension()]
    text = f"{where} has voxels of {' x '.join(f'{s:.4g}' for s in stated)} {unit}"
    factor = MM_PER_UNIT.get(unit.strip().lower())
    if factor is None:
        kept = " x ".join(f"{s:.4g}" for s in image.GetSpacing())
        warn(f"{text}, which is no known unit of length: they are taken to be {kept} mm")
        return
    spacing = [factor * s for s in stated]
    image.SetSpacing([*spacing, *image.GetSpacing()[len(spacing) :]])
    if factor != 1:
        warn(f"{text}: they are read as {' x '.join(f'{s:.4g}' for s in spacing)} mm")


def check_nrrd_units(fields: dict[str, str], *, where: str) -> None:
    """Tell that an NRRD file states its lengths in another unit than the millimetres that ITK takes them for.

    The numbers are kept, with a warning, as in all programs built on ITK: a field in the same numbers fits the image
    there. Axes of different units are refused. ``fields`` is the header, keys in small letters.
    """
    text = fields.get("space units", fields.get("units", ""))
    units = {MM_PER_UNIT[word.lower()] for word in re.findall(r'"([^"]*)"', text) if word.lower() in MM_PER_UNIT}
    if len(units) > 1:
        raise RegistrationError(
            f"{where} has axes in different units ({text}), which ITK would all take for mm: write it in mm"
        )
    if units - {1.0}:
        warn(f"{where} is in {text}; ITK takes the numbers for mm, and so are they taken here")
