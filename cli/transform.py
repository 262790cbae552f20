"""pdd-transform: apply, compose and invert transforms from the command line."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import click
from itk_pdd.cli._console import COUNT, PATH, SETTINGS, VERBOSE, choice, file, option, options, running

from itk_pdd._version import __version__

TRANSFORMS = option(
    "-t",
    "--transform",
    "transforms",
    "FILE",
    "A transform from FIXED to MOVING points: .h5, .tfm, .txt or .mat of ITK or ANTs, elastix' parameters (.txt), "
    "or a displacement field image in mm. Several are given in ANTs' order (1Warp.nii.gz, then "
    "0GenericAffine.mat): a fixed point goes through the first one first. "
    "'[0GenericAffine.mat,1]' asks for the inverse of a linear one. Affines of FreeSurfer (.lta), AFNI (.aff12.1D) "
    "and MINC (.xfm) are known by their names; say ras:FILE for greedy's and c3d's, fsl:FILE,FIXED,MOVING for FLIRT's.",
    multiple=True,
    required=True,
)
OUTPUT = file("-o", "--output", "FILE", "Where the result goes.", required=True)
REFERENCE = file(
    "-r",
    "--reference",
    "IMAGE",
    "The FIXED image; only its grid counts.  [default: the grid of the displacement field]",
)
THREADS = option("--threads", "N", "CPU threads  [default: all]", type=COUNT)
FORMS = click.Choice(["field", "composite", "elastix", "niftyreg", "voxels", "ras", "fsl", "lta", "afni", "xfm"])


@click.group(context_settings=SETTINGS)
@click.version_option(__version__, prog_name="pdd-transform")
def main() -> None:
    """Apply transforms of pdd-register, ITK, ANTs and elastix to images, labels, points and meshes.

    A transform maps FIXED points to MOVING points, in physical millimetres (LPS, as in ITK). Images therefore go from
    moving to fixed space with it, and landmarks from moving to fixed space with its inverse: say with 'points --to'
    where they go. However many transforms are given, images are interpolated once. Outputs are written whole or not
    at all.

    \b
    Examples:
      pdd-transform image moving.nii.gz -t field.nii.gz -o warped.nii.gz
      pdd-transform labels seg.nii.gz -t field.nii.gz -o warped_seg.nii.gz --interpolation partial-volume
      pdd-transform points moving.fcsv -t field.nii.gz --to fixed -o in_fixed.fcsv
      pdd-transform image m.nii.gz -r f.nii.gz -t 1Warp.nii.gz -t 0GenericAffine.mat -o warped.nii.gz
      pdd-transform inverse -t field.nii.gz -r moving.nii.gz -o inverse.nii.gz

    \b
    Exit codes:
      0 done    1 an input cannot be used    2 wrong usage    3 an output cannot be written    130 interrupted
      143, 129 ended by SIGTERM, SIGHUP
    """


def _run(
    verbose: int, function: str, *arguments: Any, module: str = "transform", threads: int | None = None, **settings: Any
) -> None:
    with running(verbose):
        from itk_pdd.commands.threads import simpleitk_threads

        with simpleitk_threads(threads):
            told = getattr(importlib.import_module(f"itk_pdd.commands.{module}"), function)(*arguments, **settings)
        if told:
            click.echo(told)


@main.command(context_settings=SETTINGS)
@click.argument("moving", type=PATH)
@options(TRANSFORMS, OUTPUT, REFERENCE)
@choice(
    "--interpolation",
    ["linear", "bspline", "sinc", "nearest"],
    "bspline is cubic, sinc has a Lanczos window of 5 voxels: sharper, slower, and beyond the range beside edges.",
    default="linear",
)
@option(
    "--default",
    "VALUE",
    "Value outside MOVING.  [default: its background, such as -1000 for the air of a CT or 0 for an MR]",
    type=float,
)
@options(THREADS, VERBOSE)
def image(moving: Path, output: Path, transforms: tuple[str, ...], verbose: int, **settings: Any) -> None:
    """Resample the image MOVING onto the grid of the fixed image; scalars or vectors, pixel type kept.

    Every volume of a series (4-D) is resampled. Diffusion tensors (NIfTI intent 1005, NRRD) are turned with the tissue;
    vectors are not.
    """
    _run(verbose, "image_file", moving, output, transforms, **settings)


@main.command(context_settings=SETTINGS)
@click.argument("moving", type=PATH)
@options(TRANSFORMS, OUTPUT, REFERENCE)
@choice(
    "--interpolation",
    ["nearest", "partial-volume"],
    "partial-volume interpolates each label linearly and takes the one with the largest share: smoother borders.",
    default="nearest",
)
@options(THREADS, VERBOSE)
def labels(moving: Path, output: Path, transforms: tuple[str, ...], verbose: int, **settings: Any) -> None:
    """Resample the label image MOVING onto the grid of the fixed image; any integer type, kept; 0 outside.

    3D Slicer's segmentations (.seg.nrrd) keep the names and colours of their segments.
    """
    _run(verbose, "labels_file", moving, output, transforms, **settings)


@main.command(context_settings=SETTINGS)
@click.argument("file", type=PATH)
@options(TRANSFORMS, OUTPUT)
@choice(
    "--to",
    ["fixed", "moving"],
    "Where the points go. fixed: FILE holds points of the moving image (the inverse is applied, to 0.0001 voxel). "
    "moving: FILE holds points of the fixed image (the transform itself is applied).",
    required=True,
)
@choice(
    "--coordinates",
    "system",
    ["LPS", "RAS"],
    "Of CSV, VTK, STL, PLY and OBJ files, which need not say.  [default: what the file says, else LPS]",
)
@choice(
    "--outside",
    ["error", "nearest", "skip"],
    "Points outside the displacement field: refuse them, move them by its nearest displacement, or leave them out "
    "(.csv, .fcsv).",
    default="error",
)
@options(VERBOSE)
def points(file: Path, output: Path, transforms: tuple[str, ...], verbose: int, **settings: Any) -> None:
    """Move the points of FILE: .csv (columns x, y, z in mm), 3D Slicer's .fcsv and .mrk.json, or a surface.

    Surfaces are .vtk, .vtp, .stl, .ply, .obj, .surf.gii and FreeSurfer's. The result has the format, the coordinate
    system and all other content of FILE; normals of surfaces are computed again or dropped.
    """
    _run(verbose, "points_file", file, output, transforms, **settings)


@main.command(context_settings=SETTINGS)
@options(TRANSFORMS, OUTPUT, REFERENCE, THREADS, VERBOSE)
def jacobian(output: Path, transforms: tuple[str, ...], verbose: int, **settings: Any) -> None:
    """Write the determinant of the Jacobian per voxel of the fixed image (no unit), and print its range.

    Above 1 the moving image is larger than the fixed one; zero or less where the transform folds.
    """
    _run(verbose, "jacobian_file", output, transforms, **settings)


@main.command(context_settings=SETTINGS)
@options(TRANSFORMS, OUTPUT, REFERENCE)
@click.option(
    "--format",
    "form",
    type=FORMS,
    default="field",
    show_default=True,
    help="field: one displacement field, LPS mm (.nii.gz, .mha, .nrrd; .h5, .tfm as transform). composite: the "
    "transforms as they are in one ITK file (.h5, .tfm). elastix: a parameter file for transformix (.txt) and its "
    "field beside it, to be used in their folder. niftyreg: NiftyReg's displacement field (.nii.gz, RAS mm). voxels: a "
    "field in voxels (.nii.gz). Of linear transforms: ras (greedy, c3d; .mat), afni (.aff12.1D), xfm (MINC), and, with "
    "-r and --moving, fsl (FLIRT; .mat) and lta (FreeSurfer).",
)
@file("--moving", "IMAGE", "The MOVING image, for --format fsl and lta.")
@options(THREADS, VERBOSE)
def compose(output: Path, transforms: tuple[str, ...], verbose: int, **settings: Any) -> None:
    """Write several transforms as one, from fixed to moving points, or convert one to another format."""
    _run(verbose, "compose_file", output, transforms, **settings)


@main.command(context_settings=SETTINGS)
@options(TRANSFORMS, OUTPUT)
@file(
    "-r", "--reference", "IMAGE", "The MOVING image, on whose grid the inverse lies; not needed for linear transforms."
)
@click.option(
    "--format",
    "form",
    type=FORMS,
    help="As for compose; composite is one transform file here. For fsl and lta give -r and --fixed.  [default: field, "
    "and composite for linear transforms without -r]",
)
@file("--fixed", "IMAGE", "The FIXED image, for --format fsl and lta.")
@options(THREADS, VERBOSE)
def inverse(output: Path, transforms: tuple[str, ...], verbose: int, **settings: Any) -> None:
    """Write the inverse, from moving to fixed points, as a transform of its own, and print its error in mm.

    A displacement field on the grid of the moving image (.nii.gz, .mha, .nrrd, .h5, .tfm); for linear transforms
    without -r an affine transform (.tfm, .mat, .h5).
    """
    _run(verbose, "inverse_file", output, transforms, **settings)


@main.command(context_settings=SETTINGS)
@options(TRANSFORMS, OUTPUT, REFERENCE, THREADS, VERBOSE)
def halfway(output: Path, transforms: tuple[str, ...], verbose: int, **settings: Any) -> None:
    """Write the transform that, applied twice, is the given one, and print how exact it is.

    The half of linear transforms is exact and written as an affine transform (.tfm, .mat, .h5); with -r, and for
    fields, it is a displacement field.
    """
    _run(verbose, "halfway_file", output, transforms, module="averages", **settings)


@main.command(context_settings=SETTINGS)
@options(TRANSFORMS, OUTPUT, REFERENCE, THREADS, VERBOSE)
def mean(output: Path, transforms: tuple[str, ...], verbose: int, **settings: Any) -> None:
    """Write the mean of several transforms of one fixed image.

    Linear transforms have a log-Euclidean mean (.tfm, .mat, .h5). With -r, or with fields among them, the displacements
    are averaged on one grid.
    """
    _run(verbose, "mean_file", output, transforms, module="averages", **settings)


if __name__ == "__main__":
    main()
