"""The registration in an ITK pipeline; the engine is a stand-in."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from conftest import GEOMETRIES, blobs, to_itk

import itk_pdd
from itk_pdd.errors import RegistrationError
from itk_pdd.filter import registration_filter

GRID = GEOMETRIES["oblique"]


def pair(dtype: type = np.float32):
    """Images on different grids, the fixed one with a start index."""
    larger = GRID.padded((1, 2, 3), (3, 2, 1))
    return to_itk(blobs(GRID, dtype=dtype), start=5), to_itk(blobs(larger, seed=1, dtype=dtype))


@pytest.mark.parametrize("dtype", ["int16", "uint8", "uint16", "float32", "float64"])
def test_output_is_that_of_the_method(engine, dtype: str) -> None:
    import itk

    fixed, moving = pair(dtype)
    registration = registration_filter(fixed, moving)
    registration.Update()
    output, expected = (
        registration.GetOutput(), itk_pdd.PDDRegistrationMethod.New(fixed_image=fixed, moving_image=moving).GetOutput()
    )  # fmt: skip
    assert type(output) is type(expected)
    assert output.GetLargestPossibleRegion() == fixed.GetLargestPossibleRegion()
    np.testing.assert_allclose(list(output.GetOrigin()), list(fixed.GetOrigin()))
    np.testing.assert_array_equal(itk.array_from_image(output), itk.array_from_image(expected))
    assert itk.array_from_image(output).any()


def test_a_filter_behind_runs_it_once_per_change(engine) -> None:
    import itk

    fixed, moving = pair()
    before = itk.DiscreteGaussianImageFilter.New(moving, variance=1.0)
    registration = registration_filter(fixed, before, seed=3)
    median = itk.MedianImageFilter.New(registration)
    for _ in range(2):
        median.Update()
    assert len(engine.calls) == 1
    assert engine.calls[0].seed == 3
    expected = itk.median_image_filter(registration.method.GetOutput())
    np.testing.assert_array_equal(itk.array_from_image(median.GetOutput()), itk.array_from_image(expected))
    # A filter before it, a setting, an input.
    before.SetVariance(9.0)
    median.Update()
    assert len(engine.calls) == 2
    assert np.ptp(engine.calls[1].moving.array) < np.ptp(engine.calls[0].moving.array)
    registration.method.SetSeed(4)
    median.Update()
    assert (len(engine.calls), engine.calls[2].seed) == (3, 4)
    registration.SetInput(1, to_itk(blobs(GRID, seed=7)))
    median.Update()
    median.Update()
    assert len(engine.calls) == 4
    np.testing.assert_array_equal(engine.calls[3].moving.array, blobs(GRID, seed=7).array)


def test_a_part_asked_for_is_computed_from_the_whole(engine) -> None:
    import itk

    registration = registration_filter(*pair())
    region = itk.ImageRegion[3]([8, 8, 8], [4, 3, 2])
    part = itk.RegionOfInterestImageFilter.New(registration, region_of_interest=region)
    part.Update()
    assert engine.calls[0].fixed.array.shape == GRID.shape
    whole = itk.array_from_image(registration.method.GetOutput())
    np.testing.assert_array_equal(itk.array_from_image(part.GetOutput()), whole[3:5, 3:6, 3:7])


def test_results_of_the_method(engine) -> None:
    import itk

    registration = registration_filter(*pair())
    registration.Update()
    assert isinstance(registration.method.GetTransform(), itk.DisplacementFieldTransform[itk.D, 3])
    registration.method.GetInverseTransform()
    assert len(engine.calls) == 1


def test_progress_and_abort(engine) -> None:
    import itk

    registration, seen = registration_filter(*pair()), []
    registration.AddObserver(itk.ProgressEvent(), lambda: seen.append(round(registration.GetProgress(), 2)))
    registration.Update()
    assert {0.25, 0.5, 0.75} <= set(seen)
    assert seen == sorted(seen)
    tag = registration.AddObserver(itk.ProgressEvent(), registration.AbortGenerateDataOn)
    registration.Modified()
    with pytest.raises((RuntimeError, itk_pdd.RegistrationAborted), match=r"stopped"):
        registration.Update()
    registration.RemoveObserver(tag)


def test_errors_are_told(engine, capfd) -> None:
    import itk

    engine.error = RegistrationError("no such luck")
    registration = registration_filter(*pair())
    with pytest.raises(RegistrationError, match="no such luck"):
        registration.Update()
    median = itk.MedianImageFilter.New(registration)
    capfd.readouterr()
    with pytest.raises(RuntimeError, match="error executing"):
        median.Update()
    assert "no such luck" in capfd.readouterr().err
    engine.error = None
    median.ResetPipeline()  # as after any error in an ITK pipeline
    median.Update()
    assert itk.array_from_image(median.GetOutput()).any()


def test_bad_input(engine) -> None:
    import itk

    fixed, moving = pair()
    with pytest.raises(RegistrationError, match=r"fixed is of type str, expected an itk.Image"):
        registration_filter("fixed.nii.gz", moving)
    with pytest.raises(RegistrationError, match=r"moving an itkImageSS3, expected one type .* cast"):
        registration_filter(fixed, to_itk(blobs(GRID, dtype=np.int16)))
    four = to_itk(blobs(GRID, dtype=np.uint32))
    with pytest.raises(RegistrationError, match=r"of type itkImageUI3, expected one of itkImageD2, "):
        registration_filter(four, four)
    with pytest.raises(TypeError, match=r"'smoothnes'"):
        registration_filter(fixed, moving, smoothnes=1)
    with pytest.raises(TypeError, match=r"moving_image given twice"):
        registration_filter(fixed, moving, moving_image=moving)
    flat = registration_filter(to_itk(blobs(GEOMETRIES["plain 2-D"])), to_itk(blobs(GEOMETRIES["oblique 2-D"])))
    flat.Update()
    assert flat.GetOutput().GetImageDimension() == 2
    assert isinstance(flat, itk.ProcessObject)


def test_it_is_freed(engine) -> None:
    registration = registration_filter(*pair())
    registration.Update()
    references = [weakref.ref(registration), weakref.ref(registration.method)]
    del registration
    gc.collect()
    assert [reference() for reference in references] == [None, None]
