"""Lists of labelled scans, as users write them."""

from __future__ import annotations

import json
import shutil

import pytest

from itk_pdd.errors import RegistrationError
from itk_pdd.training.cases import folds, of_split, ordered_pairs, read_scans


def test_a_csv_gives_files_splits_and_names(listed, scans):
    assert read_scans(listed) == scans
    assert [s.name for s in of_split(read_scans(listed), "validation")] == ["image_4", "image_5"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "image,labels\n{image},{labels}\n{image},nowhere.nii.gz\n",
            r"row 3, column labels: there is no file .*nowhere",
        ),
        ("image,labels\nnowhere.nii.gz,{labels}\n", r"row 2, column image: there is no file .*nowhere"),
        ("image,labels\n,{labels}\n", "row 2, column image: is empty"),
        ("image,labels\n{image}\n", "row 2: expected 2 cells"),
        (
            "image,labels,split\n{image},{labels},traning\n",
            "row 2, column split: found 'traning', expected one of train",
        ),
        ("image,label\n{image},{labels}\n", "lacks the column labels"),
        ("image,labels,weight\n{image},{labels},1\n", "unknown column 'weight'"),
        ("image,labels\n", "lists no scan"),
        ("", "lacks the column image"),
    ],
)
def test_a_wrong_csv_is_told_by_row_and_column(scans, tmp_path, text, complaint):
    path = tmp_path / "data.csv"
    path.write_text(text.format(image=scans[0].image, labels=scans[0].labels))
    with pytest.raises(RegistrationError, match=complaint):
        read_scans(path)


def test_folders_of_two_kinds(scans, tmp_path):
    side_by_side = read_scans(scans[0].image.parent)
    assert {(s.image, s.labels) for s in side_by_side} == {(s.image, s.labels) for s in scans}
    for kind in ("imagesTr", "labelsTr"):
        (tmp_path / kind).mkdir()
    shutil.copy(scans[0].image, tmp_path / "imagesTr" / "a.nii.gz")
    with pytest.raises(RegistrationError, match=r"there are no labels .*labelsTr/a\.nii\.gz"):
        read_scans(tmp_path)
    shutil.copy(scans[0].labels, tmp_path / "labelsTr" / "a.nii.gz")
    assert [s.name for s in read_scans(tmp_path)] == ["a"]
    with pytest.raises(RegistrationError, match="neither subfolders"):
        read_scans(tmp_path / "imagesTr")


def test_a_learn2reg_list(scans, tmp_path):
    entries = [{"image": str(s.image), "label": str(s.labels)} for s in scans[:3]]
    pairs = [{"fixed": f"./{scans[2].image.name}", "moving": f"./{scans[1].image.name}"}]
    (tmp_path / "task.json").write_text(json.dumps({"training": entries, "registration_val": pairs}))
    assert [s.split for s in read_scans(tmp_path / "task.json")] == ["train", "validation", "validation"]
    (tmp_path / "other.json").write_text(json.dumps({"training": ["a.nii.gz"]}))
    with pytest.raises(RegistrationError, match="no list of a Learn2Reg task"):
        read_scans(tmp_path / "other.json")
    (tmp_path / "broken.json").write_text('{"training": [')
    with pytest.raises(RegistrationError, match="not a readable JSON"):
        read_scans(tmp_path / "broken.json")


def test_every_scan_is_validated_on_once(scans):
    parts = folds(scans, 3)
    held = [s.name for part in parts for s in of_split(part, "validation")]
    assert sorted(held) == sorted(s.name for s in scans)
    assert all(len(part) == len(scans) for part in parts)
    with pytest.raises(RegistrationError, match="folds is 7, expected a number from 2"):
        folds(scans, 7)


def test_names_are_told_apart(scans, tmp_path):
    for site in ("a", "b"):
        (tmp_path / site).mkdir()
        shutil.copy(scans[0].image, tmp_path / site / "ct.nii.gz")
    rows = "".join(f"{site}/ct.nii.gz,{scans[0].labels}\n" for site in "ab")
    (tmp_path / "data.csv").write_text(f"image,labels\n{rows}")
    assert len({s.name for s in read_scans(tmp_path / "data.csv")}) == 2


def test_ordered_pairs():
    everything = ordered_pairs("abc", None, 0)
    assert everything == [("a", "b"), ("a", "c"), ("b", "a"), ("b", "c"), ("c", "a"), ("c", "b")]
    assert ordered_pairs("abc", 9, 1) == everything and ordered_pairs("a", 3, 0) == []
    drawn = {seed: ordered_pairs("abcde", 5, seed) for seed in range(20)}
    for seed, some in drawn.items():
        assert some == ordered_pairs("abcde", 5, seed)
        assert some == sorted(set(some)) and len(some) == 5 and all(a != b for a, b in some)
    assert len({tuple(some) for some in drawn.values()}) > 15
    assert {pair for some in drawn.values() for pair in some} == set(ordered_pairs("abcde", None, 0))


@pytest.mark.parametrize("layout", ["Decathlon", "nnU-Net"])
def test_folders_of_archives_and_of_other_programs(tmp_path, layout):
    """Archives of macOS hold a hidden file beside each; nnU-Net numbers the channels of images, not of labels."""
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
        for i in range(2):
            number = "_0000" if (layout, folder) == ("nnU-Net", "imagesTr") else ""
            (tmp_path / folder / f"case_{i}{number}.nii.gz").write_bytes(b"image")
            (tmp_path / folder / f"._case_{i}.nii.gz").write_bytes(b"Mac OS X")
    found = read_scans(tmp_path)
    assert [scan.labels.name for scan in found] == ["case_0.nii.gz", "case_1.nii.gz"]
    assert all(scan.image.is_file() and not scan.image.name.startswith(".") for scan in found)
