"""Random anatomies with known truth: for the demo, the tests and training.

Label maps (:mod:`~itk_pdd.synthesis.anatomy`) become images (:mod:`~itk_pdd.synthesis.rendering`); smooth invertible
deformations (:mod:`~itk_pdd.synthesis.deformation`) make pairs of them (:mod:`~itk_pdd.synthesis.pair`).
The names below are imported on first use. May import io and what is below it.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "AbdomenLabel": "abdomen",
    "Acquisition": "rendering",
    "Anatomy": "anatomy",
    "Contrast": "rendering",
    "Deformation": "deformation",
    "SyntheticPair": "pair",
    "TissueMap": "canvas",
    "abdomen_labels": "anatomy",
    "ct_contrast": "rendering",
    "label_names": "anatomy",
    "make_pair": "pair",
    "random_acquisition": "rendering",
    "random_affine": "deformation",
    "random_contrast": "rendering",
    "random_deformation": "deformation",
    "random_shapes": "anatomy",
    "render": "rendering",
    "render_labels": "rendering",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
