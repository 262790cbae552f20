"""elastix' transform parameter files: read as SimpleITK transforms, written for transformix.

Files that they name are read by functions which the caller gives.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from itk_pdd.errors import RegistrationError, warn
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.messages import read_text

if TYPE_CHECKING:
    import SimpleITK

__all__ = ["is_elastix", "parameter_text", "parameter_writer", "read_elastix"]

_ENTRY = re.compile(r'^[ \t]*\(\s*(\w+)((?:\s+(?:"[^"]*"|[^\s()"]+))*)\s*\)', re.MULTILINE)
_TRANSFORM = re.compile(rb'^[ \t]*\(\s*Transform\s+"', re.MULTILINE)
_VALUE = re.compile(r'"([^"]*)"|([^\s()"]+)')
_NONE = "NoInitialTransform"

Entries = dict[str, list[str]]
Readers = Mapping[str, Callable[[Path], Any]]


def is_elastix(path: str | os.PathLike[str]) -> bool:
    """Tell whether a text file looks like elastix' transform parameters."""
    try:
        with open(path, "rb") as file:
            head = file.read(65536)
    except OSError:
        return False
    return not head.startswith(b"#Insight") and _TRANSFORM.search(head) is not None


def read_elastix(path: str | os.PathLike[str], readers: Readers, *, name: str = "transform") -> list[Any]:
    """Read a ``TransformParameters.txt`` of elastix with the initial transforms it names; itk-elastix is not needed.

    Translations, Euler, similarity and affine transforms, B-splines (recursive ones too), deformation fields and ITK
    transform files are known. Other files it names are looked for where elastix looks: as written, then beside the
    file; ``readers`` say how a "field" and a "transform" of ITK are read. Returns SimpleITK transforms, exact (nothing
    is sampled), and what the readers gave; a fixed point goes through the first one first.
    """
    parts: list[Any] = []
    seen: set[Path] = set()
    current: Path | None = Path(path)
    while current is not None:
        if current.resolve() in seen:
            raise RegistrationError(f"{name}: {current} is its own initial transform")
        seen.add(current.resolve())
        entries = _parse(current, name)
        parts.append(_transform(entries, readers, current, name))
        current = _initial(entries, current, name)
    # The initial transform of a file is applied before its own.
    return parts[::-1]


def _parse(path: Path, name: str) -> Entries:
    text = read_text(path, "elastix' transform parameters", name=name)
    found = {key: [a or b for a, b in _VALUE.findall(values)] for key, values in _ENTRY.findall(text)}
    # An entry without a value says nothing.
    entries = {key: values for key, values in found.items() if values}
    if "Transform" not in entries:
        raise RegistrationError(f"{name}: {path} has no entry (Transform ...), expected elastix' transform parameters")
    return entries


def _initial(entries: Entries, path: Path, name: str) -> Path | None:
    for key in ("InitialTransformParameterFileName", "InitialTransformParametersFileName"):
        if entries.get(key, [_NONE])[0] != _NONE:
            how = entries.get("HowToCombineTransforms", ["Compose"])[0]
            if how != "Compose":
                raise RegistrationError(
                    f"{name}: {path} combines its transforms by {how}, expected Compose: run elastix with "
                    '(HowToCombineTransforms "Compose")'
                )
            return _beside(entries[key][0], path, name)
    return None


def _beside(file: str, path: Path, name: str) -> Path:
    for candidate in (Path(file), path.parent / file, path.parent / Path(file).name):
        if candidate.is_file():
            return candidate
    raise RegistrationError(f"{name}: {path} names the file {file}, which is neither there nor beside it")


def _numbers(entries: Entries, key: str, path: Path, name: str, count: int | None = None) -> list[float]:
    try:
        values = [float(value) for value in entries[key]]
    except KeyError as error:
        raise RegistrationError(f"{name}: {path} has no entry ({key} ...)") from error
    except ValueError as error:
        raise RegistrationError(f"{name}: ({key} ...) in {path} holds something other than numbers") from error
    if not all(abs(value) < 1e12 for value in values):
        raise RegistrationError(f"{name}: ({key} ...) in {path} holds numbers that are not finite or beyond reason")
    if count is not None and len(values) != count:
        raise RegistrationError(f"{name}: ({key} ...) in {path} has {len(values)} numbers, expected {count}")
    return values


def _transform(entries: Entries, readers: Readers, path: Path, name: str) -> Any:
    import SimpleITK

    kind = entries["Transform"][0]
    dimension = int(_numbers(entries, "FixedImageDimension", path, name, 1)[0])
    if dimension not in (2, 3):
        raise RegistrationError(f"{name}: {path} is {dimension}-D, expected 2-D or 3-D")
    if entries.get("UseDirectionCosines", ["true"])[0] != "true":
        raise RegistrationError(
            f'{name}: {path} says (UseDirectionCosines "false"), which is no mapping of physical points: run elastix '
            'with "true"'
        )
    if kind in ("BSplineTransform", "RecursiveBSplineTransform"):
        return _bspline(entries, dimension, path, name)
    if kind == "DeformationFieldTransform":
        return readers["field"](_field_file(entries, path, name))
    if kind in ("File", "ExternalTransform") and "TransformFileName" in entries:
        return readers["transform"](_beside(entries["TransformFileName"][0], path, name))
    makers: dict[str, Any] = {
        "TranslationTransform": SimpleITK.TranslationTransform,
        "EulerTransform": SimpleITK.Euler2DTransform if dimension == 2 else SimpleITK.Euler3DTransform,
        "SimilarityTransform": SimpleITK.Similarity2DTransform if dimension == 2 else SimpleITK.Similarity3DTransform,
        "AffineTransform": SimpleITK.AffineTransform,
    }
    if kind not in makers:
        raise RegistrationError(
            f"{name}: {path} holds a {kind}, expected one of {', '.join([*makers, 'BSplineTransform'])} or a "
            "DeformationFieldTransform: let transformix make the field (-def all) and give that"
        )
    transform = makers[kind](dimension) if kind in ("TranslationTransform", "AffineTransform") else makers[kind]()
    parameters = _numbers(entries, "TransformParameters", path, name, len(transform.GetParameters()))
    if kind != "TranslationTransform":
        transform.SetCenter(_numbers(entries, "CenterOfRotationPoint", path, name, dimension))
    if kind == "EulerTransform" and dimension == 3:
        transform.SetComputeZYX(entries.get("ComputeZYX", ["false"])[0] == "true")
    transform.SetParameters(parameters)
    return transform


def _bspline(entries: Entries, dimension: int, path: Path, name: str) -> SimpleITK.Transform:
    import SimpleITK

    key = "BSplineTransformSplineOrder"
    order = int(_numbers(entries, key, path, name, 1)[0]) if key in entries else 3
    if entries.get("UseCyclicTransform", ["false"])[0] == "true" or order not in (1, 2, 3):
        raise RegistrationError(
            f"{name}: {path} holds a cyclic B-spline or one of order {order}, expected order 1 to 3 and no cycle"
        )
    size, spacing, origin = (
        np.asarray(_numbers(entries, key, path, name, dimension)) for key in ("GridSize", "GridSpacing", "GridOrigin")
    )
    # ITK takes any size on trust, negative ones too.
    if not all(1 <= n < 1e6 and n == int(n) for n in size):
        raise RegistrationError(
            f"{name}: (GridSize ...) in {path} is {size.tolist()}, expected whole numbers from 1 on"
        )
    count = int(np.prod(size)) * dimension
    parameters = _numbers(entries, "TransformParameters", path, name, count)
    index = np.asarray(_numbers(entries, "GridIndex", path, name, dimension) if "GridIndex" in entries else size * 0)
    identity = np.eye(dimension).ravel().tolist()
    # elastix writes directions column by column.
    columns = _numbers(entries, "GridDirection", path, name, dimension**2) if "GridDirection" in entries else identity
    direction = np.reshape(columns, (dimension, dimension)).T
    origin = origin + direction @ (spacing * index)
    transform = SimpleITK.BSplineTransform(dimension, order)
    transform.SetFixedParameters([*size, *origin, *spacing, *direction.ravel()])
    transform.SetParameters(parameters)
    return transform


def _field_file(entries: Entries, path: Path, name: str) -> Path:
    if "DeformationFieldFileName" not in entries:
        raise RegistrationError(f"{name}: {path} has no entry (DeformationFieldFileName ...)")
    if entries.get("DeformationFieldInterpolationOrder", ["0"])[0] != "1":
        warn(f"{name}: {path} asks for the nearest displacement between the voxels of its field; it is read as linear")
    return _beside(entries["DeformationFieldFileName"][0], path, name)


def parameter_text(field_file: str | os.PathLike[str], grid: Grid) -> str:
    """Compose the parameter file by which ``transformix -tp`` (and ``-in``, ``-def``, ``-jac``) applies a field image.

    transformix resamples onto the grid of the field. Only the name of the field's file is written, so that the folder
    of both can be moved: transformix looks for it in its working directory, this package beside the parameter file.
    """

    def numbers(values: Any) -> str:
        return " ".join(f"{value:.17g}" for value in np.ravel(values))

    dimension = grid.dimension
    return "\n".join(
        [
            "// A displacement field of itk_pdd, from fixed to moving points, in physical millimetres (LPS).",
            "// Run transformix in the folder of this file: it looks for the field in its working directory.",
            '(Transform "DeformationFieldTransform")',
            "(NumberOfParameters 0)",
            f'(DeformationFieldFileName "{Path(field_file).name}")',
            "(DeformationFieldInterpolationOrder 1)",
            f'(InitialTransformParameterFileName "{_NONE}")',
            '(HowToCombineTransforms "Compose")',
            "",
            f"(FixedImageDimension {dimension})",
            f"(MovingImageDimension {dimension})",
            '(FixedInternalImagePixelType "float")',
            '(MovingInternalImagePixelType "float")',
            f"(Size {numbers(grid.size)})",
            f"(Index {numbers([0] * dimension)})",
            f"(Spacing {numbers(grid.spacing)})",
            f"(Origin {numbers(grid.origin)})",
            f"(Direction {numbers(np.asarray(grid.direction).T)})",
            '(UseDirectionCosines "true")',
            "",
            '(ResampleInterpolator "FinalLinearInterpolator")',
            '(Resampler "DefaultResampler")',
            "(DefaultPixelValue 0)",
            '(ResultImageFormat "nii.gz")',
            '(ResultImagePixelType "float")',
            '(CompressResultImage "true")',
            "",
        ]
    )


def parameter_writer(field_file: str | os.PathLike[str], grid: Grid) -> Callable[[Path], Any]:
    """Make a function that writes :func:`parameter_text` to the path it is called with."""
    return partial(Path.write_text, data=parameter_text(field_file, grid), encoding="utf-8")
