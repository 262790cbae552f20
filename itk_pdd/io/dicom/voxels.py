"""Decode the voxels of DICOM slices, and assemble a stack of them to an image on an orthogonal grid."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.io.dicom.headers import Slice, pydicom_quiet
from itk_pdd.io.messages import READ_ERRORS, itk_reason, library_messages

if TYPE_CHECKING:
    import SimpleITK

__all__ = ["assemble", "decode"]

_EVEN_VOXELS = 0.05  # slices that lie this close to an even, orthogonal stack are taken as they are
_MAX_TILT_DEGREES = 60.0
_MAX_FILLED = 10  # times as many slices after filling gaps as before
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_PIXEL_MODULE = (
    "SamplesPerPixel", "PlanarConfiguration", "Rows", "Columns", "NumberOfFrames", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "PixelData",
)  # fmt: skip


def assemble(stack: Sequence[Slice], *, name: str, where: str) -> tuple[SimpleITK.Image, list[str]]:
    """Make an image of the slices of a stack, sorted by position, and a remark on each thing that a user should know.

    Slices that are not stacked along their normal (gantry tilt), or not evenly, are resampled linearly: each is shifted
    within its plane, and gaps are filled from the slices on both sides. Outside of the slices the smallest value of the
    image is used.
    """
    first, remarks = stack[0], []
    axes = np.eye(2, 3) if first.axes is None else first.axes
    if np.abs(axes @ axes.T - np.eye(2)).max() > 1e-2:
        raise RegistrationError(
            f"{name}: the direction cosines in {where} are not perpendicular unit vectors ({axes.tolist()}): "
            "repair the headers"
        )
    if not first.known_spacing:
        remarks.append(f"{where} has no pixel spacing, 1 mm is assumed")
    array = _decoded(stack, name)
    if len(stack) == 1:
        return _plane(array[0], first, axes), remarks
    if first.position is None or any(piece.position is None for piece in stack):
        step = first.thickness or 1.0
        remarks.append(f"the slices in {where} have no positions: stacked by number, {step:g} mm apart")
        origin = np.zeros(3)
    else:
        positions = np.array([piece.position for piece in stack])
        array, origin, step = _straightened(array, positions, first, axes, remarks, where, name)
    direction = np.column_stack([*axes, first.normal])
    return _image(array, (*first.spacing, step), origin, direction), remarks


def decode(piece: Slice, name: str) -> np.ndarray:
    """Return the modality values of one slice, axes y, x (and channels of colour)."""
    return _decoded([piece], name)[0]


def _decoded(stack: Sequence[Slice], name: str) -> np.ndarray:
    """Decode slices, each with its own slope and intercept, in a type that holds them all."""
    array: np.ndarray | None = None
    opened: tuple[Path | None, np.ndarray] = None, np.empty(0)
    for i, piece in enumerate(stack):
        if opened[0] != piece.path:
            opened = piece.path, _frames(piece, name)
        values = opened[1][piece.frame]
        if not piece.plain:
            values = _rescaled(values, piece.slope, piece.intercept)
        if array is None:
            array = np.empty((len(stack), *values.shape), values.dtype)
        elif array.shape[1:] != values.shape:
            raise RegistrationError(f"{name}: {piece.path} is of another size than its header says: make it again")
        kind = np.result_type(array, values)
        array = array.astype(kind, copy=False)
        array[i] = values
    assert array is not None
    return array


def _rescaled(values: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Apply slope and intercept; whole numbers stay integers."""
    if (slope, intercept) == (1, 0):
        return values
    if values.dtype.kind in "iu" and float(slope).is_integer() and float(intercept).is_integer():
        ends = [int(v) * int(slope) + int(intercept) for v in (values.min(), values.max())]
        kind = np.result_type(np.min_scalar_type(min(ends)), np.min_scalar_type(max(ends)), np.int16)
        if kind.kind in "iu" and kind.itemsize <= 4:
            return (values.astype(np.int64) * int(slope) + int(intercept)).astype(kind)
    return values * np.float64(slope) + intercept


def _frames(piece: Slice, name: str) -> np.ndarray:
    """Decode a file, axes frame, y, x (and channels of colour): rescaled values if it is plain, else stored values."""
    import SimpleITK

    try:
        with library_messages():
            if not piece.plain:
                return _stored(piece)
            image = SimpleITK.ReadImage(str(piece.path))
            array = SimpleITK.GetArrayFromImage(image)
            return array if image.GetDimension() == 3 else array[None]
    except READ_ERRORS as error:
        raise RegistrationError(f"{name}: {piece.path} cannot be read ({_flaw(piece, error)})") from error


def _stored(piece: Slice) -> np.ndarray:
    """Return the stored values of all frames, without any slope that ITK's reader would take from the first frame."""
    import SimpleITK

    try:
        with pydicom_quiet() as pydicom:
            header = pydicom.dcmread(piece.path, force=True)
            syntax = header.file_meta.get("TransferSyntaxUID")
            if syntax is None or not syntax.is_encapsulated:
                array = header.pixel_array
                return array if piece.frames > 1 else array[None]
            # GDCM has more decoders: it gets a copy that holds pixels alone.
            bare = pydicom.Dataset()
            for keyword in _PIXEL_MODULE:
                if keyword in header:
                    bare[keyword] = header[keyword]
            colour = header.get("SamplesPerPixel", 1) > 1
            bare.PhotometricInterpretation = header.PhotometricInterpretation if colour else "MONOCHROME2"
            bare.SOPClassUID, bare.SOPInstanceUID = _SECONDARY_CAPTURE, pydicom.uid.generate_uid()
            bare.file_meta = pydicom.dataset.FileMetaDataset()
            bare.file_meta.TransferSyntaxUID = syntax
            with tempfile.TemporaryDirectory() as folder:
                copy = Path(folder) / "pixels.dcm"
                bare.save_as(copy, enforce_file_format=True)
                array = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(copy)))
    except (RegistrationError, *READ_ERRORS):
        raise
    except Exception as error:  # pydicom raises nearly anything about damaged pixels
        raise RuntimeError(str(error)) from error
    return array.reshape(piece.frames, *array.shape[-2 - colour :])


def _flaw(piece: Slice, error: BaseException) -> str:
    """Say why a file cannot be decoded: cut short, compressed in a way that is not known, or what the library says."""
    try:
        with pydicom_quiet() as pydicom:
            header = pydicom.dcmread(piece.path, force=True)
        syntax = header.file_meta.get("TransferSyntaxUID")
        if syntax is not None and syntax.is_encapsulated:
            return f"its pixels, compressed as {syntax.name}, cannot be decoded: copy it again, or decompress it first"
        needed = piece.frames * math.prod(piece.size) * header.get("SamplesPerPixel", 1) * header.BitsAllocated // 8
        if 0 < (missing := needed - len(header.PixelData)):
            return f"it was cut short, it lacks {missing} bytes: copy it again"
    except Exception:  # pydicom raises nearly anything about a damaged file
        return "it is damaged: copy it again"
    return itk_reason(error)


def _plane(array: np.ndarray, piece: Slice, axes: np.ndarray) -> SimpleITK.Image:
    """Make a 2-D image: of an axial slice in the patient's x and y, of another in mm along its rows and columns."""
    position = np.zeros(3) if piece.position is None else piece.position
    if abs(piece.normal[2]) > 1 - 1e-6:
        return _image(array, piece.spacing, position[:2], axes[:, :2].T)
    return _image(array, piece.spacing, axes @ position, np.eye(2))


def _image(array: np.ndarray, spacing: Sequence[float], origin: np.ndarray, direction: np.ndarray) -> SimpleITK.Image:
    import SimpleITK

    image = SimpleITK.GetImageFromArray(array, isVector=array.ndim > len(spacing))
    image.SetSpacing([float(s) for s in spacing])
    image.SetOrigin([float(o) for o in origin])
    image.SetDirection(np.asarray(direction, dtype=float).ravel().tolist())
    return image


def _straightened(
    array: np.ndarray, positions: np.ndarray, first: Slice, axes: np.ndarray, remarks: list[str], where: str, name: str
) -> tuple[np.ndarray, np.ndarray, float]:
    """Resample slices (slices, y, x), first voxels at ``positions`` (slices, 3), onto an even, orthogonal stack.

    Returns the voxels (z, y, x), the place of the first one (x, y, z in mm), and the mm from slice to slice.
    """
    count, columns_rows = len(positions), np.asarray(first.spacing)
    along = (positions - positions[0]) @ first.normal
    aside = (positions - positions[0]) @ axes.T / columns_rows  # shift within the plane in voxels, x and y
    mean = float(along[-1]) / (count - 1)
    even = np.abs(along / mean - np.arange(count)).max() <= _EVEN_VOXELS
    upright = np.abs(aside).max() <= _EVEN_VOXELS
    if even and upright:
        return array, positions[0], mean
    if array.ndim > 3:
        raise RegistrationError(f"{name}: the colour slices in {where} are not evenly stacked: convert them first")
    kind, fill = array.dtype, float(array.min())
    origin = positions[0]
    if not upright:
        leaning = positions[-1] - positions[0]
        tilt = math.degrees(math.atan2(np.linalg.norm(axes @ leaning), first.normal @ leaning))
        if tilt > _MAX_TILT_DEGREES:
            raise RegistrationError(
                f"{name}: the slices in {where} are stacked at {tilt:.0f} degrees to their normal, expected at most "
                f"{_MAX_TILT_DEGREES:.0f}: convert the series to NIfTI with a tool that knows it"
            )
        remarks.append(
            f"the slices in {where} are not stacked along their normal but at {tilt:.1f} degrees to it (gantry tilt): "
            "resampled onto an orthogonal grid"
        )
        low = np.floor(aside.min(axis=0) + 1e-6)
        room = np.ceil(aside.max(axis=0) - 1e-6) - low
        if (room > _MAX_FILLED * np.array(first.size)).any():
            raise RegistrationError(
                f"{name}: the slices in {where} lie up to {room.max():.3g} voxels aside, expected a stack: "
                "remove those that belong to another image"
            )
        room = room.astype(int)
        array = np.stack([_shifted(plane, shift - low, room, fill) for plane, shift in zip(array, aside, strict=True)])
        origin = origin + (low * columns_rows) @ axes
    step = mean
    if not even:
        gap = float(np.median(np.diff(along)))
        wanted = round(along[-1] / gap) + 1
        if wanted > _MAX_FILLED * count:
            raise RegistrationError(
                f"{name}: the slices in {where} lie {np.diff(along).min():.3g} to {np.diff(along).max():.3g} mm apart, "
                "expected even steps: remove those that belong to another image"
            )
        step = float(along[-1]) / (wanted - 1)
        widest = int(np.argmax(np.diff(along)))
        remarks.append(
            f"the slices in {where} are not evenly spaced (a slice may be missing), the widest gap is "
            f"{np.diff(along)[widest]:.3g} mm after slice {widest + 1}: resampled to slices {step:.3g} mm apart"
        )
        array = _between(array, along, step * np.arange(wanted))
    return (np.rint(array) if kind.kind in "iu" else array).astype(kind, copy=False), origin, step


def _shifted(plane: np.ndarray, shift: np.ndarray, room: np.ndarray, fill: float) -> np.ndarray:
    """Shift a slice by voxels (x, y; 0 or more) on a canvas that is larger by ``room`` (x, y)."""
    canvas = np.pad(plane.astype(np.result_type(plane, np.float32)), [(0, room[1]), (0, room[0])], constant_values=fill)
    from scipy import ndimage  # heavy, and few series are sheared

    return ndimage.shift(canvas, shift[::-1], order=1, mode="constant", cval=fill)


def _between(array: np.ndarray, along: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Interpolate slices at ``along`` linearly at the places ``wanted``."""
    upper = np.clip(np.searchsorted(along, wanted), 1, len(along) - 1)
    share = np.clip((wanted - along[upper - 1]) / (along[upper] - along[upper - 1]), 0, 1)
    return np.stack([array[u - 1] * float(1 - s) + array[u] * float(s) for u, s in zip(upper, share, strict=True)])
