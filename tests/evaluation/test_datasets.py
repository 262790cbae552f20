"""Lists of pairs, landmarks and the benchmark data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from itk_pdd import RegistrationError
from itk_pdd.evaluation import datasets
from itk_pdd.evaluation.datasets import Pair, read_pairs, read_points, write_pairs


def test_pairs_survive_a_csv_file(tmp_path):
    folder = tmp_path / "images, old"
    pairs = [
        Pair(
            folder / "a.nii.gz", tmp_path / "b.mha", fixed_labels=folder / "la.nii", moving_labels=tmp_path / "lb.nii"
        ),
        Pair(folder / "c.nii.gz", tmp_path.parent / "d.mha"),
    ]
    write_pairs(tmp_path / "pairs.csv", pairs)
    assert read_pairs(tmp_path / "pairs.csv") == pairs
    assert (tmp_path / "pairs.csv").read_text().splitlines()[1].startswith('"images, old/a.nii.gz",b.mha,')
    assert pairs[0].name == "a_b"


def test_swapping_a_pair():
    pair = Pair(Path("f"), Path("m"), Path("fl"), Path("ml"), Path("fp"), None, None, Path("mm"))
    swapped = pair.swapped()
    assert (swapped.fixed, swapped.moving_labels, swapped.moving_points) == (Path("m"), Path("fl"), Path("fp"))
    assert (swapped.fixed_points, swapped.fixed_mask) == (None, Path("mm"))
    assert swapped.swapped() == pair


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fixed,other\na,b\n", "lacks the column.*moving"),
        ("fixed,moving,label\na,b,c\n", "unknown column.*label"),
        ("fixed,moving\n", "empty"),
        ("", "lacks"),
        ("fixed,moving\na,\n", "line 2: fixed and moving"),
        ("fixed,moving,fixed_labels\na,b\n", "line 2: expected 3 cells"),
        ("fixed,moving\na,b,c\n", "line 2: expected 2 cells"),
        ("fixed,moving,fixed\na,b,c\n", "column.* fixed twice"),
    ],
)
def test_lists_that_cannot_be_read(tmp_path, text, words):
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(RegistrationError, match=words):
        read_pairs(tmp_path / "pairs.csv")


def test_missing_and_binary_lists(tmp_path):
    with pytest.raises(RegistrationError, match="does not exist"):
        read_pairs(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x9f")
    with pytest.raises(RegistrationError, match="not a readable CSV"):
        read_pairs(tmp_path / "binary.csv")


def test_landmarks(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("fixed_x,fixed_y,fixed_z,moving_x,moving_y,moving_z\n1,2,3,4,5,6\n7,8,9,10,11,12\n")
    assert np.array_equal(read_points(path, side="moving"), [[4, 5, 6], [10, 11, 12]])
    path.write_text("\ufeffname, x, y\na, 1.5, -2\n", encoding="utf-8")
    assert np.array_equal(read_points(path), [[1.5, -2]])
    path.write_text("x,y,z\n1,2,three\n")
    with pytest.raises(RegistrationError, match="three"):
        read_points(path)
    path.write_text("x,y,z\n1,2,nan\n")
    with pytest.raises(RegistrationError, match="finite"):
        read_points(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(RegistrationError, match="columns x, y"):
        read_points(path)


FCSV = """# Markups fiducial file version = 4.11
# CoordinateSystem = RAS
# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID
1,-1,-2,3,0,0,0,1,1,1,0,F-1,,
2,-4.5,5,-6,0,0,0,1,1,1,0,F-2,,
"""
MARKUPS = {
    "markups": [
        {
            "coordinateSystem": "LPS",
            "controlPoints": [{"position": [1.0, 2.0, 3.0]}, {"position": [4.5, -5.0, -6.0]}],
        }
    ]
}
VTK = """# vtk DataFile Version 3.0
points
ASCII
DATASET POLYDATA
POINTS 2 float
1 2 3 4.5 -5 -6
"""


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.fcsv", FCSV),
        ("p.mrk.json", json.dumps(MARKUPS)),
        ("p.vtk", VTK),
        ("index.csv", ",x,y,z\n0,1,2,3\n1,4.5,-5,-6\n"),
        ("ants.csv", "x,y,z,t,label\n1,2,3,0,1\n4.5,-5,-6,0,2\n"),
        ("plain.csv", "1,2,3\n4.5,-5,-6\n"),
    ],
)
def test_landmarks_in_every_format_that_pdd_transform_reads(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert np.allclose(read_points(tmp_path / name), [[1, 2, 3], [4.5, -5, -6]])


def test_data_folder_is_named_in_the_error(tmp_path, monkeypatch):
    monkeypatch.setenv("ITK_PDD_DATA", str(tmp_path))
    with pytest.raises(RegistrationError, match="ITK_PDD_DATA"):
        datasets.abdomen_pairs()


def test_benchmark_pairs(data):
    abdomen = datasets.abdomen_pairs()
    assert len(abdomen) == len({p.name for p in abdomen}) == 12
    assert all(path.is_file() for pair in abdomen for path in pair.files().values())
    assert abdomen[0].swapped() in abdomen
    hippocampus = datasets.hippocampus_pairs(count=20)
    assert len({p.name for p in hippocampus}) == 20
    assert hippocampus[:5] == datasets.hippocampus_pairs(count=5)
    assert hippocampus != datasets.hippocampus_pairs(count=20, seed=1)
    assert not {p.fixed for p in hippocampus} & {p.fixed for p in datasets.hippocampus_pairs("train", 400)}
    lung = datasets.lung_pair()
    assert read_points(lung.fixed_points, side="fixed").shape == read_points(lung.moving_points, side="moving").shape
    with pytest.raises(RegistrationError, match="train, validation"):
        datasets.abdomen_pairs("test")
    with pytest.raises(RegistrationError, match="between 1 and 12"):
        datasets.abdomen_pairs(count=13)
