"""Writes DICOM series with pydicom, every attribute as wanted, and reads them with pydicom and numpy alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from itk_pdd.io.files import read_image

CT, MR, PET = (f"1.2.840.10008.5.1.4.1.1.{n}" for n in ("2", "4", "128"))
ENHANCED_CT, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.4.1"
AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


def dataset(
    stored: np.ndarray, *, sop: str = CT, uid: str = "1.2.3.4", number: int = 1, bits: int = 0, **tags
) -> Dataset:
    """A data set of one slice (y, x) or several frames (z, y, x) of stored values; ``tags`` overrule the rest."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = sop, f"{uid}.{number}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "1.2.3", uid, "1.2.3.9"
    ds.Modality, ds.InstanceNumber = "CT", number
    ds.Rows, ds.Columns = stored.shape[-2:]
    if stored.ndim == 3:
        ds.NumberOfFrames = len(stored)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = 8 * stored.dtype.itemsize
    ds.BitsStored = bits or ds.BitsAllocated
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(stored.dtype.kind == "i")
    for keyword, value in tags.items():
        if value is None:
            if keyword in ds:
                del ds[keyword]
        else:
            setattr(ds, keyword, value)
    ds.PixelData = stored.tobytes()
    return ds


def save(ds: Dataset, path: Path, syntax: str = ExplicitVRLittleEndian) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    if syntax == RLELossless:
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.compress(RLELossless, generate_instance_uid=False)
    ds.file_meta.TransferSyntaxUID = syntax
    ds.save_as(path, enforce_file_format=True)
    return path


def geometry(axes=AXIAL, spacing=(2.0, 3.0)) -> dict:
    """Orientation and spacing (x, y) as attributes."""
    (x, y), cosines = spacing, np.ravel(axes)
    return {"ImageOrientationPatient": [f"{c:.12g}" for c in cosines], "PixelSpacing": [f"{y:g}", f"{x:g}"]}


def place(point) -> list[str]:
    return [f"{p:.9g}" for p in point]


def write_stack(folder, voxels, *, axes=AXIAL, spacing=(2.0, 3.0), step=5.0, origin=(-10.0, 4.0, 7.0), first=1, **tags):
    """A series of slices ``step`` mm apart along the normal; file names run the other way."""
    normal = np.cross(*np.array(axes))
    for i, stored in enumerate(voxels):
        number = first + i
        ds = dataset(
            np.asarray(stored), number=number, ImagePositionPatient=place(np.array(origin) + i * step * normal),
            **{**geometry(axes, spacing), **tags},
        )  # fmt: skip
        save(ds, folder / f"{9999 - number}.dcm")


def read_with_pydicom(folder: Path):
    """Modality values (z, y, x), and the points of the first and the last voxel of each slice."""
    found = []
    for path in folder.iterdir():
        ds = pydicom.dcmread(path)
        values = ds.pixel_array * float(ds.get("RescaleSlope", 1)) + float(ds.get("RescaleIntercept", 0))
        position, axes = (np.array(ds[k].value, float) for k in ("ImagePositionPatient", "ImageOrientationPatient"))
        row, column = axes[:3], axes[3:]
        y, x = map(float, ds.PixelSpacing)
        last = position + (ds.Columns - 1) * x * row + (ds.Rows - 1) * y * column
        found.append((position @ np.cross(row, column), values, position, last))
    found.sort(key=lambda entry: entry[0])
    return [np.array(part) for part in zip(*found, strict=True)][1:]


def points_of(image, indices) -> np.ndarray:
    return np.array([image.TransformContinuousIndexToPhysicalPoint([float(i) for i in index]) for index in indices])


def check_same(image, values, first, last, *, atol: float = 0.0) -> None:
    """The voxels and the points of both corners of every slice, to 1e-4 of a voxel."""
    import SimpleITK

    array = SimpleITK.GetArrayFromImage(image)
    np.testing.assert_allclose(array, values, rtol=1e-6 if atol == 0 and array.dtype.kind == "f" else 0, atol=atol)
    rows, columns = values.shape[1:]
    found = [points_of(image, [(x, y, k) for k in range(len(values))]) for x, y in ((0, 0), (columns - 1, rows - 1))]
    tolerance = 1e-4 * min(image.GetSpacing())
    assert np.abs(found[0] - first).max() < tolerance and np.abs(found[1] - last).max() < tolerance


def linear(points: np.ndarray) -> np.ndarray:
    """An intensity that is a linear function of the place, which linear resampling keeps."""
    return 3 * points[..., 0] - 2 * points[..., 1] + 5 * points[..., 2] + 1000


def write_linear(folder, positions, *, axes=AXIAL, spacing=(2.0, 2.0), size=(24, 20), scale=100.0, **tags) -> None:
    """Slices at ``positions`` whose intensity is :func:`linear` in the place of the voxel."""
    row, column = np.array(axes)
    x, y = np.meshgrid(np.arange(size[0]) * spacing[0], np.arange(size[1]) * spacing[1])
    for i, position in enumerate(np.asarray(positions, float)):
        points = position + x[..., None] * row + y[..., None] * column
        stored = np.rint((linear(points) + 1000) * scale).astype(np.uint32)
        ds = dataset(
            stored, number=i + 1, ImagePositionPatient=place(position), RescaleSlope=f"{1 / scale:g}",
            RescaleIntercept="-1000", **{**geometry(axes, spacing), **tags},
        )  # fmt: skip
        save(ds, folder / f"{i:03d}.dcm")


def check_linear(folder, *, share: float) -> object:
    """Voxels that slices cover hold the intensity of their place; at least ``share`` of all do."""
    import SimpleITK

    image = read_image(folder, name="fixed")
    array = SimpleITK.GetArrayFromImage(image)
    index = np.stack(np.meshgrid(*map(np.arange, image.GetSize()), indexing="ij"), axis=-1).reshape(-1, 3)
    direction = np.reshape(image.GetDirection(), (3, 3))
    np.testing.assert_allclose(direction.T @ direction, np.eye(3), atol=1e-9)
    points = np.array(image.GetOrigin()) + (index * np.array(image.GetSpacing())) @ direction.T
    error = np.abs(array.transpose(2, 1, 0).ravel() - linear(points))
    assert np.mean(error < 0.05) >= share
    return image
