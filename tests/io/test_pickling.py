"""What goes to other processes arrives there unchanged, and threads do not disturb each other."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import GEOMETRIES, blobs, to_itk, wave

import itk_pdd
from itk_pdd import models
from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.fields import field_from_image, field_to_itk, field_to_simpleitk
from itk_pdd.io.images import is_itk
from itk_pdd.io.inputs import pack, unpack
from itk_pdd.io.volume import Volume
from itk_pdd.synthesis import make_pair

GRID = GEOMETRIES["oblique"]


def through_pickle(item):
    return pickle.loads(pickle.dumps(item))


def mapped(transform, points: np.ndarray) -> np.ndarray:
    return np.array([list(transform.TransformPoint(point)) for point in points.tolist()])


def some_points(grid: Grid) -> np.ndarray:
    return grid.to_physical(np.random.default_rng(0).uniform(0, np.asarray(grid.size) - 1, (20, grid.dimension)))


@pytest.mark.parametrize("convert", [field_to_itk, field_to_simpleitk], ids=["itk", "SimpleITK"])
def test_transforms(grid: Grid, convert) -> None:
    transform = convert(wave(grid))
    again = through_pickle(transform)
    assert type(again) is type(transform)
    points = some_points(grid)
    np.testing.assert_array_equal(mapped(again, points), mapped(transform, points))
    assert np.abs(mapped(again, points) - points).max() > 0.1


def test_volumes_fields_and_models(grid: Grid) -> None:
    volume, field, model = blobs(grid), wave(grid), models.load("auto")
    again = through_pickle((volume, field, model))
    np.testing.assert_array_equal(again[0].array, volume.array)
    np.testing.assert_array_equal(again[1].vectors, field.vectors)
    assert (again[0].grid, again[1].grid, again[2]) == (grid, grid, model)


def images() -> dict:
    import itk

    vector = itk.VectorImage[itk.F, 3].New(Regions=[4, 5, 6])
    vector.SetNumberOfComponentsPerPixel(2)
    vector.Allocate()
    itk.array_view_from_image(vector)[:] = np.arange(240).reshape(6, 5, 4, 2)
    rgb = itk.Image[itk.RGBPixel[itk.UC], 2].New(Regions=[4, 3])
    rgb.Allocate()
    itk.array_view_from_image(rgb)[:] = np.arange(36).reshape(3, 4, 3)
    shifted = to_itk(blobs(GRID), start=7)
    return {
        "a start index": shifted,
        "two components": vector,
        "RGB": rgb,
        "a filter": itk.MedianImageFilter.New(shifted),
    }


@pytest.mark.parametrize("case", ["a start index", "two components", "RGB", "a filter"], ids=lambda c: c.split()[-1])
def test_itk_images_keep_their_place(case: str) -> None:
    import itk

    image = images()[case]
    again = unpack(through_pickle(pack(image)))
    if case == "a filter":
        image = image.GetOutput()
    assert type(again) is type(image)
    assert again.GetLargestPossibleRegion() == image.GetLargestPossibleRegion()
    assert again.GetNumberOfComponentsPerPixel() == image.GetNumberOfComponentsPerPixel()
    corner = image.GetLargestPossibleRegion().GetUpperIndex()
    place = [list(each.TransformIndexToPhysicalPoint(corner)) for each in (again, image)]
    np.testing.assert_allclose(*place)
    np.testing.assert_array_equal(itk.array_from_image(again), itk.array_from_image(image))


def test_initial_transforms_map_alike() -> None:
    """Also those which itk's own pickling misplaces (a field with a start index) or refuses (nested composites)."""
    import itk

    euler = itk.Euler3DTransform[itk.D].New()
    euler.SetCenter([1.0, 2.0, 3.0])
    euler.SetRotation(0.1, 0.2, 0.3)
    plain = field_to_itk(wave(GRID))
    shifted = itk.Image[itk.Vector[itk.D, 3], 3].New()
    shifted.CopyInformation(plain.GetDisplacementField())
    shifted.SetOrigin(GRID.to_physical([-3, -4, -5]).tolist())
    shifted.SetRegions(itk.ImageRegion[3]([3, 4, 5], list(GRID.size)))
    shifted.Allocate()
    itk.array_view_from_image(shifted)[:] = wave(GRID).vectors
    field = itk.DisplacementFieldTransform[itk.D, 3].New(displacement_field=shifted)
    inner, outer = (itk.CompositeTransform[itk.D, 3].New() for _ in range(2))
    inner.AddTransform(euler)
    inner.AddTransform(field)
    outer.AddTransform(inner)
    outer.AddTransform(itk.TranslationTransform[itk.D, 3].New(offset=[0.5, 0.25, -0.5]))
    points = some_points(GRID)
    np.testing.assert_allclose(mapped(field, points), mapped(plain, points), atol=1e-5)
    for transform in (euler, field, inner, outer):
        again = unpack(through_pickle(pack([transform])))[0]
        assert is_itk(again)
        np.testing.assert_allclose(mapped(again, points), mapped(transform, points), atol=1e-5)


def test_method_keeps_settings_and_results(engine) -> None:
    import itk

    method = itk_pdd.PDDRegistrationMethod.New(
        fixed_image=to_itk(blobs(GRID), start=5), moving_image=to_itk(blobs(GRID, seed=1)), seed=9,
        default_pixel_value=-3, initial_transform=itk.TranslationTransform[itk.D, 3].New(offset=[1.0, 2.0, 3.0]),
    )  # fmt: skip
    fresh = through_pickle(method)
    assert "not updated" in repr(fresh)
    assert (fresh.GetSeed(), fresh.GetDefaultPixelValue()) == (9, -3)
    for make in (through_pickle, copy.copy, copy.deepcopy):
        method.Update()
        engine.calls.clear()
        again = make(method)
        again.Update()
        assert not engine.calls, "the results came along"
        for name in ("GetOutput", "GetDisplacementField"):
            first, second = getattr(again, name)(), getattr(method, name)()
            assert first.GetLargestPossibleRegion() == second.GetLargestPossibleRegion()
            np.testing.assert_array_equal(itk.array_from_image(first), itk.array_from_image(second))
        again.SetSeed(1)
        again.Update()
        assert len(engine.calls) == 1, "and it is a method as before"
    fresh.Update()
    np.testing.assert_array_equal(
        itk.array_from_image(fresh.GetDisplacementField()), itk.array_from_image(method.GetDisplacementField())
    )
    method.SetSeed(10)
    assert "not updated" in repr(through_pickle(method)), "old results stay behind"


def test_a_running_method_is_not_pickled(engine) -> None:
    import itk

    method = itk_pdd.PDDRegistrationMethod.New(fixed_image=to_itk(blobs(GRID)), moving_image=to_itk(blobs(GRID)))
    method.AddObserver(itk.ProgressEvent(), lambda: pickle.dumps(method))
    with pytest.raises(RegistrationError, match="cannot be pickled while the registration runs"):
        method.Update()
    with pytest.raises(RegistrationError, match=r"a itkObject cannot be pickled: set an image"):
        pack(itk.Object.New())


# ---- With the engine itself


@pytest.fixture(scope="module")
def pairs() -> list[tuple]:
    made = [make_pair((40, 32), 4.0, seed=seed, kind="abdomen", displacement=20.0) for seed in range(4)]
    return [(pair.fixed.to_simpleitk(), pair.moving.to_simpleitk()) for pair in made]


@pytest.fixture(scope="module")
def alone(pairs: list[tuple]) -> list[bytes]:
    return [registered(pair) for pair in pairs]


def registered(pair: tuple) -> bytes:
    transform = itk_pdd.register(*pair)
    return field_from_image(transform.GetDisplacementField()).vectors.tobytes()


def updated(method: itk_pdd.PDDRegistrationMethod) -> itk_pdd.PDDRegistrationMethod:
    method.Update()
    return method


def vectors_of(method: itk_pdd.PDDRegistrationMethod) -> bytes:
    return field_from_image(method.GetDisplacementField()).vectors.tobytes()


def test_spawned_processes_give_the_same(pairs: list[tuple], alone: list[bytes]) -> None:
    """SimpleITK images and whole methods with itk images go there, bytes, methods and transforms come back."""
    assert len(set(alone)) == len(pairs), "different pairs"
    method = itk_pdd.PDDRegistrationMethod.New(
        fixed_image=to_itk(Volume.from_image(pairs[0][0]), start=6), moving_image=to_itk(Volume.from_image(pairs[0][1]))
    )
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(registered, pairs[:2]) == alone[:2]
        away = pool.apply(updated, (method,))
        transform = pool.apply(itk_pdd.register, pairs[1])
    assert "not updated" in repr(method)
    assert "not updated" not in repr(away)
    assert vectors_of(away) == vectors_of(updated(method))
    np.testing.assert_allclose(
        np.frombuffer(vectors_of(away), np.float32), np.frombuffer(alone[0], np.float32), atol=1e-3
    )
    assert field_from_image(transform.GetDisplacementField()).vectors.tobytes() == alone[1]


def test_threads_give_the_same(pairs: list[tuple], alone: list[bytes]) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(registered, pairs * 3)) == alone * 3
        methods = [itk_pdd.PDDRegistrationMethod.New(fixed_image=f, moving_image=m) for f, m in pairs]
        assert [vectors_of(method) for method in pool.map(updated, methods)] == alone
