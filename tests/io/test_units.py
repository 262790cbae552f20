"""Units of length in TIFF and NRRD files: converted, or told; layouts of pages that are no slices are refused."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from itk_pdd.errors import RegistrationError, RegistrationWarning
from itk_pdd.io.files import read_image

PAGES = np.random.default_rng(0).integers(0, 255, (6, 12, 15)).astype(np.uint8)


def write_tiff(path, description: str, *, resolution=(2.5, 2.5, 1), pages=PAGES, big: bool = False) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[270], tags[282], tags[283], tags[296] = description, *resolution
    images = [Image.fromarray(page) for page in pages]
    images[0].save(path, save_all=True, append_images=images[1:], tiffinfo=tags, big_tiff=big)


def ome(**attributes: str) -> str:
    listed = " ".join(f'{key}="{value}"' for key, value in attributes.items())
    return (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f'<Image ID="Image:0"><Pixels DimensionOrder="XYCZT" ID="Pixels:0" SizeX="15" SizeY="12" {listed}></Pixels>'
        "</Image></OME>"
    )


@pytest.mark.parametrize("big", [False, True], ids=["32-bit offsets", "64-bit offsets"])
@pytest.mark.parametrize(
    "unit, factor",
    [("micron", 1e-3), ("um", 1e-3), (r"\u00B5m", 1e-3), ("cm", 10.0), ("inch", 25.4), ("mm", 1.0), ("Micron", 1e-3)],
)
def test_stacks_of_imagej(tmp_path, unit: str, factor: float, big: bool) -> None:
    write_tiff(tmp_path / "a.tif", f"ImageJ=1.53t\nimages=6\nslices=6\nunit={unit}\nspacing=2.0\n", big=big)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        image = read_image(tmp_path / "a.tif", name="moving")
    np.testing.assert_allclose(image.GetSpacing(), np.array([0.4, 0.4, 2.0]) * factor)
    assert [w.category for w in told] == ([RegistrationWarning] if factor != 1 else [])
    if factor != 1:
        assert f"0.4 x 0.4 x 2 {unit}" in str(told[0].message)


def test_an_image_of_imagej_of_one_page(tmp_path) -> None:
    write_tiff(tmp_path / "a.tif", "ImageJ=1.53t\nunit=um\n", resolution=(4.0, 2.0, 1), pages=PAGES[:1])
    with pytest.warns(RegistrationWarning, match=r"0.25 x 0.5 um: they are read as 0.00025 x 0.0005 mm"):
        assert read_image(tmp_path / "a.tif").GetSpacing() == pytest.approx((2.5e-4, 5e-4))


def test_a_unit_that_is_none_is_told_and_pixels_are_left(tmp_path) -> None:
    write_tiff(tmp_path / "a.tif", "ImageJ=1.53t\nimages=6\nslices=6\nunit=furlong\nspacing=2.0\n")
    with pytest.warns(RegistrationWarning, match=r"furlong, which is no known unit of length"):
        assert read_image(tmp_path / "a.tif").GetSpacing() == (1.0, 1.0, 1.0)
    write_tiff(tmp_path / "a.tif", "ImageJ=1.53t\nimages=6\nslices=6\nunit=pixel\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "a.tif").GetSpacing() == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    "text, words",
    [
        ("ImageJ=1.53t\nimages=6\nchannels=2\nslices=3\nhyperstack=true\n", "2 channels as pages"),
        ("ImageJ=1.53t\nimages=6\nframes=3\nslices=2\n", "3 time points as pages"),
        ("ImageJ=1.53t\nimages=60\nslices=60\nunit=um\n", "says that it holds 60 pages, 6 can be read"),
        (ome(SizeZ="2", SizeC="3", SizeT="1"), "3 channels as pages"),
    ],
)
def test_pages_that_are_not_slices_are_refused(tmp_path, text: str, words: str) -> None:
    write_tiff(tmp_path / "a.tif", text)
    with pytest.raises(RegistrationError, match=f"^fixed: .*{words}"):
        read_image(tmp_path / "a.tif", name="fixed")


@pytest.mark.parametrize(
    "units, expected",
    [
        ({}, (3e-4, 4e-4, 2e-3)),  # micrometres where nothing is said
        ({"X": "nm", "Y": "nm", "Z": "nm"}, (3e-7, 4e-7, 2e-6)),
        ({"X": "µm", "Y": "µm", "Z": "mm"}, (3e-4, 4e-4, 2.0)),
        ({"X": "mm", "Y": "mm", "Z": "mm"}, (0.3, 0.4, 2.0)),
    ],
    ids=str,
)
def test_ome(tmp_path, units: dict[str, str], expected: tuple[float, ...]) -> None:
    stated = {f"PhysicalSize{axis}Unit": unit.replace("µ", "&#181;") for axis, unit in units.items()}
    text = ome(SizeZ="6", SizeC="1", SizeT="1", PhysicalSizeX="0.3", PhysicalSizeY="0.4", PhysicalSizeZ="2.0", **stated)
    write_tiff(tmp_path / "a.ome.tif", text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RegistrationWarning)
        np.testing.assert_allclose(read_image(tmp_path / "a.ome.tif").GetSpacing(), expected)


def test_damaged_tags_change_nothing(tmp_path) -> None:
    write_tiff(
        tmp_path / "a.tif", "ImageJ=\nimages=many\nunit=um\nspacing=nan\nchannels=-1\nmin=\n", resolution=(0, 1, 1)
    )
    assert read_image(tmp_path / "a.tif").GetSize() == (15, 12, 6)


def write_nrrd(path, line: str) -> None:
    head = (
        "NRRD0005\ntype: uchar\ndimension: 3\nspace: left-posterior-superior\nsizes: 4 5 6\n"
        f"space directions: (1,0,0) (0,1,0) (0,0,1)\nencoding: raw\n{line}space origin: (0,0,0)\n\n"
    )
    path.write_bytes(head.encode() + bytes(range(120)))


@pytest.mark.parametrize("line", ['space units: "um" "um" "um"\n', 'space units: "m" "m" "m"\n'])
def test_other_units_of_nrrd_are_told(tmp_path, line: str) -> None:
    write_nrrd(tmp_path / "a.nrrd", line)
    with pytest.warns(RegistrationWarning, match="ITK takes the numbers for mm"):
        assert read_image(tmp_path / "a.nrrd").GetSpacing() == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("line", ["", 'space units: "mm" "mm" "mm"\n', 'space units: "" "" ""\n'])
def test_millimetres_of_nrrd_are_not_told(tmp_path, line: str) -> None:
    write_nrrd(tmp_path / "a.nrrd", line)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_image(tmp_path / "a.nrrd")


def test_axes_of_nrrd_in_different_units_are_refused(tmp_path) -> None:
    write_nrrd(tmp_path / "a.nrrd", 'space units: "um" "um" "mm"\n')
    with pytest.raises(RegistrationError, match="axes in different units"):
        read_image(tmp_path / "a.nrrd")
