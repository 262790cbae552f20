"""The former place of ``itk_pdd.io.files``, kept for scripts that import it."""

from __future__ import annotations

from itk_pdd.io.files import (
    FIELD_EXTENSIONS,
    IMAGE_EXTENSIONS,
    TRANSFORM_EXTENSIONS,
    read_image,
    read_transform,
    write_image,
    write_transform,
)
from itk_pdd.io.messages import itk_reason

__all__ = [
    "FIELD_EXTENSIONS",
    "IMAGE_EXTENSIONS",
    "TRANSFORM_EXTENSIONS",
    "itk_reason",
    "read_image",
    "read_transform",
    "write_image",
    "write_transform",
]
