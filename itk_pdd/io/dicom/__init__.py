"""DICOM: find the slices of a folder or file, choose the one stack that is meant, and make an image of it.

``headers`` reads slices from headers (pydicom), ``stacks`` groups and chooses, ``voxels`` decodes and assembles.
May import errors and ``io.messages``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from itk_pdd.errors import RegistrationError, warn
from itk_pdd.io.dicom.headers import Slice, is_dicom, read_slices
from itk_pdd.io.dicom.stacks import choose_stack
from itk_pdd.io.dicom.voxels import assemble

if TYPE_CHECKING:
    import SimpleITK

__all__ = ["is_dicom", "read_dicom"]

log = logging.getLogger("itk_pdd")


def read_dicom(source: Path | Iterable[Path], *, name: str) -> SimpleITK.Image:
    """Read one image from DICOM: a folder of slices, a list of files, or a single file.

    A single slice becomes a 2-D image, everything else a 3-D image; values are those after rescale slope and intercept,
    in patient coordinates (LPS, mm). Sub-folders and hidden files are ignored. Of several series in a folder the
    largest is read; of several stacks in a series (localisers, echoes, time points) the one with more slices than any
    other. Two equally large ones are an error. A warning says which slices are left out or resampled (gantry tilt,
    uneven spacing).
    """
    if isinstance(source, Path):
        where = str(source)
        files = _files_of(source, name) if source.is_dir() else [source]
    else:
        files = list(source)
        where = f"the {len(files)} files from {files[0]}" if files else "an empty list of files"
    slices = [piece for file in files for piece in read_slices(file, name=name, required=source == file)]
    if not slices:
        if isinstance(source, Path) and source.is_dir():
            folders = sorted(entry.name for entry in source.iterdir() if entry.is_dir())
            advice = f": give one of its sub-folders ({', '.join(folders[:5])})" if folders else ""
            raise RegistrationError(f"{name}: the folder {where} holds no DICOM slices{advice}")
        raise RegistrationError(f"{name}: {where} holds no DICOM image")
    stack = choose_stack(_largest_series(slices, name, where), name=name, where=where)
    image, remarks = assemble(stack, name=name, where=where)
    for remark in remarks:
        warn(f"{name}: {remark}")
    return image


def _files_of(folder: Path, name: str) -> list[Path]:
    """Return the files of a folder in order of their names, hidden ones left out."""
    try:
        return sorted(Path(entry) for entry in os.scandir(folder) if entry.is_file() and entry.name[:1] != ".")
    except OSError as error:
        raise RegistrationError(f"{name}: the folder {folder} cannot be read ({error.strerror})") from error


def _largest_series(slices: list[Slice], name: str, where: str) -> list[Slice]:
    """Return the slices of the series that has the most; refuse two equally large ones."""
    series: dict[str, list[Slice]] = {}
    for piece in slices:
        series.setdefault(piece.series, []).append(piece)
    ranked = sorted(series.items(), key=lambda item: (-len(item[1]), item[0]))
    chosen, found = ranked[0]
    if len(ranked) > 1:
        if len(ranked[1][1]) == len(found):
            equal = [f"{key} ({files[0].path.name})" for key, files in ranked if len(files) == len(found)]
            raise RegistrationError(
                f"{name}: {where} holds {len(equal)} DICOM series of {len(found)} slices each, expected one image: "
                f"move the files of one series to a folder of their own ({', '.join(equal[:4])})"
            )
        log.warning(
            "%s: the folder %s holds %d DICOM series; reading the largest, %s with %d slices",
            name, where, len(series), chosen, len(found),
        )  # fmt: skip
    return found
