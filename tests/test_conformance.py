"""One field on an oblique, anisotropic grid of odd size means the same to ITK, SimpleITK, elastix, ANTs and greedy.

Programs that bring an ITK of their own run in a process of their own.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK
from conftest import blobs, rotation, wave

from itk_pdd import warp_image, warp_points
from itk_pdd.commands.transform import compose_file
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.fields import write_field

FIXED = Grid.create((27, 23, 19), (1.1, 1.7, 2.9), (-13.0, 40.0, 7.5), rotation(20, -15, 40))
TURN = rotation(-5, 10, 12)
MOVING = Grid.create((51, 47, 41), (1.3, 1.5, 2.1), FIXED.centre - TURN @ (33.0, 35.0, 42.0), TURN)
INNER = np.s_[4:-4, 4:-4, 4:-4]


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> SimpleNamespace:
    """Files of a fixed and a moving image and of a field, points inside, and what the field makes of all of it."""
    folder = tmp_path_factory.mktemp("conformance")
    field = wave(FIXED, amplitude=3.0)
    volume = blobs(MOVING)
    moving = volume.to_simpleitk()
    SimpleITK.WriteImage(blobs(FIXED).to_simpleitk(), str(folder / "fixed.nii.gz"))
    SimpleITK.WriteImage(moving, str(folder / "moving.nii.gz"))
    write_field(field, folder / "field.nii.gz")
    write_field(field, folder / "field.h5")
    compose_file(folder / "TransformParameters.txt", [folder / "field.nii.gz"], form="elastix")
    warped = SimpleITK.GetArrayFromImage(warp_image(moving, field))
    index = np.random.default_rng(4).uniform(4, np.asarray(FIXED.size) - 5, (40, 3))
    points = FIXED.to_physical(index)
    np.savetxt(folder / "points.txt", points, fmt="%.9f")
    there = SimpleNamespace(folder=folder, field=field, volume=volume, points=points, warped=warped)
    there.moved = warp_points(points, field, to="moving")
    return there


def read(path: Path) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def assert_same_image(pair: SimpleNamespace, found: np.ndarray) -> None:
    image = pair.warped
    assert found.shape == image.shape
    difference = np.abs(found - image)[INNER].max() / np.ptp(pair.volume.array)
    assert difference < 1e-3, f"{difference:.2g} of the intensity range"


def assert_same_points(pair: SimpleNamespace, found: np.ndarray, tolerance: float = 1e-3) -> None:
    distance = np.linalg.norm(np.asarray(found) - pair.moved, axis=-1).max()
    assert distance < tolerance, f"{distance:.2g} mm"


def needs(module: str, extra: str = "test") -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed (pip install .[{extra}])")


def python(folder: Path, code: str) -> dict:
    """Run a program in the folder of the pair; its answer is the last line it prints, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_the_field_says_what_numpy_says(pair) -> None:
    """The common yardstick itself: trilinear interpolation written out."""
    from scipy import ndimage

    there = FIXED.points() + pair.field.vectors
    index = np.moveaxis(MOVING.to_index(there)[..., ::-1], -1, 0)
    expected = ndimage.map_coordinates(pair.volume.array, index, order=1, mode="constant")
    assert_same_image(pair, expected)
    assert np.ptp(pair.warped[INNER]) > 0.5 * np.ptp(pair.volume.array), "there is something to see"
    identity = warp_image(pair.volume.to_simpleitk(), np.eye(4), reference=FIXED)
    assert np.abs(SimpleITK.GetArrayFromImage(identity) - pair.warped)[INNER].max() > 0.1 * np.ptp(pair.volume.array)


@pytest.mark.parametrize("name", ["field.nii.gz", "field.h5"])
def test_itk(pair, name: str) -> None:
    import itk

    path = str(pair.folder / name)
    fixed, moving = (itk.imread(str(pair.folder / n), itk.F) for n in ("fixed.nii.gz", "moving.nii.gz"))
    if name.endswith(".h5"):
        (transform,) = itk.transformread(path)
        transform = itk.down_cast(transform)
        warped = itk.resample_image_filter(moving, transform=transform, use_reference_image=True, reference_image=fixed)
    else:
        field = itk.imread(path, itk.Vector[itk.F, 3])
        transform = itk.DisplacementFieldTransform[itk.F, 3].New(displacement_field=field)
        output = {
            "output_spacing": fixed.GetSpacing(), "output_origin": fixed.GetOrigin(),
            "output_direction": fixed.GetDirection(), "output_size": itk.size(fixed),
        }  # fmt: skip
        warped = itk.warp_image_filter(moving, displacement_field=field, **output)
    assert_same_image(pair, itk.array_from_image(warped))
    assert_same_points(pair, [list(transform.TransformPoint(point.tolist())) for point in pair.points])


@pytest.mark.parametrize("name", ["field.nii.gz", "field.h5"])
def test_simpleitk(pair, name: str) -> None:
    path = str(pair.folder / name)
    if name.endswith(".h5"):
        transform = SimpleITK.ReadTransform(path)
    else:
        transform = SimpleITK.DisplacementFieldTransform(SimpleITK.ReadImage(path, SimpleITK.sitkVectorFloat64))
    fixed, moving = (SimpleITK.ReadImage(str(pair.folder / n)) for n in ("fixed.nii.gz", "moving.nii.gz"))
    assert_same_image(pair, SimpleITK.GetArrayFromImage(SimpleITK.Resample(moving, fixed, transform)))
    assert_same_points(pair, [transform.TransformPoint(point.tolist()) for point in pair.points])


def test_transformix(pair) -> None:
    if importlib.util.find_spec("itk") is None or not list(
        Path(importlib.util.find_spec("itk").submodule_search_locations[0]).glob("*lastix*")
    ):
        pytest.skip("itk-elastix is not installed (pip install .[test])")
    (pair.folder / "elastix_points.txt").write_text(
        f"point\n{len(pair.points)}\n" + (pair.folder / "points.txt").read_text()
    )
    moved = python(pair.folder, """
        import itk, json, os, re
        moving = itk.imread("moving.nii.gz", itk.F)
        parameters = itk.ParameterObject.New()
        parameters.AddParameterFile("TransformParameters.txt")
        warped = itk.transformix_filter(moving, parameters)
        itk.imwrite(warped, "transformix.nii.gz")
        os.makedirs("points", exist_ok=True)
        itk.transformix_filter(
            moving, parameters, fixed_point_set_file_name="elastix_points.txt", output_directory="points"
        )
        text = open("points/outputpoints.txt").read()
        rows = re.findall(r"OutputPoint = \\[ ([^\\]]*) \\]", text)
        print()
        print(json.dumps([[float(n) for n in row.split()] for row in rows]))
        """)  # fmt: skip
    assert_same_image(pair, read(pair.folder / "transformix.nii.gz"))
    assert_same_points(pair, moved)


@pytest.mark.parametrize("name", ["field.nii.gz", "field.h5"])
def test_ants(pair, name: str) -> None:
    needs("ants")
    moved = python(pair.folder, f"""
        import ants, json, numpy, pandas
        fixed, moving = ants.image_read("fixed.nii.gz"), ants.image_read("moving.nii.gz")
        warped = ants.apply_transforms(fixed, moving, ["{name}"], interpolator="linear")
        ants.image_write(warped, "{name}.ants.nii.gz")
        points = pandas.DataFrame(numpy.loadtxt("points.txt"), columns=["x", "y", "z"])
        moved = ants.apply_transforms_to_points(3, points, ["{name}"])
        print()
        print(json.dumps(moved[["x", "y", "z"]].values.tolist()))
        """)  # fmt: skip
    assert_same_image(pair, read(pair.folder / f"{name}.ants.nii.gz"))
    assert_same_points(pair, moved)


def test_greedy(pair) -> None:
    needs("picsl_greedy")
    # greedy moves meshes in NIfTI's coordinates (RAS).
    write_vtk(pair.folder / "points.vtk", pair.points * [-1, -1, 1])
    python(pair.folder, """
        from picsl_greedy import Greedy3D
        greedy = Greedy3D()
        greedy.execute("-threads 1 -rf fixed.nii.gz -rm moving.nii.gz greedy.nii.gz -rs points.vtk moved.vtk "
                       "-r field.nii.gz")
        print()
        print("{}")
        """)  # fmt: skip
    assert_same_image(pair, read(pair.folder / "greedy.nii.gz"))
    from itk_pdd.io.points import read_points

    assert_same_points(pair, read_points(pair.folder / "moved.vtk", system="RAS").points)


def write_vtk(path: Path, points: np.ndarray) -> None:
    rows = "\n".join(" ".join(f"{value:.9f}" for value in point) for point in points)
    cells = "\n".join(f"1 {i}" for i in range(len(points)))
    path.write_text(
        f"# vtk DataFile Version 3.0\npoints\nASCII\nDATASET POLYDATA\nPOINTS {len(points)} double\n{rows}\n"
        f"VERTICES {len(points)} {2 * len(points)}\n{cells}\n"
    )
