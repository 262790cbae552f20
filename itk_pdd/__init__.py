"""itk_pdd: deformable registration of medical images by probabilistic dense displacements.

The names below are imported on first use, so that ``import itk_pdd`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

from itk_pdd._version import __version__

_PUBLIC = {
    "DisplacementField": "itk_pdd.geometry.field",
    "Grid": "itk_pdd.geometry.grid",
    "PDDRegistrationMethod": "itk_pdd.method",
    "RegistrationAborted": "itk_pdd.errors",
    "RegistrationError": "itk_pdd.errors",
    "RegistrationWarning": "itk_pdd.errors",
    "Uncertainty": "itk_pdd.uncertainty.estimate",
    "Volume": "itk_pdd.io.volume",
    "compose": "itk_pdd.warp.composition",
    "invert": "itk_pdd.warp.composition",
    "jacobian_determinant": "itk_pdd.warp.jacobian",
    "register": "itk_pdd.registration",
    "register_batch": "itk_pdd.cohort.batch",
    "warp_image": "itk_pdd.warp.images",
    "warp_labels": "itk_pdd.warp.labels",
    "warp_points": "itk_pdd.warp.points",
    "registration_filter": "itk_pdd.filter",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name == "plot":
        return importlib.import_module("itk_pdd.plot")
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "plot"])
