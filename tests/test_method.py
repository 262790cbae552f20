"""The ITK-style object; the engine is a stand-in."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import SimpleITK
from conftest import GEOMETRIES, blobs, to_itk, wave

import itk_pdd
from itk_pdd.errors import RegistrationAborted, RegistrationError
from itk_pdd.io.fields import field_from_image
from itk_pdd.io.volume import Volume

GRID = GEOMETRIES["oblique"]


@pytest.fixture
def method(engine):
    return itk_pdd.PDDRegistrationMethod.New(
        fixed_image=to_itk(blobs(GRID)), moving_image=to_itk(blobs(GRID, seed=1)), device="cpu"
    )


def test_outputs(method, engine) -> None:
    import itk

    method.Update()
    transform, image, field = method.GetTransform(), method.GetOutput(), method.GetDisplacementField()
    assert isinstance(transform, itk.DisplacementFieldTransform[itk.D, 3])
    assert isinstance(method.GetInverseTransform(), itk.DisplacementFieldTransform[itk.D, 3])
    assert isinstance(field, itk.Image[itk.Vector[itk.F, 3], 3])
    assert type(image) is type(method.GetMovingImage())
    np.testing.assert_array_equal(field_from_image(field).vectors, wave(GRID).vectors)
    point = GRID.to_physical([8, 7, 6]).tolist()
    again = transform.TransformPoint(method.GetInverseTransform().TransformPoint(point))
    np.testing.assert_allclose(list(again), point, atol=0.02)
    assert len(engine.calls) == 1


@pytest.mark.parametrize("start", [0, 9])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "uint64", "float32", "float64"])
def test_output_is_what_itk_resamples(engine, start: int, dtype: str) -> None:
    import itk

    fixed, moving = to_itk(blobs(GRID), start=start), to_itk(blobs(GRID, seed=1, dtype=dtype), start=-start)
    method = itk_pdd.PDDRegistrationMethod.New(fixed_image=fixed, moving_image=moving, default_pixel_value=3)
    image = method.GetOutput()
    assert type(image) is type(moving)
    assert image.GetLargestPossibleRegion() == fixed.GetLargestPossibleRegion()
    np.testing.assert_allclose(list(image.GetOrigin()), list(fixed.GetOrigin()))
    if dtype in ("uint8", "int16", "float32", "float64"):
        expected = itk.resample_image_filter(
            moving, transform=method.GetTransform(), use_reference_image=True, reference_image=fixed,
            default_pixel_value=3,
        )  # fmt: skip
        difference = itk.array_from_image(image).astype(float) - itk.array_from_image(expected)
        assert np.abs(difference).max() <= (1 if dtype.endswith(("8", "16")) else 1e-3)


def test_runs_once_until_something_changes(method, engine) -> None:
    import itk

    for _ in range(2):
        method.Update()
        method.GetOutput()
        method.GetTransform()
    assert len(engine.calls) == 1
    assert method.GetTransform() is method.GetTransform()
    method.SetSeed(method.GetSeed())
    method.SetFixedImage(method.GetFixedImage())
    method.Update()
    assert len(engine.calls) == 1, "the same value is no change"
    method.SetSeed(5)
    method.Update()
    assert len(engine.calls) == 2
    method.Modified()
    method.Update()
    assert len(engine.calls) == 3
    itk.array_view_from_image(method.GetMovingImage())[3, 3, 3] = 99
    method.GetMovingImage().Modified()
    method.Update()
    assert len(engine.calls) == 4
    assert engine.calls[-1].moving.array[3, 3, 3] == 99
    method.SetDefaultPixelValue(-1)
    method.GetOutput()
    assert len(engine.calls) == 4, "only the warped image depends on it"


def test_new_image_and_transform_are_taken(method, engine) -> None:
    import itk

    method.Update()
    method.SetMovingImage(to_itk(blobs(GRID, seed=2)))
    method.Update()
    shift = itk.TranslationTransform[itk.D, 3].New()
    method.SetInitialTransform(shift)
    method.Update()
    assert len(engine.calls) == 3
    shift.SetOffset([1.0, 2.0, 3.0])
    method.Update()
    assert len(engine.calls) == 4
    np.testing.assert_allclose(engine.calls[-1].initial(np.zeros(3)), [1, 2, 3])


def test_pipeline_upstream_is_followed(engine) -> None:
    import itk

    smooth = itk.DiscreteGaussianImageFilter.New(to_itk(blobs(GRID, seed=1)), variance=1.0)
    for given in (smooth, smooth.GetOutput()):
        engine.calls.clear()
        method = itk_pdd.PDDRegistrationMethod.New(fixed_image=to_itk(blobs(GRID)), moving_image=given)
        method.Update()
        method.Update()
        assert len(engine.calls) == 1
        before = engine.calls[-1].moving.array
        smooth.SetVariance(smooth.GetVariance()[0] + 3.0)
        method.Update()
        assert len(engine.calls) == 2
        assert np.abs(engine.calls[-1].moving.array - before).max() > 0.1


def test_feeds_a_functional_filter(method, engine) -> None:
    import itk

    smoothed = itk.median_image_filter(method, radius=1)
    assert smoothed.GetLargestPossibleRegion() == method.GetFixedImage().GetLargestPossibleRegion()
    expected = itk.median_image_filter(method.GetOutput(), radius=1)
    np.testing.assert_array_equal(itk.array_from_image(smoothed), itk.array_from_image(expected))
    assert len(engine.calls) == 1


def test_unknown_keyword_names_itself(engine) -> None:
    with pytest.raises(TypeError, match=r"'fixed_imagee'.* it has .*FixedImage"):
        itk_pdd.PDDRegistrationMethod.New(fixed_imagee=None)


def test_every_setting_has_a_getter_and_a_keyword(engine) -> None:
    values = {
        "fixed_image": to_itk(blobs(GRID)), "moving_image": to_itk(blobs(GRID)), "initial_transform": np.eye(4),
        "initialise": "center", "fixed_mask": None, "moving_mask": None, "channel_weights": (1,),
        "model": "m", "device": "cpu", "seed": 3,
        "number_of_threads": 2, "spacing": 2.5, "smoothness": 2.0, "memory": 30.0, "default_pixel_value": 5.0,
        "abort_generate_data": False, "compute_uncertainty": True, "force": True, "fixed_labels": "a.nii",
        "moving_labels": "b.nii", "guide": (1, 2), "label_map": {1: 2}, "label_weight": 2.0, "fixed_points": "p.csv",
        "moving_points": "q.csv", "point_uncertainty": 1.5, "exact_points": True, "features": "net.pt",
        "feature_card": {"spacing": 2.0}, "rigid": (20,), "sliding": 6,
    }  # fmt: skip
    method = itk_pdd.PDDRegistrationMethod.New(**values)
    assert {name[3:] for name in dir(method) if name.startswith("Set")} == {
        "".join(part.capitalize() for part in key.split("_")) for key in values
    }
    for key, value in values.items():
        assert getattr(method, "Get" + "".join(part.capitalize() for part in key.split("_")))() is value


def test_events_come_in_order(method, engine) -> None:
    import itk

    seen: list[str] = []
    method.AddObserver(itk.StartEvent(), lambda: seen.append("start"))
    method.AddObserver(itk.ProgressEvent(), lambda: seen.append(f"{method.GetProgress():.2f}"))
    tag = method.AddObserver(itk.EndEvent(), lambda: seen.append("end"))
    method.Update()
    assert seen == ["start", "0.00", "0.25", "0.50", "0.75", "1.00", "end"]
    method.RemoveObserver(tag)
    seen.clear()
    method.Modified()
    method.Update()
    assert seen[0] == "start"
    assert "end" not in seen
    assert method.HasObserver(itk.StartEvent())
    method.RemoveAllObservers()
    assert not method.HasObserver(itk.StartEvent())


class Enough(Exception):
    pass


def test_raising_in_an_observer_stops(method, engine, capfd) -> None:
    import itk

    seen: list[str] = []

    def stop() -> None:
        if method.GetProgress() >= 0.5:
            raise Enough("that will do")

    tag = method.AddObserver(itk.ProgressEvent(), stop)
    method.AddObserver(itk.EndEvent(), lambda: seen.append("end"))
    method.AddObserver(itk.AbortEvent(), lambda: seen.append("abort"))
    for _ in range(2):
        with pytest.raises(Enough, match="that will do"):
            method.Update()
        with pytest.raises(Enough):
            method.GetTransform()
    assert seen == ["abort"] * 4
    assert capfd.readouterr().err == "", "ITK printed nothing"
    method.RemoveObserver(tag)
    method.Update()
    assert seen[-1] == "end"


def test_abort_flag_stops(method, engine) -> None:
    import itk

    tag = method.AddObserver(itk.ProgressEvent(), method.AbortGenerateDataOn)
    with pytest.raises(RegistrationAborted, match="stopped at 0 %"):
        method.Update()
    method.RemoveObserver(tag)
    method.Update()
    assert method.GetAbortGenerateData() is False
    assert method.GetProgress() == 1.0


def test_update_within_an_observer_is_refused(method, engine) -> None:
    import itk

    method.AddObserver(itk.ProgressEvent(), method.GetOutput)
    with pytest.raises(RegistrationError, match="while the registration runs"):
        method.Update()


def test_failure_leaves_no_old_result(method, engine) -> None:
    method.Update()
    engine.error = RegistrationError("no")
    method.Modified()
    with pytest.raises(RegistrationError, match="no"):
        method.Update()
    with pytest.raises(RegistrationError, match="no"):
        method.GetTransform()
    assert "not updated" in repr(method)


def test_missing_input_is_named(engine) -> None:
    method = itk_pdd.PDDRegistrationMethod.New(fixed_image=to_itk(blobs(GRID)))
    with pytest.raises(RegistrationError, match="there is no moving image: call SetMovingImage first"):
        method.Update()


def test_simpleitk_images_are_answered_in_kind(engine) -> None:
    fixed, moving = blobs(GRID).to_simpleitk(), blobs(GRID, seed=1).to_simpleitk()
    method = itk_pdd.PDDRegistrationMethod.New(fixed_image=fixed, moving_image=moving)
    assert isinstance(method.GetOutput(), SimpleITK.Image)
    assert isinstance(method.GetTransform(), SimpleITK.DisplacementFieldTransform)
    assert isinstance(method.GetInverseTransform(), SimpleITK.DisplacementFieldTransform)
    assert method.GetDisplacementField().GetPixelID() == SimpleITK.sitkVectorFloat32
    assert len(engine.calls) == 1
    moving[3, 3, 3] = 77
    method.Update()
    assert len(engine.calls) == 2


@pytest.mark.parametrize("dtype", ["int8", "int16", "int64"])
def test_paths_are_answered_as_itk(engine, tmp_path, dtype: str) -> None:
    import itk

    SimpleITK.WriteImage(blobs(GRID).to_simpleitk(), str(tmp_path / "f.nrrd"))
    SimpleITK.WriteImage(blobs(GRID, seed=1, dtype=dtype).to_simpleitk(), str(tmp_path / "m.nrrd"))
    method = itk_pdd.PDDRegistrationMethod.New(fixed_image=tmp_path / "f.nrrd", moving_image=str(tmp_path / "m.nrrd"))
    image = method.GetOutput()
    wider = {"int8": itk.SS, "int16": itk.SS, "int64": itk.D}[dtype]
    assert isinstance(image, itk.Image[wider, 3])
    assert Volume.from_image(image).grid.same_space(GRID)
    SimpleITK.WriteImage(blobs(GRID, seed=2, dtype=dtype).to_simpleitk(), str(tmp_path / "m.nrrd"))
    method.Update()
    assert len(engine.calls) == 2, "the file has changed"


def test_two_dimensions(engine) -> None:
    import itk

    flat = GEOMETRIES["oblique 2-D"]
    method = itk_pdd.PDDRegistrationMethod.New(
        fixed_image=to_itk(blobs(flat)), moving_image=to_itk(blobs(flat, seed=1))
    )
    assert isinstance(method.GetTransform(), itk.DisplacementFieldTransform[itk.D, 2])
    assert isinstance(method.GetDisplacementField(), itk.Image[itk.Vector[itk.F, 2], 2])


def test_same_as_the_function(method, engine) -> None:
    transform = itk_pdd.register(method.GetFixedImage(), method.GetMovingImage(), device="cpu")
    np.testing.assert_array_equal(
        field_from_image(transform.GetDisplacementField()).vectors,
        field_from_image(method.GetTransform().GetDisplacementField()).vectors,
    )
    one, two = engine.calls
    assert {**vars(one), "fixed": 0, "moving": 0}.keys() == {**vars(two), "fixed": 0, "moving": 0}.keys()


def test_object_is_freed(engine) -> None:
    import itk

    method = itk_pdd.PDDRegistrationMethod.New()
    method.AddObserver(itk.ProgressEvent(), lambda: None)
    reference = weakref.ref(method)
    del method
    gc.collect()
    assert reference() is None


def test_a_second_moving_image_finds_what_belongs_to_the_fixed_one(monkeypatch):
    """The codes of the fixed image are made once; results are the bytes of a registration that kept nothing."""
    from itk_pdd.solver.working import WorkingImage

    grid = GEOMETRIES["plain 2-D"]
    fixed, *moving = (blobs(grid, seed=seed).to_simpleitk() for seed in range(3))
    fresh = [itk_pdd.PDDRegistrationMethod.New(fixed_image=fixed, moving_image=image) for image in moving]
    expected = [SimpleITK.GetArrayFromImage(each.GetDisplacementField()) for each in fresh]
    made, codes = [], WorkingImage.codes
    monkeypatch.setattr(WorkingImage, "codes", lambda self, *a, **k: made.append(self) or codes(self, *a, **k))
    method = itk_pdd.PDDRegistrationMethod.New(fixed_image=fixed)
    counts = []
    for image, field in zip((*moving, moving[0]), (*expected, expected[0]), strict=True):
        made.clear()
        method.SetMovingImage(image)
        assert (SimpleITK.GetArrayFromImage(method.GetDisplacementField()) == field).all()
        counts.append(len(made))
    assert counts[1] == counts[2] < counts[0], "those of the moving image alone"
    method.SetFixedImage(moving[1])
    made.clear()
    method.Update()
    assert len(made) == counts[0], "another fixed image"
