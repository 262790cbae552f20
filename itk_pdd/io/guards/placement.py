"""Compare where ITK puts a NIfTI image with what its header says: a sform and a qform, which can differ.

ITK takes the sform or the qform depending on their codes, and drops a shear; nibabel, FSL, SPM and FreeSurfer take the
sform wherever it has a code. Where both say the same, all agree.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from itk_pdd.errors import RegistrationError, warn
from itk_pdd.io.guards.nifti import Head

if TYPE_CHECKING:
    import SimpleITK

__all__ = ["check_placement", "check_shear", "qform_of", "sform_of"]

_ROUNDING_VOXELS = 0.1  # at the corners; more is no rounding and is told
_ELSEWHERE_VOXELS = 0.5  # more than that puts voxels onto their neighbours
_SHEAR = 1e-3  # of the cosines between axes: ITK takes no sform beyond it where there is no qform
_MM_PER_UNIT = {1: 1000.0, 2: 1.0, 3: 0.001}
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def sform_of(head: Head) -> np.ndarray | None:
    """Give the sform (4, 4) from voxel indices to LPS millimetres; None if it has no code."""
    if not head.is_nifti or head.number("sform_code") <= 0:
        return None
    return _in_lps(np.reshape(head.numbers("srow"), (3, 4)), head)


def qform_of(head: Head) -> np.ndarray | None:
    """Give the qform (4, 4) from voxel indices to LPS millimetres; None if it has no code (NIfTI-1, method 2)."""
    if not head.is_nifti or head.number("qform_code") <= 0:
        return None
    b, c, d, *offset = head.numbers("quaternion")
    a = np.sqrt(max(0.0, 1.0 - (b * b + c * c + d * d)))
    if a < 1e-7:
        b, c, d = np.array([b, c, d]) / np.linalg.norm([b, c, d])
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    sign, *spacing = head.numbers("pixdim")[:4]
    scale = np.array(spacing) * [1, 1, -1 if sign < 0 else 1]
    return _in_lps(np.column_stack([rotation * scale, offset]), head)


def check_shear(head: Head, *, where: str) -> None:
    """Refuse an image whose only form is a sheared sform, of which ITK says that it has no directions."""
    sform = sform_of(head)
    if sform is None or qform_of(head) is not None:
        return
    lengths = np.linalg.norm(sform[:3, :3], axis=0)
    if lengths.min() == 0:
        return  # the reader will say what is wrong
    cosines = (sform[:3, :3] / lengths).T @ (sform[:3, :3] / lengths) - np.eye(3)
    if np.abs(cosines).max() > _SHEAR:
        angle = np.degrees(np.arcsin(min(1.0, np.abs(cosines).max())))
        raise RegistrationError(
            f"{where} has a sheared sform (two axes are {angle:.2g} degrees from a right angle) and no qform; an image "
            "of ITK has orthogonal axes: resample it, for instance with nibabel.processing.resample_to_output"
        )


def check_placement(image: SimpleITK.Image, head: Head, *, where: str) -> None:
    """Compare the place of an image that ITK has read with the header of its file; 2-D images are not compared.

    An image is refused if other programs put a corner of it more than half a voxel away. A warning says that sform and
    qform differ by more than a tenth of a voxel, or that there is neither.
    """
    dimension = image.GetDimension()
    if dimension < 3:
        return
    read, size = np.eye(4), np.asarray(image.GetSize()[:3])
    direction = np.reshape(image.GetDirection(), (dimension, dimension))[:3, :3]
    read[:3, :3], read[:3, 3] = direction * np.asarray(image.GetSpacing()[:3]), image.GetOrigin()[:3]
    sform, qform = sform_of(head), qform_of(head)
    stated = qform if sform is None else sform
    if stated is None:
        what = "has neither sform nor qform" if head.is_nifti else "is Analyze, which says nothing about directions"
        warn(f"{where} {what}: ITK puts its first voxel at the origin, where other programs put its centre")
        return
    voxels, mm = _apart(stated, read, read, size)
    if voxels > _ELSEWHERE_VOXELS:
        form = "qform" if sform is None else "sform"
        raise RegistrationError(
            f"{where} lies elsewhere for ITK than its {form} says, which other programs follow: the corners are up to "
            f"{voxels:.3g} voxels ({mm:.3g} mm) apart{_forms(sform, qform, read, size)}; make both forms say the same "
            "(fslorient -copysform2qform or -copyqform2sform), or resample a sheared image"
        )
    if sform is not None and qform is not None:
        voxels, mm = _apart(sform, qform, read, size)
        if voxels > _ROUNDING_VOXELS:
            warn(
                f"{where} has a sform and a qform that put its corners up to {voxels:.3g} voxels ({mm:.3g} mm) apart; "
                "ITK takes the sform here, as other programs do"
            )


def _forms(sform: np.ndarray | None, qform: np.ndarray | None, read: np.ndarray, size: np.ndarray) -> str:
    if sform is None or qform is None:
        return ""
    voxels, mm = _apart(sform, qform, read, size)
    return f", sform and qform up to {voxels:.3g} voxels ({mm:.3g} mm)"


def _apart(first: np.ndarray, second: np.ndarray, read: np.ndarray, size: np.ndarray) -> tuple[float, float]:
    """The largest distance between the corners of an image under two forms, in voxels of it and in millimetres."""
    corners = np.array([[*corner, 1.0] for corner in itertools.product(*[(0, n - 1) for n in size])])
    distances = np.linalg.norm((corners @ (first - second).T)[:, :3], axis=1)
    spacing = np.linalg.norm(read[:3, :3], axis=0)
    mm = float(distances.max())
    return mm / float(spacing.min()), mm


def _in_lps(rows: np.ndarray, head: Head) -> np.ndarray:
    form = np.eye(4)
    form[:3] = np.asarray(rows, dtype=float) * _MM_PER_UNIT.get(int(head.number("xyzt_units")) & 7, 1.0)
    return _LPS @ form
