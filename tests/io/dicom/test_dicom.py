"""DICOM series are read as pydicom and numpy read them, the one stack that is meant, or refused with advice."""

from __future__ import annotations

import itertools
import shutil

import numpy as np
import pydicom
import pytest
import series
import SimpleITK
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless
from series import (
    check_linear,
    check_same,
    dataset,
    geometry,
    place,
    read_with_pydicom,
    save,
    write_linear,
    write_stack,
)

from itk_pdd.errors import RegistrationError, RegistrationWarning
from itk_pdd.io.files import read_image


def rotation(degrees: float, axis: int = 0) -> np.ndarray:
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.roll(np.array([[1, 0, 0], [0, c, -s], [0, s, c]]), (axis, axis), (0, 1))


def voxels(shape=(6, 9, 11), dtype=np.int16, low=0, high=3000) -> np.ndarray:
    return np.random.default_rng(3).integers(low, high, shape).astype(dtype)


ORIENTATIONS = {
    "axial": series.AXIAL,
    "coronal": ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0)),
    "sagittal": ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0)),
    "feet first": ((1.0, 0.0, 0.0), (0.0, -1.0, 0.0)),
    "oblique": tuple(map(tuple, (rotation(20) @ rotation(-35, 2)).T[:2])),
}
PIXELS = {
    "uint8": (np.uint8, 0, 255, 0), "int16": (np.int16, -3000, 3000, 0), "uint16": (np.uint16, 0, 65000, 0),
    "12 bits": (np.uint16, 0, 4095, 12), "12 bits signed": (np.int16, -2048, 2047, 12),
}  # fmt: skip
SCALES = {
    "none": lambda i: {},
    "CT": lambda i: {"RescaleSlope": "1", "RescaleIntercept": "-1024"},
    "PET": lambda i: {"RescaleSlope": f"{0.0123 * (i + 1):.6g}", "RescaleIntercept": "0"},
    "intercepts": lambda i: {"RescaleSlope": "2", "RescaleIntercept": f"{-100 * i}"},
    "first whole": lambda i: {"RescaleSlope": "1" if i == 0 else "0.37", "RescaleIntercept": "0"},
}
SYNTAXES = {"implicit": ImplicitVRLittleEndian, "RLE": RLELossless, "big endian": ExplicitVRBigEndian}
MATRIX = [
    (orientation, list(PIXELS)[(i + j) % 5], list(SCALES)[j], (2.0, 3.0) if i % 2 else (0.004, 0.003))
    for (i, orientation), j in itertools.product(enumerate(ORIENTATIONS), range(5))
]


@pytest.mark.parametrize(("orientation", "pixel", "scale", "spacing"), MATRIX)
def test_series_are_read_as_pydicom_reads_them(tmp_path, orientation, pixel, scale, spacing) -> None:
    dtype, low, high, bits = PIXELS[pixel]
    axes, step = np.array(ORIENTATIONS[orientation]), 1.7 * spacing[0]
    for i, stored in enumerate(voxels(dtype=dtype, low=low, high=high)):
        position = np.array([-8.0, 5.0, 3.0]) + i * step * np.cross(*axes)
        tags = geometry(axes, spacing) | SCALES[scale](i)
        ds = dataset(stored, number=i + 1, bits=bits, ImagePositionPatient=place(position), **tags)
        save(ds, tmp_path / f"{(5 * i) % 6}.dcm")
    check_same(read_image(tmp_path), *read_with_pydicom(tmp_path))


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_transfer_syntaxes(tmp_path, syntax) -> None:
    for i, stored in enumerate(voxels(dtype=np.uint16)):
        stored = stored.byteswap() if syntax == "big endian" else stored
        tags = geometry() | {"RescaleSlope": f"0.{i + 1}", "RescaleIntercept": "-5"}
        ds = dataset(stored, number=i + 1, ImagePositionPatient=place((0, 0, 2.0 * i)), **tags)
        save(ds, tmp_path / f"{i}.dcm", SYNTAXES[syntax])
    check_same(read_image(tmp_path), *read_with_pydicom(tmp_path))


def compressed(path, stored: np.ndarray, compressor: str, **tags) -> None:
    """Written by GDCM, the header by pydicom."""
    writer = SimpleITK.ImageFileWriter()
    writer.SetFileName(str(path))
    writer.SetUseCompression(True)
    writer.SetCompressor(compressor)
    writer.Execute(SimpleITK.GetImageFromArray(stored))
    ds = pydicom.dcmread(path)
    assert ds.file_meta.TransferSyntaxUID.is_encapsulated
    for keyword, value in tags.items():
        setattr(ds, keyword, value)
    ds.save_as(path)


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000"])
def test_compressed_slices(tmp_path, compressor) -> None:
    stored = voxels(dtype=np.uint16)
    for i, plane in enumerate(stored):
        tags = geometry() | {"RescaleSlope": f"{0.5 + i}", "RescaleIntercept": "-7", "InstanceNumber": i + 1}
        position = {"ImagePositionPatient": place((1, 2, 4 * i)), "SeriesInstanceUID": "1.2.3", "Modality": "PT"}
        compressed(tmp_path / f"{i}.dcm", plane[None], compressor, SOPInstanceUID=f"1.2.{i}", **tags, **position)
    image = read_image(tmp_path)
    expected = stored * (0.5 + np.arange(6))[:, None, None] - 7
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), expected)
    np.testing.assert_allclose(image.GetSpacing(), (2, 3, 4))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("degrees", [-25, 1, 20])
def test_gantry_tilt(tmp_path, degrees, axis) -> None:
    """The table moves along z, the slices are tilted: every voxel at the place that its header says."""
    axes = rotation(degrees, axis).T[:2]
    write_linear(tmp_path, [(3, -2, 5.0 * i) for i in range(10)], axes=axes)
    with pytest.warns(RegistrationWarning, match=rf"at {abs(degrees)}\.0 degrees to it .gantry tilt.: resampled"):
        image = check_linear(tmp_path, share=0.45)
    assert image.GetSize()[2] == 10
    np.testing.assert_allclose(image.GetSpacing()[2], 5 * np.cos(np.deg2rad(degrees)))


def test_missing_slices_are_filled_and_the_others_stay(tmp_path) -> None:
    write_linear(tmp_path, [(3, -2, 5.0 * i) for i in (0, 1, 2, 5, 6, 7)])
    with pytest.warns(
        RegistrationWarning, match=r"not evenly spaced .*the widest gap is 15 mm after slice 3: resampled"
    ):
        image = check_linear(tmp_path, share=1.0)
    assert (image.GetSize()[2], image.GetSpacing()[2]) == (8, 5.0)


def test_uneven_and_tilted(tmp_path) -> None:
    places = [0, 2.5, 5, 7.5, 12.5, 17.5, 22.5, 25]
    write_linear(tmp_path, [(0, 0, z) for z in places], axes=rotation(10).T[:2])
    with pytest.warns(RegistrationWarning) as told:
        check_linear(tmp_path, share=0.7)
    assert len(told) == 2


def test_rounded_positions_are_no_tilt(tmp_path) -> None:
    axes = rotation(20).T[:2]
    normal = np.cross(*axes)
    write_linear(tmp_path, np.round([4.0 * i * normal for i in range(12)], 2), axes=np.round(axes, 6))
    image = read_image(tmp_path)
    np.testing.assert_allclose(image.GetSpacing(), (2, 2, 4), atol=1e-3)


def test_slices_on_a_slope_are_refused(tmp_path) -> None:
    write_linear(tmp_path, [(10.0 * i, 0, 2.0 * i) for i in range(4)])
    with pytest.raises(RegistrationError, match="stacked at 79 degrees to their normal"):
        read_image(tmp_path)


# Which of several images.


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"EchoTime": "10", "EchoNumbers": "1"}, {"EchoTime": "20", "EchoNumbers": "2"}),
        ({"TemporalPositionIdentifier": "1"}, {"TemporalPositionIdentifier": "2"}),
        ({"AcquisitionNumber": "1"}, {"AcquisitionNumber": "2"}),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M"]}, {"ImageType": ["ORIGINAL", "PRIMARY", "P"]}),
    ],
)
def test_two_images_in_one_series(tmp_path, first, second) -> None:
    """Equally large ones are refused with their names; else the larger is read, and what is left out is told."""
    write_stack(tmp_path / "both", voxels(), Modality="MR", sop=series.MR, **first)
    write_stack(tmp_path / "both", voxels() + 1, Modality="MR", sop=series.MR, first=7, **second)
    with pytest.raises(RegistrationError, match=r"holds 2 images.*6 slices of 11 x 9 .*; 6 slices of 11 x 9") as told:
        read_image(tmp_path / "both", name="fixed")
    assert next(iter(first)) in str(told.value) and "a folder of their own" in str(told.value)
    (tmp_path / "both" / "9992.dcm").unlink()
    with pytest.warns(RegistrationWarning, match=r"holds 2 images; the largest is read, 6 slices.*left out: 5 slices"):
        image = read_image(tmp_path / "both")
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), voxels())


def test_echoes_at_several_times_are_told_apart(tmp_path) -> None:
    for i, (echo, time) in enumerate(itertools.product("12", "12")):
        write_stack(tmp_path, voxels() + i, first=1 + 6 * i, EchoTime=echo, TemporalPositionIdentifier=time)
    with pytest.raises(RegistrationError, match=r"holds 4 images.*EchoTime 1, TemporalPositionIdentifier 2"):
        read_image(tmp_path)


def test_one_image_of_several_acquisitions(tmp_path) -> None:
    """A scan in two parts, one below the other, with times of their own, is one image."""
    write_stack(tmp_path, voxels(), AcquisitionNumber="1", AcquisitionTime="101500")
    write_stack(tmp_path, voxels(), first=7, origin=(-10.0, 4.0, 37.0), AcquisitionNumber="2", AcquisitionTime="101600")
    check_same(read_image(tmp_path), *read_with_pydicom(tmp_path))


def test_times_that_differ_from_slice_to_slice_do_not_split(tmp_path) -> None:
    for i in range(2):
        for k, plane in enumerate(voxels() + i):
            tags = geometry() | {"AcquisitionTime": f"1015{6 * i + k:02d}", "EchoTime": f"{i + 1}"}
            ds = dataset(plane, number=6 * i + k + 1, ImagePositionPatient=place((0, 0, 3 * k)), **tags)
            save(ds, tmp_path / f"{i}{k}.dcm")
    with pytest.raises(RegistrationError, match=r"holds 2 images.*EchoTime 1.*EchoTime 2"):
        read_image(tmp_path)


@pytest.mark.parametrize("localiser", [True, False])
def test_localiser_and_reformat_in_the_series(tmp_path, localiser) -> None:
    write_stack(tmp_path, voxels())
    kind = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]} if localiser else {}
    count = 8 if localiser else 3  # a localiser is left out even if it is larger
    write_stack(tmp_path, voxels((count, 9, 11)), axes=ORIENTATIONS["coronal"], first=20, **kind)
    with pytest.warns(RegistrationWarning, match=f"the largest is read, 6 slices.*left out: {count} slices"):
        image = read_image(tmp_path)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), voxels())


def test_slices_of_another_size_in_the_series(tmp_path) -> None:
    write_stack(tmp_path, voxels())
    write_stack(tmp_path, voxels((2, 30, 40)), first=20, origin=(0.0, 0.0, 100.0))
    with pytest.warns(RegistrationWarning, match="left out: 2 slices of 40 x 30"):
        image = read_image(tmp_path)
    assert image.GetSize() == (11, 9, 6)


def test_copies_of_slices(tmp_path) -> None:
    write_stack(tmp_path, voxels())
    save(dataset(voxels()[2], number=9, ImagePositionPatient=place((-10, 4, 17)), **geometry()), tmp_path / "copy.dcm")
    with pytest.warns(RegistrationWarning, match=r"1 slices in .* are copies of others and are left out"):
        image = read_image(tmp_path)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), voxels())
    save(dataset(voxels()[3], number=9, ImagePositionPatient=place((-10, 4, 17)), **geometry()), tmp_path / "copy.dcm")
    with pytest.raises(RegistrationError, match=r"different slices at the same place.*coincide"):
        read_image(tmp_path)


def test_two_equal_series_are_refused(tmp_path) -> None:
    write_stack(tmp_path, voxels(), uid="1.2.5")
    write_stack(tmp_path, voxels(), first=50, uid="1.2.6")
    with pytest.raises(RegistrationError, match=r"fixed: .* holds 2 DICOM series of 6 slices each, expected one image"):
        read_image(tmp_path, name="fixed")


def test_what_is_no_slice_is_ignored(tmp_path) -> None:
    write_stack(tmp_path, voxels())
    (tmp_path / "notes.txt").write_text("no slice")
    (tmp_path / "._9999.dcm").write_bytes(b"\0\5\x16\7" + bytes(200))
    shutil.copy(tmp_path / "9998.dcm", tmp_path / ".hidden.dcm")
    report = dataset(voxels()[0], number=99)
    for keyword in ("Rows", "Columns", "PixelData"):
        del report[keyword]
    save(report, tmp_path / "report.dcm")
    (tmp_path / "more").mkdir()
    image = read_image(tmp_path)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), voxels())
    with pytest.raises(RegistrationError, match=r"moving: .*report.dcm holds no image .CT., expected a DICOM image"):
        read_image(tmp_path / "report.dcm", name="moving")
    write_stack(tmp_path / "study" / "one", voxels())
    with pytest.raises(RegistrationError, match=r"holds no DICOM slices: give one of its sub-folders .one."):
        read_image(tmp_path / "study")


def test_files_without_preamble(tmp_path) -> None:
    write_stack(tmp_path, voxels())
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[132:])
    image = read_image(tmp_path)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), voxels())


# Single slices and radiographs.


def test_single_slices_are_images_of_two_dimensions(tmp_path) -> None:
    write_stack(tmp_path, voxels((1, 9, 11)), RescaleSlope="0.5", RescaleIntercept="-3")
    for source in (tmp_path, tmp_path / "9998.dcm", [tmp_path / "9998.dcm"]):
        image = read_image(source)
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), voxels((1, 9, 11))[0] * 0.5 - 3)
        assert image.GetSpacing() == (2.0, 3.0) and image.GetOrigin() == (-10.0, 4.0)


def test_sagittal_slices_keep_their_places_in_their_plane(tmp_path) -> None:
    for name, origin in (("a", (5.0, 10.0, 80.0)), ("b", (5.0, 16.0, 75.0))):
        write_stack(tmp_path / name, voxels((1, 9, 11)), axes=ORIENTATIONS["sagittal"], origin=origin)
    origins = [np.array(read_image(tmp_path / name).GetOrigin()) for name in "ab"]
    np.testing.assert_allclose(origins[1] - origins[0], (6, 5))  # y is along the rows, -z along the columns


def radiograph(path, stored, **tags):
    more = {"Modality": "DX", "ImagerPixelSpacing": ["0.14", "0.15"], "BitsStored": 12, "HighBit": 11}
    return save(dataset(stored, sop="1.2.840.10008.5.1.4.1.1.1.1", **more, **tags), path)


def test_radiographs(tmp_path) -> None:
    stored = voxels((9, 11), np.uint16)
    image = read_image(radiograph(tmp_path / "a.dcm", stored))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), stored)
    assert image.GetSpacing() == (0.15, 0.14)
    # Dark on bright is turned to bright on dark, so that both kinds look alike to the registration.
    image = read_image(radiograph(tmp_path / "b.dcm", 4095 - stored, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), stored)


def test_inverse_display_of_quantities_is_display_alone(tmp_path) -> None:
    tags = {"PhotometricInterpretation": "MONOCHROME1", "Modality": "PT", "sop": series.PET}
    write_stack(tmp_path, voxels(), RescaleSlope="0.25", RescaleIntercept="0", **tags)
    check_same(read_image(tmp_path), *read_with_pydicom(tmp_path))


def test_slices_without_positions(tmp_path) -> None:
    for i, plane in enumerate(voxels()):
        ds = dataset(plane, number=i + 1, PixelSpacing=["3", "2"], SpacingBetweenSlices="4")
        save(ds, tmp_path / f"{9 - i}.dcm")
    with pytest.warns(RegistrationWarning, match="have no positions: stacked by number, 4 mm apart"):
        image = read_image(tmp_path)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), voxels())
    assert image.GetSpacing() == (2.0, 3.0, 4.0)


# Several frames in a file.


def item(**tags) -> Sequence:
    ds = Dataset()
    for keyword, value in tags.items():
        setattr(ds, keyword, value)
    return Sequence([ds])


def enhanced(stored, *, order, slopes, axes=series.AXIAL, groups=None, **tags) -> Dataset:
    """Frames in any order, each with its position and slope, as enhanced CT and MR store them."""
    normal = np.cross(*np.array(axes))
    frames = []
    for k in order:
        frame = Dataset()
        frame.PlanePositionSequence = item(ImagePositionPatient=place(np.array([1.0, 2.0, 3.0]) + 4.0 * k * normal))
        frame.PixelValueTransformationSequence = item(RescaleSlope=f"{slopes[k]:g}", RescaleIntercept="-1.5")
        for name, value in (groups or {}).items():
            setattr(frame, name, value(k))
        frames.append(frame)
    shared = Dataset()
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=geometry(axes)["ImageOrientationPatient"])
    shared.PixelMeasuresSequence = item(PixelSpacing=["3", "2"], SliceThickness="4")
    ds = dataset(stored[list(order)], sop=series.ENHANCED_MR, **({"Modality": "MR"} | tags))
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = Sequence([shared]), Sequence(frames)
    return ds


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, RLELossless])
@pytest.mark.parametrize("orientation", ["axial", "oblique"])
def test_enhanced_frames_with_their_own_slopes(tmp_path, orientation, syntax) -> None:
    stored, slopes, axes = voxels(dtype=np.uint16), 0.5 + 0.25 * np.arange(6), np.array(ORIENTATIONS[orientation])
    path = save(enhanced(stored, order=(3, 0, 5, 1, 4, 2), slopes=slopes, axes=axes), tmp_path / "e.dcm", syntax)
    first = np.array([1.0, 2.0, 3.0]) + 4.0 * np.arange(6)[:, None] * np.cross(*axes)
    last = first + 10 * 2 * axes[0] + 8 * 3 * axes[1]
    for source in (path, tmp_path):
        check_same(read_image(source), stored * slopes[:, None, None] - 1.5, first, last)


def test_enhanced_frames_of_two_echoes(tmp_path) -> None:
    order = tuple(range(6)) * 2
    echo = iter([10.0] * 6 + [20.0] * 6)
    groups = {"MREchoSequence": lambda k: item(EffectiveEchoTime=next(echo))}
    ds = enhanced(voxels(dtype=np.uint16), order=order, slopes=np.ones(6), groups=groups)
    with pytest.raises(RegistrationError, match=r"holds 2 images.*EffectiveEchoTime 10.*EffectiveEchoTime 20"):
        read_image(save(ds, tmp_path / "e.dcm"))


def test_dose_grids(tmp_path) -> None:
    tags = {"Modality": "RTDOSE", "DoseGridScaling": "0.001", "GridFrameOffsetVector": [f"{2.5 * k}" for k in range(6)]}
    ds = dataset(
        voxels(dtype=np.uint16), sop="1.2.840.10008.5.1.4.1.1.481.2", ImagePositionPatient=place((1, 2, 3)),
        **geometry(), **tags,
    )  # fmt: skip
    image = read_image(save(ds, tmp_path / "dose.dcm"))
    np.testing.assert_allclose(SimpleITK.GetArrayFromImage(image), voxels() * 0.001)
    assert image.GetSpacing() == (2.0, 3.0, 2.5) and image.GetOrigin() == (1.0, 2.0, 3.0)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "is a mosaic, several slices tiled in one image"),
        ({"Modality": "SEG"}, "is a DICOM segmentation object: convert it to a label map"),
        ({"NumberOfFrames": 3, "FrameTime": "40", "Modality": "US"}, "is a film of 3 frames, expected one image"),
    ],
)
def test_kinds_that_are_refused(tmp_path, tags, message) -> None:
    shape = (3, 9, 11) if "NumberOfFrames" in tags else (9, 11)
    path = save(dataset(voxels(shape), **geometry(), **tags), tmp_path / "a.dcm")
    for source in (path, tmp_path):
        with pytest.raises(RegistrationError, match=f"moving: .*{message}"):
            read_image(source, name="moving")


def test_damaged_files(tmp_path) -> None:
    write_stack(tmp_path, voxels())
    path = tmp_path / "9997.dcm"
    whole = path.read_bytes()
    path.write_bytes(whole[:-50])
    with pytest.raises(RegistrationError, match=r"9997.dcm cannot be read .it was cut short, it lacks 50 bytes"):
        read_image(tmp_path)
    rng, refused = np.random.default_rng(0), 0
    for cut in rng.integers(132, len(whole), 30):
        damaged = bytearray(whole[: cut if cut % 2 else None])
        for spot in rng.integers(132, len(damaged), 3):
            damaged[spot] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_image(tmp_path)
        except (RegistrationError, RegistrationWarning) as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 5
