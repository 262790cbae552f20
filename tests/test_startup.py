"""A registration by the default model loads no library that it does not need."""

from __future__ import annotations

import subprocess
import sys

import pytest
import SimpleITK
from conftest import GEOMETRIES, blobs

PROGRAM = """
import sys
import SimpleITK
import itk_pdd

fixed, moving, kind = sys.argv[1:]
if kind == "images":
    fixed, moving = SimpleITK.ReadImage(fixed), SimpleITK.ReadImage(moving)
itk_pdd.register(fixed, moving, return_uncertainty="full" if kind == "images" else False)
print(*[name for name in ("torch", "itk", "matplotlib") if name in sys.modules])
"""


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / "fixed.nii", tmp_path / "moving.nii"]
    for seed, path in enumerate(paths):
        SimpleITK.WriteImage(blobs(GEOMETRIES["anisotropic"], seed=seed).to_simpleitk(), path)
    return paths


@pytest.mark.slow
def test_a_registration_of_simpleitk_images_loads_neither_torch_nor_itk(files):
    found = subprocess.run([sys.executable, "-c", PROGRAM, *files, "images"], capture_output=True, text=True)
    assert found.stdout.split() == [], found.stderr
    assert found.returncode == 0, found.stderr


@pytest.mark.slow
def test_a_command_from_files_to_a_file_loads_neither_torch_nor_itk(files, tmp_path):
    program = "import sys; from itk_pdd.cli.register import main\n"
    program += "main(sys.argv[1:], standalone_mode=False)\n"
    program += "print(*[name for name in ('torch', 'itk', 'matplotlib') if name in sys.modules])"
    out = tmp_path / "field.nii"
    found = subprocess.run([sys.executable, "-c", program, *files, "-o", out], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert out.exists() and found.stdout.split("\n")[-2].split() == [], found.stdout


ITK_PROGRAM = """
import sys
import threading
import itk
import itk_pdd
from itk_pdd import registration

def loaded():
    return {name for name in sys.modules if name.startswith("itk.")}

def answer(field, convert=registration.field_to_itk):
    [thread.join() for thread in threading.enumerate() if thread.name == "itk_pdd loads ITK"]
    before = loaded()
    result = convert(field)
    print(len(before), *(loaded() - before))
    return result

registration.field_to_itk = answer
itk_pdd.register(*[itk.imread(name, itk.F) for name in sys.argv[1:]])
"""


@pytest.mark.slow
def test_modules_of_itk_for_the_answer_are_loaded_while_the_search_computes(files):
    found = subprocess.run([sys.executable, "-c", ITK_PROGRAM, *files], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    count, *late = found.stdout.split()
    assert int(count) > 0 and late == []
