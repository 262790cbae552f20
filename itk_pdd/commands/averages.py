"""Write halfway transforms and means of transforms from files to files."""

from __future__ import annotations

from collections.abc import Sequence

from itk_pdd.commands.transform import PathLike
from itk_pdd.commands.writing import check, write
from itk_pdd.geometry.mapping import FieldMapping, Mapping
from itk_pdd.io import files, outputs
from itk_pdd.io.fields import field_writer
from itk_pdd.io.images import reference_grid
from itk_pdd.io.transforms import as_mapping, transform_writer
from itk_pdd.warp.averages import halfway_mapping, mean_mapping

__all__ = ["halfway_file", "mean_file"]


def halfway_file(output: PathLike, transforms: Sequence[PathLike], *, reference: PathLike | None = None) -> str:
    """Write the transform that, applied twice, is the given one (see :func:`itk_pdd.warp.averages.halfway`)."""
    target = outputs.Output(output, "output", files.FIELD_EXTENSIONS)
    check([target], reference, *transforms)
    grid = None if reference is None else reference_grid(reference)
    half, error = halfway_mapping(as_mapping(list(transforms)), grid)
    _write(target, half)
    return "the transform is linear, and its half exact" if error is None else str(error)


def mean_file(output: PathLike, transforms: Sequence[PathLike], *, reference: PathLike | None = None) -> None:
    """Write the mean of transforms (see :func:`itk_pdd.warp.averages.mean`)."""
    target = outputs.Output(output, "output", files.FIELD_EXTENSIONS)
    check([target], reference, *transforms)
    grid = None if reference is None else reference_grid(reference)
    _write(target, mean_mapping([as_mapping(item) for item in transforms], grid))


def _write(target: outputs.Output, mapping: Mapping) -> None:
    if isinstance(mapping, FieldMapping):
        write([(target, field_writer(mapping.displacement))])
        return
    target = outputs.Output(target.path, "output", files.TRANSFORM_EXTENSIONS)
    outputs.check_outputs([target])
    write([(target, transform_writer(mapping))])
