"""Images with pixels that ITK reads and SimpleITK has no images of: grey with alpha, and tensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from itk_pdd.errors import RegistrationError

if TYPE_CHECKING:
    import SimpleITK

__all__ = ["read_unusual"]

_PNG_DEPTH_BYTE, _PNG_COLOUR_BYTE, _GREY_WITH_ALPHA = 24, 25, 4


def read_unusual(path: Path, *, name: str) -> SimpleITK.Image:
    """Read a PNG of grey pixels with an alpha channel as an image of two components.

    SimpleITK has said of the file that it does not know its pixels; other kinds, tensors for instance, are refused.
    """
    import SimpleITK
    from PIL import Image

    with open(path, "rb") as file:
        head = file.read(32)
    if head.startswith(b"\x89PNG"):
        if (head[_PNG_DEPTH_BYTE], head[_PNG_COLOUR_BYTE]) != (8, _GREY_WITH_ALPHA):
            raise RegistrationError(f"{name}: {path} has 16-bit grey pixels with an alpha channel: save it without")
        try:
            with Image.open(path) as image:
                return SimpleITK.GetImageFromArray(np.asarray(image.convert("LA")), isVector=True)
        except (OSError, SyntaxError, ValueError) as error:
            raise RegistrationError(f"{name}: {path} cannot be read as an image ({error})") from error
    raise RegistrationError(
        f"{name}: {path} holds tensors, complex numbers or grey pixels with an alpha channel, expected scalars or "
        "vectors: save it without alpha; take an image computed from tensors, such as the fractional anisotropy, and "
        "the magnitude of complex numbers"
    )
