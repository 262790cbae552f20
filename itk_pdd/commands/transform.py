"""Apply transforms from files to files, without itk; all outputs are written or none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from itk_pdd.commands.writing import COMPOSITE_EXTENSIONS, check, elastix_field, write
from itk_pdd.errors import RegistrationError, counted
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.mapping import AffineMapping, FieldMapping, Mapping, check_reach
from itk_pdd.io import files, outputs
from itk_pdd.io.fields import field_writer, niftyreg_writer, voxel_writer
from itk_pdd.io.formats import niftyreg
from itk_pdd.io.formats import tensors as tensor_files
from itk_pdd.io.formats.affines import AFFINE_FORMATS, affine_writer
from itk_pdd.io.formats.elastix import parameter_writer
from itk_pdd.io.formats.segmentation import labels_writer
from itk_pdd.io.images import reference_grid, simpleitk_image
from itk_pdd.io.points import POINT_EXTENSIONS, is_freesurfer, read_points
from itk_pdd.io.transforms import as_mapping, transform_writer
from itk_pdd.warp.composition import inverse_field, simplest
from itk_pdd.warp.fit import grid_for
from itk_pdd.warp.images import warp_image
from itk_pdd.warp.jacobian import determinants
from itk_pdd.warp.labels import warp_labels
from itk_pdd.warp.points import warp_points
from itk_pdd.warp.tensors import warp_tensors

__all__ = [
    "FORMATS",
    "compose_file",
    "image_file",
    "inverse_file",
    "jacobian_file",
    "labels_file",
    "points_file",
]

PathLike = str | os.PathLike[str]

FORMATS = ("field", "composite", "elastix", "niftyreg", "voxels", *AFFINE_FORMATS)
"""Forms in which a composition can be written."""


def image_file(
    image: PathLike,
    output: PathLike,
    transforms: Sequence[PathLike],
    *,
    reference: PathLike | None = None,
    interpolation: str = "linear",
    default: float | None = None,
) -> None:
    """Warp an image, series or tensor file; see :func:`itk_pdd.warp_image` and :func:`warp_tensors`."""
    tensors = tensor_files.holds_tensors(image)
    target = outputs.Output(output, "output", tensor_files.EXTENSIONS if tensors else files.IMAGE_EXTENSIONS)
    check([target], image, reference, *transforms)
    if tensors:
        given = tensor_files.read_tensors(image)
        turned = warp_tensors(given, list(transforms), reference=reference, interpolation=interpolation)
        write([(target, tensor_files.tensor_writer(turned))])
        return
    warped = warp_image(
        files.read_image(image), list(transforms), reference=reference, interpolation=interpolation,
        default=default,
    )  # fmt: skip
    write([(target, partial(files.write_image, warped))])


def labels_file(
    labels: PathLike,
    output: PathLike,
    transforms: Sequence[PathLike],
    *,
    reference: PathLike | None = None,
    interpolation: str = "nearest",
) -> None:
    """Warp a label image file; the parameters are those of :func:`itk_pdd.warp_labels`."""
    target = outputs.Output(output, "output", files.IMAGE_EXTENSIONS)
    check([target], labels, reference, *transforms)
    given = files.read_image(labels, name="labels")
    warped = warp_labels(given, list(transforms), reference=reference, interpolation=interpolation)
    write([(target, labels_writer(warped, output))])


def points_file(
    points: PathLike,
    output: PathLike,
    transforms: Sequence[PathLike],
    *,
    to: str,
    system: str | None = None,
    outside: str = "error",
) -> str:
    """Move the points of a file (see :func:`itk_pdd.warp_points`) and write it again in its own format and system.

    Returns one line about what was done.
    """
    kind = Path(points).suffix.lower()
    if is_freesurfer(points):
        kind = outputs.extension(output)  # its names end as they like
    elif kind not in POINT_EXTENSIONS:
        kind = ""
    target = outputs.Output(output, "output", (kind,) if kind else POINT_EXTENSIONS)
    check([target], points, *transforms)
    mapping = as_mapping(list(transforms))
    source = read_points(points, dimension=mapping.dimension, system=system)
    moved = warp_points(source.points, mapping, to=to, outside=outside)
    skipped = np.isnan(moved).any(axis=1)
    if skipped.all():
        raise RegistrationError(f"all {len(moved)} points lie outside the field of the transform: check the direction")
    if skipped.any() and kind not in (".csv", ".fcsv"):
        raise RegistrationError(
            f"{int(skipped.sum())} of {len(moved)} points lie outside the field, and a {kind or 'FreeSurfer'} file "
            "needs all of them: ask for the nearest displacement (outside='nearest')"
        )
    content = source.rewrite(moved)
    write([(target, partial(outputs.write_bytes, content=content))])
    distance = np.linalg.norm(moved - source.points, axis=-1)[~skipped]
    left = f"; {int(skipped.sum())} outside the field are left out" if skipped.any() else ""
    origin = {"fixed": "moving", "moving": "fixed"}[to]
    says = "as the file says" if source.stated else "assumed" if system is None else "as you said"
    return (
        f"{counted(len(distance), 'point')} of the {origin} image moved to the {to} image, by {distance.mean():.3g} mm "
        f"on average and {distance.max():.3g} mm at most; coordinates in {source.system} mm ({says}){left}"
    )


def jacobian_file(output: PathLike, transforms: Sequence[PathLike], *, reference: PathLike | None = None) -> str:
    """Write the Jacobian determinant (see :func:`itk_pdd.jacobian_determinant`); returns its range and the folding."""
    target = outputs.Output(output, "output", files.IMAGE_EXTENSIONS)
    check([target], reference, *transforms)
    determinant, grid, inside = determinants(as_mapping(list(transforms)), reference)
    write([(target, partial(files.write_image, simpleitk_image(determinant, grid)))])
    folded = float((determinant <= 0).mean())
    beyond = (
        f"; {100 * (1 - inside):.3g} % of them lie outside the field, which moves nothing there" if inside < 1 else ""
    )
    return (
        f"Jacobian determinant: from {determinant.min():.4g} to {determinant.max():.4g}, mean "
        f"{determinant.mean(dtype=float):.4g}; folded (not positive) in {100 * folded:.4g} % of the voxels{beyond}"
    )


def compose_file(
    output: PathLike,
    transforms: Sequence[PathLike],
    *,
    reference: PathLike | None = None,
    moving: PathLike | None = None,
    form: str = "field",
) -> None:
    """Write several transforms as one (or one in another format).

    ``form`` "field" is one displacement field in LPS millimetres, without a reference on the grid of the first field;
    "composite" ITK's composite of the single transforms, nothing sampled (an affine transform if all are linear);
    "elastix" a parameter file with its field beside it; "niftyreg" NiftyReg's displacement field; "voxels" a field in
    voxels. The others are, of linear transforms, a matrix of another program (see
    :func:`itk_pdd.io.formats.affines.read_affine`); those of FSL and FreeSurfer need the moving image beside the
    reference.
    """
    targets = _targets(output, form)
    check(targets, reference, moving, *transforms)
    mapping = as_mapping(list(transforms))
    if form in AFFINE_FORMATS:
        _write_affine(mapping, form, targets, reference, moving)
    elif form == "composite":
        if reference is not None:
            raise RegistrationError("a composite keeps the transforms as they are: leave the reference out")
        _write_composite(simplest(mapping), targets)
    else:
        grid = grid_for(mapping, reference)
        check_reach(mapping, grid)
        _write_field(mapping.field(grid), form, targets)


def inverse_file(
    output: PathLike,
    transforms: Sequence[PathLike],
    *,
    reference: PathLike | None = None,
    fixed: PathLike | None = None,
    form: str | None = None,
) -> str:
    """Write the inverse, from moving to fixed points (see :func:`itk_pdd.invert`); returns how exact it is.

    The reference is the moving image. ``form`` is as for :func:`compose_file`; by default a field, and the affine
    transform of linear transforms without a reference. The formats of FSL and FreeSurfer need the fixed image beside
    the reference.
    """
    targets = _targets(output, form or "field")
    check(targets, reference, fixed, *transforms)
    mapping = as_mapping(list(transforms))
    if form is None:
        form = "field" if reference is not None or mapping.matrix is None else "composite"
    if mapping.matrix is not None and form in ("composite", *AFFINE_FORMATS):
        back, targets = AffineMapping(np.linalg.inv(mapping.matrix)), _targets(output, form)
        if form == "composite":
            _write_composite(back, targets)
        else:
            _write_affine(back, form, targets, reference, fixed)
        return "the transform is linear, and its inverse exact"
    if form in AFFINE_FORMATS:
        _write_affine(mapping, form, targets, reference, fixed)
    if reference is None:
        raise RegistrationError("there is no reference: give the moving image, on whose grid the inverse lies")
    field, error = inverse_field(mapping, reference_grid(reference))
    if form == "composite":
        _write_composite(FieldMapping(field), targets)
    else:
        _write_field(field, form, targets)
    return str(error)


def _targets(output: PathLike, form: str) -> list[outputs.Output]:
    """Describe the files of a form: one, or the parameters of elastix and their field."""
    if form not in FORMATS:
        raise RegistrationError(f"form is {form!r}, expected one of {', '.join(FORMATS)}")
    extensions = {"field": files.FIELD_EXTENSIONS, "elastix": (".txt",), **AFFINE_FORMATS}
    extensions |= dict.fromkeys(("niftyreg", "voxels"), niftyreg.EXTENSIONS)
    target = outputs.Output(output, "output", extensions.get(form, files.TRANSFORM_EXTENSIONS))
    return [target, elastix_field(output, "output")] if form == "elastix" else [target]


def _write_affine(
    mapping: Mapping, form: str, targets: Sequence[outputs.Output], reference: PathLike | None, other: PathLike | None
) -> None:
    """Write a linear mapping, from points of the reference to points of the other image, for another program."""
    if mapping.matrix is None:
        raise RegistrationError(f"transform is not linear, and the format {form} holds a matrix alone")
    grids = [None if image is None else reference_grid(image) for image in (reference, other)]
    write([(targets[0], affine_writer(mapping.matrix, form, *grids, name="transform"))])


def _write_composite(mapping: Mapping, targets: Sequence[outputs.Output]) -> None:
    allowed = COMPOSITE_EXTENSIONS if mapping.matrix is None else files.TRANSFORM_EXTENSIONS
    outputs.check_outputs([outputs.Output(targets[0].path, "output", allowed)])
    write([(targets[0], transform_writer(mapping))])


def _write_field(field: DisplacementField, form: str, targets: Sequence[outputs.Output]) -> None:
    if form == "elastix":
        text, beside = targets
        write([(text, parameter_writer(beside.path, field.grid)), (beside, field_writer(field))])
    else:
        writers = {"niftyreg": niftyreg_writer, "voxels": voxel_writer, "field": field_writer}
        write([(targets[0], writers[form](field))])
