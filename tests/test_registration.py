"""What goes into the engine and what comes out of ``register``; the engine itself is a stand-in here."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import SimpleITK
from conftest import GEOMETRIES, blobs, rotation, to_itk, wave

import itk_pdd
from itk_pdd import models
from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.fields import field_from_image, field_to_itk
from itk_pdd.io.volume import Volume
from itk_pdd.registration import prepare
from itk_pdd.solver import prealignment
from itk_pdd.synthesis import make_pair

GRID, FLAT = GEOMETRIES["oblique"], GEOMETRIES["oblique 2-D"]


def warped_by_itk(moving, transform, fixed) -> np.ndarray:
    import itk

    warped = itk.resample_image_filter(
        moving, transform=transform, use_reference_image=True, reference_image=fixed, default_pixel_value=0
    )
    return itk.array_from_image(warped)


def test_transform_of_itk_images(engine, grid: Grid) -> None:
    import itk

    fixed, moving = to_itk(blobs(grid)), to_itk(blobs(grid, seed=1))
    transform = itk_pdd.register(fixed, moving)
    assert isinstance(transform, itk.DisplacementFieldTransform[itk.D, grid.dimension])
    field = field_from_image(transform.GetDisplacementField())
    assert field.grid.same_space(grid)
    np.testing.assert_array_equal(field.vectors, wave(grid).vectors)
    np.testing.assert_allclose(
        warped_by_itk(moving, transform, fixed), warped_by_itk(moving, field_to_itk(wave(grid)), fixed)
    )


def test_fixed_image_with_a_start_index(engine) -> None:
    """The same physical mapping, and ITK's resampling on the region of the fixed image, start index and all."""
    plain, shifted, moving = to_itk(blobs(GRID)), to_itk(blobs(GRID), start=11), to_itk(blobs(GRID, seed=1), start=-2)
    reference = warped_by_itk(moving, itk_pdd.register(plain, moving), plain)
    np.testing.assert_allclose(warped_by_itk(moving, itk_pdd.register(shifted, moving), shifted), reference, atol=1e-4)


def test_answers_in_kind(engine, tmp_path) -> None:
    import itk

    fixed, moving = blobs(GRID).to_simpleitk(), blobs(GRID, seed=1).to_simpleitk()
    transform = itk_pdd.register(fixed, moving)
    assert isinstance(transform, SimpleITK.DisplacementFieldTransform)
    assert SimpleITK.GetArrayFromImage(SimpleITK.Resample(moving, fixed, transform)).any()
    SimpleITK.WriteImage(fixed, str(tmp_path / "f.nrrd"))
    assert isinstance(itk_pdd.register(tmp_path / "f.nrrd", moving), SimpleITK.DisplacementFieldTransform)
    double = itk.DisplacementFieldTransform[itk.D, 3]
    assert isinstance(itk_pdd.register(tmp_path / "f.nrrd", str(tmp_path / "f.nrrd")), double)
    assert isinstance(itk_pdd.register(fixed, to_itk(blobs(GRID))), double)


def test_options_reach_the_engine(engine) -> None:
    steps: list[tuple[float, str]] = []
    mask = Volume(np.ones(GRID.shape, np.uint8), GRID).to_simpleitk()
    itk_pdd.register(
        blobs(GRID).to_simpleitk(),
        blobs(GRID, seed=1).to_simpleitk(),
        moving_mask=mask,
        model="some",
        device="cpu",
        seed=7,
        threads=1,
        progress=lambda fraction, text: steps.append((fraction, text)),
        spacing=3.0,
    )
    (call,) = engine.calls
    assert (call.model, call.device, call.seed, call.threads, call.spacing) == ("some", "cpu", 7, 1, 3.0)
    assert call.fixed_mask is None
    assert call.moving_mask.array.all()
    assert call.initial is None
    assert steps[-1] == (1.0, "done")


def test_unknown_option_names_itself(engine) -> None:
    with pytest.raises(TypeError, match="smoothnes"):
        itk_pdd.register(blobs(GRID), blobs(GRID), smoothnes=3.0)


def test_initial_transform_is_part_of_the_result(engine) -> None:
    shift = SimpleITK.TranslationTransform(3, (8.0, -4.0, 2.0))
    moving = blobs(GRID).to_simpleitk()
    transform = itk_pdd.register(moving, moving, initial_transform=shift)
    field = field_from_image(transform.GetDisplacementField())
    np.testing.assert_allclose(field.vectors, wave(GRID).vectors + np.array([8.0, -4.0, 2.0]), atol=1e-4)


def moved(volume: Volume, offset: np.ndarray) -> Volume:
    grid = volume.grid
    return Volume(
        volume.array, Grid.create(grid.size, grid.spacing, np.asarray(grid.origin) + offset, np.asarray(grid.direction))
    )


def test_initialise_center() -> None:
    fixed, moving = blobs(GRID), moved(blobs(GRID), np.array([500.0, -300, 80]))
    initial = prepare(fixed, moving, initialise="center").initial
    np.testing.assert_allclose(initial(np.zeros(3)), [500, -300, 80], atol=1e-9)
    # The masks' centres of mass, if there are two masks.
    masks = []
    for volume, corner in ((fixed, (1, 2, 3)), (moving, (5, 6, 7))):
        array = np.zeros(GRID.shape, bool)
        array[tuple(slice(c, c + 4) for c in corner[::-1])] = True
        masks.append(Volume(array, volume.grid))
    initial = prepare(fixed, moving, initialise="center", fixed_mask=masks[0], moving_mask=masks[1]).initial
    offset = moving.grid.to_physical([6.5, 7.5, 8.5]) - fixed.grid.to_physical([2.5, 3.5, 4.5])
    np.testing.assert_allclose(initial(np.zeros(3)), offset, atol=1e-9)
    initial = prepare(fixed, moving, initialise="center", fixed_mask=masks[0]).initial
    np.testing.assert_allclose(initial(np.zeros(3)), [500, -300, 80], atol=1e-9)


@pytest.mark.parametrize("size", [(96, 80), (40, 36, 30)], ids=["2-D", "3-D"])
def test_initialise_affine_recovers_an_affine(size: tuple[int, ...]) -> None:
    dimension, spacing = len(size), 4.0 if len(size) == 2 else 8.0
    centre = (np.array(size) - 1) * spacing / 2
    matrix = np.eye(dimension + 1)
    turn = rotation(12.0) if dimension == 2 else rotation(4.0, -3.0, 12.0)
    matrix[:-1, :-1] = turn @ np.diag([1.1, 0.95, 1.05][:dimension])
    matrix[:-1, -1] = centre - matrix[:-1, :-1] @ centre + np.array([30.0, -20, 10])[:dimension]
    pair = make_pair(size, spacing, seed=0, kind="shapes", displacement=2.0, affine=matrix)
    found = prepare(pair.fixed, pair.moving, initialise="affine").initial
    points = pair.fixed.grid.points()[pair.body]
    truth = points + pair.truth.vectors[pair.body]
    before = np.linalg.norm(points - truth, axis=-1).mean()
    after = np.linalg.norm(found(points) - truth, axis=-1).mean()
    assert before > 35
    assert after < 0.75 * spacing
    if dimension == 2:
        again = prepare(pair.fixed, pair.moving, initialise="affine").initial
        np.testing.assert_array_equal(again.matrix, found.matrix)


def test_initialise_affine_on_rotated_shifted_and_scaled_brain(data) -> None:
    """ITK's example: turned by 10 degrees, shifted by (13, 17) mm, and scaled by 1.2."""
    images = []
    for name in ("Border20", "R10X13Y17S12"):
        image = SimpleITK.ReadImage(str(data / "classic_2d" / f"BrainProtonDensitySlice{name}.png"))
        images.append(SimpleITK.VectorIndexSelectionCast(image, 0))
    matrix = prepare(*images, initialise="affine").initial.matrix
    scale = np.sqrt(np.linalg.det(matrix[:2, :2]))
    assert abs(scale - 1 / 1.2) < 0.01
    assert abs(np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0])) + 10) < 1


def test_affine_keeps_a_perfect_start() -> None:
    fixed = make_pair((96, 80), 4.0, seed=0, kind="shapes").fixed
    found = prepare(fixed, fixed, initialise="affine").initial
    points = fixed.grid.points()
    assert np.linalg.norm(found(points) - points, axis=-1).mean() < 1.0, "a quarter of a voxel"


def test_affine_without_any_overlap_is_refused() -> None:
    """A moving image of another world than its mask: nothing to begin with."""
    fixed = blobs(GRID)
    with pytest.raises(RegistrationError, match="found no start at which the images overlap"):
        prealignment.align_affine(
            fixed, moved(blobs(GRID), np.array([900.0, 0, 0])), model=models.DEFAULT,
            fixed_mask=corner_mask(GRID, 0), moving_mask=corner_mask(moved(blobs(GRID), np.array([9e4, 0, 0])).grid, 9),
        )  # fmt: skip


def corner_mask(grid: Grid, start: int) -> Volume:
    array = np.zeros(grid.shape, bool)
    array[start : start + 2, start : start + 2, start : start + 2] = True
    return Volume(array, grid)


def far(offset: float) -> Volume:
    return moved(blobs(GRID), np.array([offset, 0, 0]))


def empty_mask(grid: Grid) -> Volume:
    return Volume(np.zeros(grid.shape, bool), grid)


FULL = Volume(np.ones(GRID.padded((1, 1, 1), (1, 1, 1)).shape, bool), GRID.padded((1, 1, 1), (1, 1, 1)))
BAD = {
    "dimensions": (lambda: {"moving": blobs(FLAT)}, "fixed is 3-D .* and moving is 2-D"),
    "apart": (lambda: {"moving": far(1000)}, "do not overlap in physical space .*: use initialise='center'"),
    "sent away": (
        lambda: {"initial_transform": SimpleITK.TranslationTransform(3, (0.0, 0.0, 900.0))},
        "do not overlap in physical space after initial_transform .*check it",
    ),
    "two starts": (lambda: {"initial_transform": np.eye(4), "initialise": "center"}, "both given: give one"),
    "unknown start": (lambda: {"initialise": "magic"}, "initialise is 'magic', expected None, 'center' or 'affine'"),
    "empty mask": (lambda: {"fixed_mask": empty_mask(GRID)}, "fixed_mask is empty"),
    "mask elsewhere": (lambda: {"moving_mask": FULL}, "moving_mask lies on another grid"),
    "constant": (lambda: {"moving": Volume(np.ones(GRID.shape), GRID)}, "moving is constant"),
    "not an image": (lambda: {"moving": object()}, "moving is not an image"),
}


@pytest.mark.parametrize("case", BAD, ids=lambda name: name.replace(" ", "-"))
def test_bad_input(engine, case: str) -> None:
    make, message = BAD[case]
    inputs = {"fixed": blobs(GRID), "moving": blobs(GRID, seed=1), **make()}
    with pytest.raises(RegistrationError, match=message) as caught:
        itk_pdd.register(inputs.pop("fixed"), inputs.pop("moving"), **inputs)
    assert "\n" not in str(caught.value)
    assert not engine.calls


def test_a_small_moving_image_inside_a_large_fixed_one_overlaps() -> None:
    large = blobs(Grid.create((90, 80, 70), 4.0))
    small = Volume(blobs(GRID).array, Grid.create(GRID.size, 0.1, 101.3))
    prepare(large, small)
    prepare(small, large)
    prepare(large, small, initial_transform=np.eye(4))


def test_exceptions_in_progress_stop_the_registration(engine) -> None:
    class Stop(Exception):
        pass

    def progress(fraction: float, _: str) -> None:
        if fraction > 0.4:
            raise Stop

    with pytest.raises(Stop):
        itk_pdd.register(blobs(GRID), blobs(GRID), progress=progress)


def test_import_is_fast_and_brings_nothing_heavy() -> None:
    code = (
        "import time; start = time.time(); import itk_pdd; seconds = time.time() - start; import sys; "
        "print(seconds, [m for m in ('itk', 'torch', 'SimpleITK', 'numba', 'numpy') if m in sys.modules])"
    )
    seconds, modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split(" ", 1)
    assert float(seconds) < 1.0
    assert modules.strip() == "[]"


def test_files_are_registered_without_itk(tmp_path) -> None:
    """The command line never loads itk, which costs seconds."""
    code = "import itk_pdd.commands.register, itk_pdd.solver.prealignment, sys; print('itk' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "False"


def test_a_bar_shows_the_progress(capfd) -> None:
    """progress=True: the same field, and a bar on standard error."""
    pair = make_pair((40, 32), 2.0, seed=1, kind="shapes")
    images = pair.fixed.to_simpleitk(), pair.moving.to_simpleitk()
    plain, shown = (itk_pdd.register(*images, progress=each).GetDisplacementField() for each in (None, True))
    np.testing.assert_array_equal(SimpleITK.GetArrayViewFromImage(plain), SimpleITK.GetArrayViewFromImage(shown))
    assert "reading" in capfd.readouterr().err
