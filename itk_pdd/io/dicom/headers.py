"""Read from its header the slices that a DICOM file holds: one, or one per frame of a multi-frame file."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from itk_pdd.errors import RegistrationError

if TYPE_CHECKING:
    import pydicom

__all__ = ["DISTINGUISHING", "Slice", "is_dicom", "pydicom_quiet", "read_slices"]

DISTINGUISHING = (
    "EchoTime", "EffectiveEchoTime", "EchoNumbers", "TemporalPositionIdentifier", "TemporalPositionIndex",
    "TemporalPositionTimeOffset", "AcquisitionNumber", "FrameAcquisitionNumber", "DiffusionBValue",
    "DiffusionGradientOrientation", "ImageType", "FrameType", "ComplexImageComponent", "StackID", "TriggerTime",
    "NominalCardiacTriggerDelayTime", "NominalPercentageOfCardiacPhase", "InversionTime", "FlipAngle", "SequenceName",
    "SeriesDescription", "ConvolutionKernel", "FrameReferenceTime", "AcquisitionDateTime", "AcquisitionTime",
    "FrameAcquisitionDateTime", "ContentTime", "SeriesTime",
)  # fmt: skip
"""Attributes that tell apart the stacks of one series, in the order in which they are tried."""
_DEFER_BYTES = 1 << 14  # longer values, the pixels above all, stay in the file
_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
# Stored values of these are quantities: MONOCHROME1 only tells how to show them. ITK turns radiographs bright on dark.
_QUANTITATIVE = ("CT", "MR", "PT", "NM", "RTDOSE")
_quiet_lock = threading.RLock()
_READ = frozenset((
    *DISTINGUISHING, *_SPACINGS, "SeriesInstanceUID", "ImageOrientationPatient", "ImagePositionPatient",
    "InstanceNumber", "SpacingBetweenSlices", "SliceThickness", "RescaleSlope", "RescaleIntercept", "DoseGridScaling",
    "Modality", "PhotometricInterpretation",
))  # fmt: skip


@dataclass(frozen=True)
class Slice:
    """One slice: where it is stored, where it lies, and what its stored values mean."""

    path: Path
    series: str  # the series instance UID
    # which of how many frames of the file
    frame: int
    frames: int
    size: tuple[int, int]  # columns and rows
    spacing: tuple[float, float]  # mm between columns and between rows
    axes: np.ndarray | None  # unit vectors along a row and along a column, x, y, z. None if the header has none.
    position: np.ndarray | None  # centre of the first voxel, x, y, z in mm. None if the header has none.
    number: int  # instance number, or the frame's index
    thickness: float | None  # mm from slice to slice as the header says, for slices without positions
    # of the modality values
    slope: float
    intercept: float
    modality: str  # for instance "CT"
    # whether ITK's reader gives the modality values: of one frame, in a file with a preamble, and not where it would
    # invert quantities that are only shown inverted (MONOCHROME1)
    plain: bool
    known_spacing: bool  # whether the header has a pixel spacing
    # the attributes of ``DISTINGUISHING`` that the header has, as text
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def normal(self) -> np.ndarray:
        """Unit vector perpendicular to the slice; z without orientation."""
        if self.axes is None:
            return np.array([0.0, 0.0, 1.0])
        normal = np.cross(*self.axes)
        return normal / np.linalg.norm(normal)


def is_dicom(path: Path) -> bool:
    """Tell from the first bytes whether a file is DICOM (with its preamble, or beginning with a header group)."""
    head = _head(path)
    # Old files without a preamble begin with group 2 or 8, and the value representation or a short length.
    bare = head[:2] in (b"\x02\0", b"\x08\0") and head[3:4] == b"\0" and (head[4:6].isalpha() or head[5:8] == b"\0\0\0")
    return head[128:] == b"DICM" or bare


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(132)
    except OSError:
        return b""


@contextlib.contextmanager
def pydicom_quiet() -> Iterator[ModuleType]:
    """Yield the module pydicom, without its warnings about values that break the standard and are read all the same."""
    import pydicom

    with _quiet_lock, warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        yield pydicom


def read_slices(path: Path, *, name: str, required: bool) -> list[Slice]:
    """Read the slices of one file; none if it is not DICOM, or holds no image and none is ``required``.

    Damaged headers are refused, and files of a kind that is not read (mosaics, segmentation objects, films).
    """
    if not is_dicom(path):
        return []
    try:
        with pydicom_quiet() as pydicom:
            header = pydicom.dcmread(path, defer_size=_DEFER_BYTES, force=True)
            if "Rows" in header and "Columns" in header and "BitsAllocated" in header:
                return _slices_of(header, path, name)
            modality = header.get("Modality") or "an index or a report"
    except RegistrationError:
        raise
    except Exception as error:  # pydicom raises nearly anything about a damaged header
        raise RegistrationError(f"{name}: the DICOM header of {path} is damaged ({type(error).__name__})") from error
    if required:
        raise RegistrationError(f"{name}: {path} holds no image ({modality}), expected a DICOM image")
    return []


def _slices_of(header: pydicom.Dataset, path: Path, name: str) -> list[Slice]:
    kind = [str(word) for word in _words(header.get("ImageType"))]
    if "MOSAIC" in kind:
        raise RegistrationError(
            f"{name}: {path} is a mosaic, several slices tiled in one image: convert it to NIfTI first (dcm2niix does)"
        )
    if header.get("Modality") == "SEG":
        raise RegistrationError(
            f"{name}: {path} is a DICOM segmentation object: convert it to a label map first (NIfTI or NRRD)"
        )
    frames = int(_number(header, "NumberOfFrames") or 1)
    size = int(header.Columns), int(header.Rows)
    if not 1 <= frames <= path.stat().st_size or min(size) < 1:
        raise RegistrationError(f"{name}: {path} is {size[0]} x {size[1]} pixels in {frames} frames: make it again")
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
    if per_frame and len(per_frame) != frames:
        raise RegistrationError(f"{name}: {path} describes {len(per_frame)} of its {frames} frames: make it again")
    shared = _flat((header.get("SharedFunctionalGroupsSequence") or [{}])[0])
    detector = _attributes((header.get("DetectorInformationSequence") or [{}])[0])  # nuclear medicine
    common = ChainMap(shared, detector, _attributes(header))
    found = []
    for frame in range(frames):
        own = _flat(per_frame[frame]) if per_frame else {}
        found.append(_slice(common.new_child(own), path, frame, frames, size))
    return found if frames == 1 or per_frame else _offset_frames(found, header, path, name)


def _attributes(dataset: Any) -> dict[str, Any]:
    """Return the attributes of a dataset that are read here, by keyword."""
    return {keyword: dataset.get(keyword) for keyword in _READ if keyword in dataset}


def _flat(groups: Any) -> dict[str, Any]:
    """Return the attributes in the functional groups of a frame (each a sequence of one item) as one dictionary."""
    flat: dict[str, Any] = {}
    for group in groups:
        if group.VR == "SQ" and group.value:
            flat.update(_attributes(group.value[0]))
    return flat


def _slice(tags: Mapping[str, Any], path: Path, frame: int, frames: int, size: tuple[int, int]) -> Slice:
    axes, modality = _numbers(tags, "ImageOrientationPatient", 6), str(tags.get("Modality") or "")
    inverted = tags.get("PhotometricInterpretation") == "MONOCHROME1" and modality in _QUANTITATIVE
    spacing = next((s for keyword in _SPACINGS if (s := _numbers(tags, keyword, 2)) is not None and s.all()), None)
    rows, columns = (1.0, 1.0) if spacing is None else map(float, np.abs(spacing))
    scaling, slope = _number(tags, "DoseGridScaling"), _number(tags, "RescaleSlope")
    thickness = _number(tags, "SpacingBetweenSlices") or _number(tags, "SliceThickness")
    return Slice(
        path=path,
        series=str(tags.get("SeriesInstanceUID") or ""),
        frame=frame,
        frames=frames,
        size=size,
        spacing=(columns, rows),
        axes=None if axes is None or not axes.any() else axes.reshape(2, 3),
        position=_numbers(tags, "ImagePositionPatient", 3),
        number=frame if frames > 1 else int(_number(tags, "InstanceNumber") or 0),
        thickness=abs(thickness) if thickness else None,
        slope=scaling or slope or 1.0,
        intercept=_number(tags, "RescaleIntercept") or 0.0,
        modality=modality,
        plain=frames == 1 and _head(path)[128:] == b"DICM" and not inverted,
        known_spacing=spacing is not None,
        tags={key: "\\".join(map(str, _words(tags[key]))) for key in DISTINGUISHING if tags.get(key) not in (None, "")},
    )


def _offset_frames(slices: list[Slice], header: pydicom.Dataset, path: Path, name: str) -> list[Slice]:
    """Place the frames of a file that has one position: dose grids and nuclear medicine; refuse films."""
    offsets = _numbers(header, "GridFrameOffsetVector", len(slices))
    if offsets is None:
        if any(keyword in header for keyword in ("FrameTime", "FrameTimeVector", "CineRate")):
            raise RegistrationError(
                f"{name}: {path} is a film of {len(slices)} frames, expected one image: extract the frame to register"
            )
        step = _number(header, "SpacingBetweenSlices") or _number(header, "SliceThickness")
        if slices[0].position is None or not step:
            return [replace(piece, position=None) for piece in slices]
        offsets = step * np.arange(len(slices))
    if slices[0].position is None:
        return slices
    return [
        replace(piece, position=piece.position + (offset - offsets[0]) * piece.normal)
        for piece, offset in zip(slices, offsets, strict=True)
    ]


def _words(value: Any) -> Sequence[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)


def _numbers(tags: Any, keyword: str, count: int) -> np.ndarray | None:
    """Return ``count`` finite numbers of an attribute, or None."""
    try:
        values = np.array([float(value) for value in _words(tags.get(keyword))])
    except (TypeError, ValueError):
        return None
    return values if values.size == count and np.isfinite(values).all() else None


def _number(tags: Any, keyword: str) -> float | None:
    values = _numbers(tags, keyword, 1)
    return None if values is None else float(values[0])
