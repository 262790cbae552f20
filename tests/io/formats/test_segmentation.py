"""3D Slicer's segmentations keep their segments when they are warped, layer by layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from itk_pdd.commands.transform import labels_file
from itk_pdd.errors import RegistrationError, RegistrationWarning

SEGMENTS = """Segment0_ID:=S1
Segment0_Name:=liver
Segment0_Color:=0.5 0.25 0.125
Segment0_LabelValue:=1
Segment0_Layer:=0
Segment0_Extent:=2 4 2 5 1 3
Segment1_ID:=S2
Segment1_Name:=spleen
Segment1_LabelValue:=3
Segment1_Layer:={layer}
Segment1_Extent:=6 7 2 5 1 3
Segmentation_ReferenceImageExtentOffset:=1 2 3
Segmentation_ConversionParameters:=Smoothing factor|0.5|s&Reference image geometry|2;0;|r
"""


def case(folder: Path, layers: int) -> np.ndarray:
    """A file of one or two layers, a shift of two voxels along x, and the labels (z, y, x, layers)."""
    labels = np.zeros((6, 8, 10, layers), np.uint8)
    labels[1:4, 2:6, 2:5, 0] = 1
    labels[1:4, 2:6, 6:8, layers - 1] = 3
    labels[2, 3, 3, layers - 1] = 3
    sizes, axis = ("10 8 6", "") if layers == 1 else ("2 10 8 6", "none ")
    kinds = "domain domain domain" if layers == 1 else "list domain domain domain"
    head = (
        f"NRRD0005\ntype: uint8\ndimension: {3 + (layers > 1)}\nspace: left-posterior-superior\nsizes: {sizes}\n"
        f"space directions: {axis}(2,0,0) (0,2,0) (0,0,2)\nkinds: {kinds}\nencoding: raw\nspace origin: (0,0,0)\n"
    )
    content = (head + SEGMENTS.format(layer=layers - 1) + "\n").encode()
    (folder / "s.seg.nrrd").write_bytes(content + labels.tobytes())
    SimpleITK.WriteTransform(SimpleITK.TranslationTransform(3, (4.0, 0.0, 0.0)), str(folder / "t.tfm"))
    return labels


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("way", ["nearest", "partial-volume"])
def test_segments_are_kept_and_extents_are_those_of_the_result(tmp_path: Path, layers: int, way: str) -> None:
    labels, out = case(tmp_path, layers), tmp_path / "o.seg.nrrd"
    labels_file(tmp_path / "s.seg.nrrd", out, [tmp_path / "t.tfm"], reference=tmp_path / "s.seg.nrrd",
                interpolation=way)  # fmt: skip
    found = SimpleITK.ReadImage(str(out))
    expected = np.zeros_like(labels)
    expected[:, :, :-2] = labels[:, :, 2:]
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(found).reshape(labels.shape), expected)
    known = {key: found.GetMetaData(key) for key in found.GetMetaDataKeys()}
    assert (known["Segment0_Name"], known["Segment0_Color"]) == ("liver", "0.5 0.25 0.125")
    assert (known["Segment1_LabelValue"], known["Segment1_Layer"]) == ("3", str(layers - 1))
    assert known["Segment0_Extent"] == "0 2 2 5 1 3"
    assert known["Segment1_Extent"] == "1 5 2 5 1 3"
    assert known["Segmentation_ReferenceImageExtentOffset"] == "0 0 0"
    assert known["Segmentation_ConversionParameters"] == "Smoothing factor|0.5|s"
    kinds = next(line for line in out.read_bytes().split(b"\n") if line.startswith(b"kinds"))
    assert kinds == (b"kinds: domain domain domain" if layers == 1 else b"kinds: list domain domain domain")


def test_a_segment_that_is_gone_has_an_empty_extent(tmp_path: Path) -> None:
    case(tmp_path, 1)
    SimpleITK.WriteTransform(SimpleITK.TranslationTransform(3, (10.0, 0.0, 0.0)), str(tmp_path / "t.tfm"))
    labels_file(tmp_path / "s.seg.nrrd", tmp_path / "o.nrrd", [tmp_path / "t.tfm"], reference=tmp_path / "s.seg.nrrd")
    assert SimpleITK.ReadImage(str(tmp_path / "o.nrrd")).GetMetaData("Segment0_Extent") == "0 -1 0 -1 0 -1"


def test_formats_that_know_no_segments(tmp_path: Path) -> None:
    case(tmp_path, 1)
    arguments = [tmp_path / "t.tfm"]
    with pytest.warns(RegistrationWarning, match=r"cannot hold the names and colours .* \.seg\.nrrd"):
        labels_file(tmp_path / "s.seg.nrrd", tmp_path / "o.nii.gz", arguments, reference=tmp_path / "s.seg.nrrd")
    case(tmp_path, 2)
    with pytest.raises(RegistrationError, match="labels overlap in several layers"):
        labels_file(tmp_path / "s.seg.nrrd", tmp_path / "p.nii.gz", arguments, reference=tmp_path / "s.seg.nrrd")
    assert not (tmp_path / "p.nii.gz").exists()
