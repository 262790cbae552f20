"""Files that ITK's NIfTI reader mixes up because they differ in their endings only.

For ``a.nii.gz`` the reader takes the header from that file and then looks for the voxels, first of all in ``a.nii``;
for ``a.img`` it may take the header of ``a.nii``. It is given a folder with the files of one image alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from itk_pdd.errors import RegistrationError
from itk_pdd.io.guards.nifti import ENDINGS, header_file, nifti_ending, voxel_file

__all__ = ["alone"]


@contextlib.contextmanager
def alone(path: Path, *, name: str) -> Iterator[Path]:
    """Give a path under which ITK reads this file and no other.

    It is the path itself where nothing can be mixed up, else a link in a temporary folder. Half of a pair of ``.hdr``
    and ``.img`` is refused.
    """
    ending = nifti_ending(path)
    own = {header_file(path), voxel_file(path)}
    for file in own:
        if not file.exists():
            raise RegistrationError(f"{name}: {path} is half of an image, there is no {file} beside it: copy both")
    stem = path.name[: len(path.name) - len(ending)]
    others = {path.with_name(stem + e) for each in ENDINGS for e in (each, each.upper())} - own if ending else set()
    if not any(other.exists() for other in others):
        yield path
        return
    with contextlib.ExitStack() as stack:
        try:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            for file in own:
                _link(file.resolve(), folder / f"image{nifti_ending(file).lower()}")
        except OSError as error:
            raise RegistrationError(
                f"{name}: {path} has a neighbour whose name differs in its ending only, and ITK would mix them up: "
                "rename one of them"
            ) from error
        yield folder / f"image{ending.lower()}"


def _link(source: Path, target: Path) -> None:
    """Give a file a second name; copy it where the system knows no links."""
    for link in (os.symlink, os.link, shutil.copyfile):
        try:
            link(source, target)
            return
        except (OSError, NotImplementedError):
            if link is shutil.copyfile:
                raise
