"""Files of one name and several endings, and pairs of header and voxels, are read as the ones asked for."""

from __future__ import annotations

import gzip
import itertools
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from conftest import GEOMETRIES, blobs, wave

from itk_pdd.errors import RegistrationError
from itk_pdd.io.fields import read_field, write_field
from itk_pdd.io.files import read_image, write_image
from itk_pdd.io.images import reference_grid
from itk_pdd.io.outputs import Output, write_all
from itk_pdd.io.volume import Volume

GRID = GEOMETRIES["oblique"]


def voxels(path: Path) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(read_image(path))


def write(path: Path, array: np.ndarray) -> None:
    """Write voxels (x, y, z) with nibabel, which has no files of capitals."""
    kind = nibabel.Nifti1Pair if path.name.lower().startswith(("p.hdr", "p.img")) else nibabel.Nifti1Image
    plain = path.parent / "writing" / path.name.lower()
    plain.parent.mkdir(exist_ok=True)
    nibabel.save(kind(array, np.diag([2.0, 2, 2, 1])), plain)
    for file in plain.parent.iterdir():
        os.replace(file, path.parent / (file.name if path.name == path.name.lower() else file.name.upper()))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5, 3)], ids=["same size", "another size"])
@pytest.mark.parametrize(
    "names",
    [("p.nii.gz", "p.nii"), ("p.img", "p.nii"), ("p.img", "p.nii.gz"), ("P.NII.GZ", "P.NII"), ("p.img", "p.img.gz")],
    ids=" ".join,
)
def test_each_of_two_files_of_one_name_is_read(tmp_path, names: tuple[str, str], shape, dtype: str) -> None:
    for order in itertools.permutations(names):
        folder = tmp_path / order[0].replace(".", "-")
        folder.mkdir()
        generator, written = np.random.default_rng(1), {}
        for name, size in zip(order, [(4, 5, 6), shape], strict=True):
            written[name] = generator.integers(0, 255, size).astype(dtype)
            write(folder / name, written[name])
        for name, array in written.items():
            np.testing.assert_array_equal(voxels(folder / name).T, array, name)
            if name.endswith(".img"):
                np.testing.assert_array_equal(voxels(folder / name.replace(".img", ".hdr")).T, array, name)


def test_masks_labels_fields_and_references_beside_a_file_of_another_ending(tmp_path) -> None:
    inside = np.zeros(GRID.shape, np.uint8)
    inside[3:6, 4:8, 5:9] = 1
    SimpleITK.WriteImage(Volume(inside, GRID).to_simpleitk(), str(tmp_path / "m.nii.gz"))
    SimpleITK.WriteImage(Volume(1 - inside, GRID).to_simpleitk(), str(tmp_path / "m.nii"))
    grid = reference_grid(tmp_path / "m.nii.gz")
    np.testing.assert_array_equal(Volume.mask_from_image(tmp_path / "m.nii.gz", grid).array, inside == 1)
    np.testing.assert_array_equal(Volume.labels_from_image(tmp_path / "m.nii.gz").array, inside)
    for first, second in (("f.nii", "f.nii.gz"), ("g.nii.gz", "g.nii")):
        write_field(wave(GRID), tmp_path / first)
        write_field(wave(GRID, amplitude=-3), tmp_path / second)
        np.testing.assert_array_equal(read_field(tmp_path / first).vectors, wave(GRID).vectors)
        np.testing.assert_array_equal(read_field(tmp_path / second).vectors, wave(GRID, amplitude=-3).vectors)


def test_outputs_of_one_name_are_written_together(tmp_path) -> None:
    image, other = blobs(GRID, dtype=np.int16), blobs(GRID, seed=1, dtype=np.int16)
    write_all(
        [
            (Output(tmp_path / "r.nii", "one", [".nii"]), lambda path: write_image(image.to_simpleitk(), path)),
            (Output(tmp_path / "r.nii.gz", "two", [".nii.gz"]), lambda path: write_image(other.to_simpleitk(), path)),
        ]
    )
    for name, volume in (("r.nii", image), ("r.nii.gz", other)):
        np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / name).dataobj).T, volume.array)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.AnalyzeImage], ids=["NIfTI", "Analyze"])
def test_pairs_cut_short_or_with_nan_are_refused(tmp_path, kind: type, packed: bool) -> None:
    array = np.random.default_rng(0).normal(0, 1, (5, 6, 7)).astype(np.float32)
    array[3, 2, 1] = np.nan
    nibabel.save(kind(array, np.eye(4)), tmp_path / "a.img")
    image = tmp_path / "a.img"
    if packed:
        image = tmp_path / "a.img.gz"
        image.write_bytes(gzip.compress((tmp_path / "a.img").read_bytes()))
        (tmp_path / "a.img").unlink()
    for name in ("a.hdr", image.name):
        with pytest.raises(RegistrationError, match=r"has 1 NaN or infinite voxels, the first at index \(3, 2, 1\)"):
            read_image(tmp_path / name)
    content = gzip.decompress(image.read_bytes()) if packed else image.read_bytes()
    image.write_bytes(gzip.compress(content[:-6]) if packed else content[:-6])
    for name in ("a.hdr", image.name):
        with pytest.raises(RegistrationError, match="was cut short, it lacks 6 bytes"):
            read_image(tmp_path / name)


def test_half_of_a_pair_is_refused(tmp_path) -> None:
    """ITK would take the header of the NIfTI file of that name."""
    array = np.zeros((5, 6, 7), np.float32)
    nibabel.save(nibabel.Nifti1Pair(array, np.eye(4)), tmp_path / "a.img")
    nibabel.save(nibabel.Nifti1Image(array + 1, np.eye(4)), tmp_path / "a.nii")
    (tmp_path / "a.hdr").unlink()
    with pytest.raises(RegistrationError, match=r"a.img is half of an image, there is no .*a.hdr beside it"):
        read_image(tmp_path / "a.img", name="moving")


def test_without_a_temporary_folder_the_neighbour_is_named(tmp_path, monkeypatch) -> None:
    for name in ("p.nii", "p.nii.gz"):
        write(tmp_path / name, np.ones((4, 5, 6), np.uint8))
    monkeypatch.setattr("tempfile.mkdtemp", lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError()))
    with pytest.raises(RegistrationError, match=r"differs in its ending only.*rename one of them"):
        read_image(tmp_path / "p.nii.gz")
