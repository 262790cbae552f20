"""Lists of pairs: names, what is wrong with a row, wildcards, BIDS folders."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from itk_pdd.cli.batch import OUTPUTS as told

from itk_pdd.cohort.bids import describe, items_of_bids
from itk_pdd.cohort.listing import OUTPUTS, distinct_names, items_of_files, items_of_rows, read_items
from itk_pdd.errors import RegistrationError


def listed(folder: Path, text: str):
    path = folder / "pairs.csv"
    path.write_text(text, encoding="utf-8")
    return read_items(path)


def test_a_list(tmp_path):
    first, second = listed(
        tmp_path,
        "fixed,moving,name,initial_transform,model\n"
        "a.nii,sub/b.nii,one,1Warp.nii.gz; 0Affine.mat,\n"
        'a.nii,/c.nii,two,"[0Affine.mat,1]",general\n',
    )
    assert (first.name, second.name, second.model) == ("one", "two", "general")
    assert first.files["moving"] == str(tmp_path / "sub/b.nii") and second.files["moving"] == "/c.nii"
    assert first.files["initial_transform"] == [str(tmp_path / "1Warp.nii.gz"), str(tmp_path / "0Affine.mat")]
    assert second.files["initial_transform"] == f"[{tmp_path / '0Affine.mat'},1]"
    assert second.paths()["initial_transform"] == [tmp_path / "0Affine.mat"]
    assert first.target("field") == "one/field.nii.gz" and not first.problem


def test_rows_that_cannot_be_used_are_named_and_the_others_stay(tmp_path):
    items = listed(
        tmp_path,
        "fixed,moving,name\na.nii,b.nii,x\na.nii,,y\na.nii,c.nii,X\na.nii,d.nii,../z\na.nii,e.nii,\n",
    )
    assert [item.problem for item in items] == [
        "",
        "line 3 has no moving",
        "line 4 has the name 'X' of line 2: give another",
        "line 5 has the name '../z', expected letters, digits and . + - _ alone",
        "",
    ]
    assert len({item.name.casefold() for item in items}) == 5 and items[4].name == "e"


def test_a_list_without_the_columns_is_an_error(tmp_path):
    with pytest.raises(RegistrationError, match=r"lacks the column\(s\) moving"):
        listed(tmp_path, "fixed\na.nii\n")
    with pytest.raises(RegistrationError, match=r"unknown column\(s\) shape"):
        listed(tmp_path, "fixed,moving,shape\na.nii,b.nii,2\n")
    with pytest.raises(RegistrationError, match=r"unknown column\(s\) shape"):
        items_of_rows([{"fixed": "a.nii", "moving": "b.nii", "shape": "2"}])


def test_names():
    assert distinct_names(["/d/a.nii.gz", "/d/b.nii"]) == ["a", "b"]
    assert distinct_names(["/d/1/scan.nii", "/d/2/scan.nii"]) == ["1_scan", "2_scan"]
    assert distinct_names(["/d/.a b.nii"]) == ["a_b"]
    assert [item.name for item in items_of_rows([("f.nii", "m.nii"), ("g.nii", "m.nii")])] == ["f_m", "g_m"]


def test_a_pattern(tmp_path):
    for name in ("atlas", "s1", "s2"):
        (tmp_path / f"{name}.nii").touch()
    items = items_of_files(tmp_path / "atlas.nii", str(tmp_path / "*.nii"))
    assert [item.name for item in items] == ["s1", "s2"], "the fixed image is not registered to itself"
    with pytest.raises(RegistrationError, match="matches no file"):
        items_of_files(tmp_path / "atlas.nii", str(tmp_path / "*.mha"))


def test_bids(tmp_path):
    for subject, session in (("01", "pre"), ("01", "post"), ("02", "pre")):
        folder = tmp_path / f"sub-{subject}" / f"ses-{session}" / "anat"
        folder.mkdir(parents=True)
        (folder / f"sub-{subject}_ses-{session}_T1w.nii.gz").touch()
    (tmp_path / "sub-01/ses-post/anat/sub-01_ses-post_dseg.nii.gz").touch()
    to_atlas = items_of_bids(tmp_path, fixed=tmp_path / "MNI_152.nii")
    assert len(to_atlas) == 3
    first = to_atlas[0]
    folder = "sub-01/ses-post/anat"
    assert first.target("transform") == f"{folder}/sub-01_ses-post_from-T1w_to-MNI152_mode-image_xfm.h5"
    assert first.target("warped") == f"{folder}/sub-01_ses-post_space-MNI152_T1w.nii.gz"
    assert "moving_labels" in first.files and "moving_labels" not in to_atlas[1].files
    (follow_up,) = items_of_bids(tmp_path)
    assert Path(follow_up.files["fixed"]).name == "sub-01_ses-post_T1w.nii.gz"
    assert follow_up.target("transform").endswith("ses-pre_from-T1w_to-sespost_mode-image_xfm.h5")
    with pytest.raises(RegistrationError, match="no images"):
        items_of_bids(tmp_path, suffix="T2w")
    out = tmp_path / "derivatives"
    out.mkdir()
    describe(out, tmp_path)
    written = json.loads((out / "dataset_description.json").read_text())
    assert written["DatasetType"] == "derivative" and written["GeneratedBy"][0]["Name"] == "itk_pdd"


def test_commands_of_cohorts_load_dask_only_where_it_works():
    names = "itk_pdd, itk_pdd.cli.batch, itk_pdd.cli.segment, itk_pdd.cli.template, itk_pdd.cohort.batch"
    program = f"import sys, {names}\nprint([name for name in sys.modules if name.startswith(('dask', 'distributed'))])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found.stderr


def test_the_command_names_the_outputs() -> None:
    assert tuple(OUTPUTS) == told
