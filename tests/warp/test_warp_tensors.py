"""Diffusion tensors turn with the tissue, whatever the format, the axes and the measurement frame."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from conftest import GEOMETRIES, rotation

from itk_pdd import warp_image
from itk_pdd.commands.transform import image_file
from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.formats.tensors import TensorImage, holds_tensors, read_tensors, tensor_writer
from itk_pdd.warp.tensors import turned, warp_tensors

GRID = GEOMETRIES["oblique"]
TURN = rotation(20, -15, 40)
FIBRE = rotation(-30, 10, 5) @ np.diag([3.0, 1.0, 0.5]) @ rotation(-30, 10, 5).T * 1e-3
CUBE = Grid.create((12, 12, 12), 1.0, -5.5, rotation(10, 5, -20))


def about_centre(matrix: np.ndarray, grid: Grid) -> np.ndarray:
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = matrix, grid.centre - matrix @ grid.centre
    return result


def constant(grid: Grid) -> TensorImage:
    return TensorImage(np.broadcast_to(FIBRE, (*grid.shape, 3, 3)).copy(), grid)


@pytest.mark.parametrize("way", ["matrix", "field"])
def test_a_rotation_turns_tensors_exactly(way: str) -> None:
    # Fixed points go to moving points by TURN: the tissue turns the other way.
    matrix = about_centre(TURN, CUBE)
    field = DisplacementField.from_function(lambda p: p @ matrix[:3, :3].T + matrix[:3, 3], CUBE)
    found = warp_tensors(constant(CUBE), matrix if way == "matrix" else field, reference=CUBE)
    expected = TURN.T @ FIBRE @ TURN
    centre = found.values[4:8, 4:8, 4:8]
    np.testing.assert_allclose(centre, np.broadcast_to(expected, centre.shape), atol=1e-8)


def test_principal_directions_are_preserved() -> None:
    """Against the formula of Alexander et al., one tensor at a time."""
    generator = np.random.default_rng(0)
    for _ in range(20):
        root, jacobian = generator.normal(size=(3, 3)), np.eye(3) + generator.normal(0, 0.3, (3, 3))
        tensor, moves = root @ root.T, np.linalg.inv(jacobian)
        lengths, axes = np.linalg.eigh(tensor)
        first = moves @ axes[:, 2] / np.linalg.norm(moves @ axes[:, 2])
        second = moves @ axes[:, 1] - (first @ moves @ axes[:, 1]) * first
        second /= np.linalg.norm(second)
        frame = np.column_stack([np.cross(first, second), second, first])
        expected = frame @ np.diag(lengths) @ frame.T
        np.testing.assert_allclose(turned(tensor, jacobian), expected, atol=1e-9)
        np.testing.assert_allclose(np.linalg.eigvalsh(turned(tensor, jacobian)), lengths, atol=1e-9)
    assert np.isfinite(turned(FIBRE, np.zeros((3, 3)))).all(), "where the transform folds"


def test_a_fibre_follows_a_shear() -> None:
    shear = np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    along_y = np.diag([0.1, 1.0, 0.1])
    found = turned(along_y, shear)
    direction = np.linalg.eigh(found)[1][:, 2]
    expected = np.linalg.inv(shear) @ [0, 1, 0]
    assert abs(direction @ expected) / np.linalg.norm(expected) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("name", ["t.nii.gz", "t.nii", "t.nrrd"])
def test_formats_give_back_what_they_are_given(tmp_path: Path, name: str) -> None:
    values = np.random.default_rng(0).normal(size=(*GRID.shape, 3, 3))
    given = TensorImage(values + values.swapaxes(-1, -2), GRID)
    tensor_writer(given)(tmp_path / name)
    assert holds_tensors(tmp_path / name)
    found = read_tensors(tmp_path / name)
    np.testing.assert_allclose(found.values, given.values, atol=1e-5)
    assert found.grid.same_space(GRID)


def test_nifti_holds_the_lower_triangle_in_voxel_axes(tmp_path: Path) -> None:
    tensor_writer(constant(GRID))(tmp_path / "t.nii.gz")
    image = nibabel.load(tmp_path / "t.nii.gz")
    assert image.header.get_intent()[:2] == ("symmetric matrix", (3.0,))
    xx, yx, yy, zx, zy, zz = np.asarray(image.dataobj)[1, 2, 3, 0]
    axes = np.diag([-1, -1, 1]) @ image.affine[:3, :3] / np.linalg.norm(image.affine[:3, :3], axis=0)
    found = axes @ [[xx, yx, zx], [yx, yy, zy], [zx, zy, zz]] @ axes.T
    np.testing.assert_allclose(found, FIBRE, atol=1e-8)


@pytest.mark.parametrize("kind", ["3D-symmetric-matrix", "3D-masked-symmetric-matrix", "3D-matrix"])
def test_nrrd_of_a_ras_scanner_with_a_measurement_frame(tmp_path: Path, kind: str) -> None:
    mirror, frame = np.diag([-1.0, -1.0, 1.0]), rotation(0, 0, 30)
    own = frame.T @ mirror @ FIBRE @ mirror @ frame  # FIBRE, as the scanner measured it
    upper = own[np.triu_indices(3)]
    numbers = {"3D-symmetric-matrix": upper, "3D-matrix": own.ravel()}.get(kind, np.append(1.0, upper))
    told = " ".join("(" + ",".join(map(repr, column.tolist())) + ")" for column in frame.T)
    head = (
        f"NRRD0005\ntype: float\ndimension: 4\nspace: right-anterior-superior\nsizes: {len(numbers)} 4 5 6\n"
        f"space directions: none (2,0,0) (0,2,0) (0,0,3)\nkinds: {kind} space space space\nendian: little\n"
        f"encoding: raw\nspace origin: (1,2,3)\nmeasurement frame: {told}\n\n"
    )
    body = np.broadcast_to(numbers.astype("<f4"), (6, 5, 4, len(numbers))).tobytes()
    (tmp_path / "t.nrrd").write_bytes(head.encode() + body)
    found = read_tensors(tmp_path / "t.nrrd")
    np.testing.assert_allclose(found.values[2, 3, 1], FIBRE, atol=1e-8)
    np.testing.assert_allclose(found.grid.to_physical(np.array([1, 1, 1])), [-3, -4, 6])
    (tmp_path / "t.nrrd").write_bytes(head.encode() + body[:-4])
    with pytest.raises(RegistrationError, match="cut short"):
        read_tensors(tmp_path / "t.nrrd")


def test_from_file_to_file_and_what_is_refused(tmp_path: Path) -> None:
    tensor_writer(constant(CUBE))(tmp_path / "t.nii.gz")
    import SimpleITK

    turn = SimpleITK.Euler3DTransform()
    turn.SetMatrix(TURN.ravel().tolist())
    turn.SetCenter(CUBE.centre.tolist())
    SimpleITK.WriteTransform(turn, str(tmp_path / "r.tfm"))
    nibabel.save(nibabel.Nifti1Image(np.zeros(CUBE.size, np.float32), nibabel.load(tmp_path / "t.nii.gz").affine),
                 tmp_path / "fa.nii.gz")  # fmt: skip
    image_file(tmp_path / "t.nii.gz", tmp_path / "o.nrrd", [tmp_path / "r.tfm"], reference=tmp_path / "fa.nii.gz")
    np.testing.assert_allclose(read_tensors(tmp_path / "o.nrrd").values[6, 6, 6], TURN.T @ FIBRE @ TURN, atol=1e-8)
    with pytest.raises(RegistrationError, match="image holds tensors"):
        warp_image(tmp_path / "t.nii.gz", np.eye(4), reference=CUBE)
    with pytest.raises(RegistrationError, match="expected 'linear' or 'nearest' for tensors"):
        warp_tensors(constant(CUBE), np.eye(4), reference=CUBE, interpolation="bspline")
