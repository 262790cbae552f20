"""Transforms of elastix and ANTs mean here what they mean there: compared with the points and images of these tools."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from conftest import GEOMETRIES, blobs, rotation, wave
from test_conformance import needs

from itk_pdd import compose, warp_image, warp_points
from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.mapping import AffineMapping
from itk_pdd.io.fields import write_field
from itk_pdd.io.transforms import as_mapping

GRID, FLAT = GEOMETRIES["oblique"], GEOMETRIES["oblique 2-D"]


def applied(transform, points: np.ndarray) -> np.ndarray:
    return np.array([list(transform.TransformPoint(point.tolist())) for point in points])


def affine(dimension: int = 3) -> SimpleITK.AffineTransform:
    transform = SimpleITK.AffineTransform(dimension)
    turn = rotation(10, 5, -20) if dimension == 3 else rotation(10)
    transform.SetMatrix((turn @ np.diag([1.1, 0.9, 1.05][:dimension])).ravel().tolist())
    transform.SetTranslation([4.0, -3.0, 5.0][:dimension])
    return transform


def python(folder: Path, code: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_ants_lists_in_ants_order(tmp_path: Path) -> None:
    """Forward [warp, affine] and backward [affine inverted, inverse warp], as ants.registration returns them."""
    needs("ants")
    fixed, moving = blobs(GRID), blobs(GRID, seed=1)
    field = wave(GRID)
    inverse, _ = field.inverse()
    SimpleITK.WriteImage(fixed.to_simpleitk(), str(tmp_path / "fixed.nii.gz"))
    SimpleITK.WriteImage(moving.to_simpleitk(), str(tmp_path / "moving.nii.gz"))
    write_field(field, tmp_path / "1Warp.nii.gz")
    write_field(inverse, tmp_path / "1InverseWarp.nii.gz")
    centred = affine()
    centred.SetCenter(GRID.centre.tolist())
    SimpleITK.WriteTransform(centred, str(tmp_path / "start.mat"))
    points = GRID.to_physical(np.random.default_rng(0).uniform(5, np.asarray(GRID.size) - 6, (20, 3)))
    np.savetxt(tmp_path / "points.txt", points, fmt="%.9f")
    theirs = python(tmp_path, """
        import ants, json, numpy, pandas
        ants.write_transform(ants.read_transform("start.mat"), "0GenericAffine.mat")
        fixed, moving = ants.image_read("fixed.nii.gz"), ants.image_read("moving.nii.gz")
        forward, backward = ["1Warp.nii.gz", "0GenericAffine.mat"], ["0GenericAffine.mat", "1InverseWarp.nii.gz"]
        warped = ants.apply_transforms(fixed, moving, forward, interpolator="linear")
        ants.image_write(warped, "forward.nii.gz")
        back = ants.apply_transforms(moving, fixed, backward, interpolator="linear", whichtoinvert=[True, False])
        ants.image_write(back, "backward.nii.gz")
        points = pandas.DataFrame(numpy.loadtxt("points.txt"), columns=["x", "y", "z"])
        moved = ants.apply_transforms_to_points(3, points, forward)
        print()
        print(json.dumps(moved[["x", "y", "z"]].values.tolist()))
        """)  # fmt: skip
    folder, inner = tmp_path, np.s_[2:-2, 2:-2, 2:-2]
    forward = [folder / "1Warp.nii.gz", folder / "0GenericAffine.mat"]
    # A fixed point goes through the field first, then through the affine: the order of the list.
    np.testing.assert_allclose(warp_points(points, forward, to="moving", outside="nearest"), theirs, atol=1e-3)
    backward = [f"[{folder / '0GenericAffine.mat'},1]", folder / "1InverseWarp.nii.gz"]
    for name, image, reference, transforms in (
        ("forward", moving, fixed, forward),
        ("backward", fixed, moving, backward),
    ):
        ours = SimpleITK.GetArrayFromImage(
            warp_image(image.to_simpleitk(), transforms, reference=reference.to_simpleitk())
        )
        found = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / f"{name}.nii.gz")))
        both = (ours != 0) & (found != 0)
        assert both[inner].mean() > 0.3
        assert np.abs(ours - found)[both].max() < 1e-3 * np.ptp(image.array), name


def test_elastix_parameter_files(tmp_path: Path) -> None:
    """Three stages written by elastix itself, the last with the others as its initial transforms."""
    grid = Grid.create((33, 29, 27), (1.1, 1.3, 1.7), (-13.0, 40.0, 7.5), rotation(20, -15, 40))
    SimpleITK.WriteImage(blobs(grid).to_simpleitk(), str(tmp_path / "fixed.nii.gz"))
    shifted = warp_image(blobs(grid).to_simpleitk(), wave(grid, amplitude=2.0))
    SimpleITK.WriteImage(shifted, str(tmp_path / "moving.nii.gz"))
    points = grid.to_physical(np.random.default_rng(0).uniform(1, np.asarray(grid.size) - 2, (30, 3)))
    rows = "\n".join(" ".join(f"{value:.9f}" for value in point) for point in points)
    (tmp_path / "points.txt").write_text(f"point\n{len(points)}\n{rows}\n")
    if not _has_elastix():
        pytest.skip("itk-elastix is not installed (pip install .[test])")
    theirs = python(tmp_path, """
        import itk, json, os, re
        fixed, moving = itk.imread("fixed.nii.gz", itk.F), itk.imread("moving.nii.gz", itk.F)
        maps = itk.ParameterObject.New()
        for kind in ("rigid", "affine", "bspline"):
            chosen = maps.GetDefaultParameterMap(kind, 1, 12.0)
            chosen["MaximumNumberOfIterations"] = ["20"]
            chosen["NumberOfSpatialSamples"] = ["500"]
            maps.AddParameterMap(chosen)
        os.makedirs("stages")
        _, result = itk.elastix_registration_method(
            fixed, moving, parameter_object=maps, output_directory="stages"
        )
        os.makedirs("out")
        itk.transformix_filter(moving, result, fixed_point_set_file_name="points.txt", output_directory="out")
        rows = re.findall(r"OutputPoint = \\[ ([^\\]]*) \\]", open("out/outputpoints.txt").read())
        print()
        print(json.dumps([[float(n) for n in row.split()] for row in rows]))
        """)  # fmt: skip
    chain = as_mapping(tmp_path / "stages" / "TransformParameters.2.txt")
    assert len(chain.parts) == 3
    mapped = chain(points)
    np.testing.assert_allclose(mapped, theirs, atol=1e-3)
    linear = as_mapping(tmp_path / "stages" / "TransformParameters.1.txt")(points)
    assert np.abs(mapped - linear).max() > 0.2, "the B-spline is not lost"
    assert np.abs(mapped - points).max() > 1
    back, error = chain.invert(mapped)
    assert error.max() < 1e-3
    np.testing.assert_allclose(back, points, atol=2e-3)
    mapping = as_mapping(tmp_path / "stages" / "TransformParameters.1.txt", dimension=3, name="initial_transform")
    assert isinstance(mapping, AffineMapping)
    np.testing.assert_allclose(mapping(points), linear, atol=1e-9)


def _has_elastix() -> bool:
    import importlib.util

    folder = Path(importlib.util.find_spec("itk").submodule_search_locations[0])
    return any(folder.glob("*lastix*"))


ELASTIX = {
    "TranslationTransform 2": ("1.5 -2", "", lambda: SimpleITK.TranslationTransform(2, (1.5, -2.0))),
    "EulerTransform 2": ("0.2 1.5 -2", "3 4", lambda: SimpleITK.Euler2DTransform((3.0, 4.0), 0.2, (1.5, -2.0))),
    "EulerTransform 3": (
        "0.1 0.2 -0.3 1 2 3", "3 4 5",
        lambda: SimpleITK.Euler3DTransform((3.0, 4.0, 5.0), 0.1, 0.2, -0.3, (1.0, 2.0, 3.0)),
    ),
    "SimilarityTransform 2": (
        "1.1 0.2 1.5 -2", "3 4", lambda: SimpleITK.Similarity2DTransform(1.1, 0.2, (1.5, -2.0), (3.0, 4.0)),
    ),
    "AffineTransform 2": (
        "1.1 0.2 -0.1 0.9 1.5 -2", "3 4",
        lambda: SimpleITK.AffineTransform((1.1, 0.2, -0.1, 0.9), (1.5, -2.0), (3.0, 4.0)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ELASTIX)
def test_linear_transforms_of_elastix(tmp_path: Path, case: str) -> None:
    kind, dimension = case.split()
    parameters, centre, expected = ELASTIX[case]
    lines = [
        f'(Transform "{kind}")', f"(FixedImageDimension {dimension})", f"(TransformParameters {parameters})",
        f"(CenterOfRotationPoint {centre})" if centre else "// none", '(UseDirectionCosines "true")',
    ]  # fmt: skip
    (tmp_path / "t.txt").write_text("\n".join(lines))
    points = np.random.default_rng(0).normal(0, 20, (10, int(dimension)))
    found = as_mapping(tmp_path / "t.txt", dimension=int(dimension))
    np.testing.assert_allclose(found(points), applied(expected(), points), atol=1e-9)


BAD_ELASTIX = {
    "unknown kind": ('(Transform "SplineKernelTransform")', "holds a SplineKernelTransform, expected one of"),
    "number missing": ('(Transform "AffineTransform")\n(TransformParameters 1 0 0 1 2)', "has 5 numbers, expected 12"),
    "no parameters": ('(Transform "TranslationTransform")', r"has no entry \(TransformParameters"),
    "text for a number": (
        '(Transform "TranslationTransform")\n(TransformParameters 1 2 a)', "something other than numbers",
    ),
    "added transforms": (
        '(Transform "TranslationTransform")\n(TransformParameters 1 2 3)\n(HowToCombineTransforms "Add")\n'
        '(InitialTransformParameterFileName "t.txt")', "combines its transforms by Add",
    ),
    "itself": (
        '(Transform "TranslationTransform")\n(TransformParameters 1 2 3)\n'
        '(InitialTransformParameterFileName "t.txt")', "is its own initial transform",
    ),
    "initial missing": (
        '(Transform "TranslationTransform")\n(TransformParameters 1 2 3)\n'
        '(InitialTransformParameterFileName "gone.txt")', "names the file gone.txt",
    ),
    "no directions": (
        '(Transform "TranslationTransform")\n(TransformParameters 1 2 3)\n(UseDirectionCosines "false")',
        "is no mapping of physical points",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ELASTIX)
def test_bad_parameter_files(tmp_path: Path, case: str) -> None:
    text, message = BAD_ELASTIX[case]
    (tmp_path / "t.txt").write_text(f"(FixedImageDimension 3)\n{text}\n")
    with pytest.raises(RegistrationError, match=message) as caught:
        as_mapping(tmp_path / "t.txt", dimension=3, name="initial_transform")
    assert str(caught.value).startswith("initial_transform: ")


def test_inverse_in_ants_notation(tmp_path: Path) -> None:
    SimpleITK.WriteTransform(affine(), str(tmp_path / "a.mat"))
    points = np.random.default_rng(0).normal(0, 20, (10, 3))
    for flag, expected in ((1, affine().GetInverse()), (0, affine())):
        mapping = as_mapping(f"[{tmp_path / 'a.mat'},{flag}]", dimension=3, name="initial_transform")
        np.testing.assert_allclose(mapping(points), applied(expected, points), atol=1e-9)
    write_field(wave(GRID), tmp_path / "1Warp.nii.gz")
    with pytest.raises(RegistrationError, match=r"is not linear and cannot be inverted on the way .*1InverseWarp"):
        as_mapping(f"[{tmp_path / '1Warp.nii.gz'}, 1]", dimension=3, name="initial_transform")
    with pytest.raises(RegistrationError, match="there is no file"):
        as_mapping(f"[{tmp_path / 'gone.mat'},1]", dimension=3, name="initial_transform")


def test_list_of_two_dimensions(tmp_path: Path) -> None:
    with pytest.raises(RegistrationError, match=r"transform\[1\] is 2-D but"):
        compose([affine(3), affine(2)])
    with pytest.raises(RegistrationError, match="transform is an empty list"):
        compose([])
