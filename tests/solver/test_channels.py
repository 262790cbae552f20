"""Images of several channels: read, registered together, and warped together."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK
from conftest import GEOMETRIES, blobs, to_itk

import itk_pdd
from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.fields import field_from_image, field_to_itk
from itk_pdd.io.volume import Volume
from itk_pdd.synthesis import make_pair

GRID, FLAT = GEOMETRIES["oblique"], GEOMETRIES["oblique 2-D"]


def two(grid: Grid = GRID, dtype: type = np.float32) -> tuple[Volume, Volume]:
    return blobs(grid, dtype=dtype), blobs(grid, seed=1, dtype=dtype)


def composed(volumes: tuple[Volume, ...]) -> SimpleITK.Image:
    return SimpleITK.Compose([volume.to_simpleitk() for volume in volumes])


def itk_vectors(volumes: tuple[Volume, ...], kind: str, start: int = 0):
    """An itk image of vectors or RGB pixels whose components are the volumes."""
    import itk

    dimension = volumes[0].grid.dimension
    image = {
        "VectorImage": lambda: itk.VectorImage[itk.F, dimension],
        "Vector": lambda: itk.Image[itk.Vector[itk.F, len(volumes)], dimension],
        "RGB": lambda: itk.Image[itk.RGBPixel[itk.UC], dimension],
    }[kind]().New()
    reference = to_itk(volumes[0], start=start)
    image.CopyInformation(reference)
    image.SetRegions(reference.GetLargestPossibleRegion())
    if kind == "VectorImage":
        image.SetNumberOfComponentsPerPixel(len(volumes))
    image.Allocate()
    itk.array_view_from_image(image)[:] = np.stack([volume.array for volume in volumes], axis=-1)
    return image


def series(volumes: tuple[Volume, ...]) -> SimpleITK.Image:
    return SimpleITK.JoinSeries([volume.to_simpleitk() for volume in volumes])


def itk_series(volumes: tuple[Volume, ...]):
    import itk

    grid = volumes[0].grid
    image = itk.image_from_array(np.stack([volume.array for volume in volumes]))
    image.SetSpacing([*grid.spacing, 1.0])
    image.SetOrigin([*grid.origin, 0.0])
    direction = np.eye(4)
    direction[:3, :3] = grid.direction
    image.SetDirection(itk.matrix_from_array(direction))
    return image


FORMS = {
    "SimpleITK vectors": composed,
    "VectorImage": lambda volumes: itk_vectors(volumes, "VectorImage"),
    "VectorImage with a start index": lambda volumes: itk_vectors(volumes, "VectorImage", start=4),
    "image of Vector": lambda volumes: itk_vectors(volumes, "Vector"),
    "SimpleITK 4-D": series,
    "itk 4-D": itk_series,
    "list": lambda volumes: [volumes[0].to_simpleitk(), to_itk(volumes[1], start=2)],
    "tuple of Volume": tuple,
}


@pytest.mark.parametrize("form", FORMS, ids=lambda name: name.replace(" ", "-"))
def test_channels_are_read_at_their_places(form: str) -> None:
    volumes = Volume.channels_from_image(FORMS[form](two()))
    assert len(volumes) == 2
    assert volumes[0].grid == volumes[1].grid
    assert volumes[0].grid.same_space(GRID)
    for found, expected in zip(volumes, two(), strict=True):
        np.testing.assert_array_equal(found.array, expected.array)
        assert found.array.flags["C_CONTIGUOUS"]


def test_rgb_and_files(tmp_path) -> None:
    three = tuple(blobs(FLAT, seed=seed, dtype=np.uint8) for seed in range(3))
    SimpleITK.WriteImage(composed(three), str(tmp_path / "rgb.mha"))
    for form in (itk_vectors(three, "RGB"), tmp_path / "rgb.mha"):
        volumes = Volume.channels_from_image(form)
        assert [volume.array.dtype for volume in volumes] == [np.uint8] * 3
        for found, expected in zip(volumes, three, strict=True):
            np.testing.assert_array_equal(found.array, expected.array)
    assert len(Volume.channels_from_image(three[0].to_simpleitk())) == 1


def broken(index: int) -> list[Volume]:
    volumes = list(two())
    volumes[index] = Volume(np.full(GRID.shape, 7.0, np.float32), GRID)
    return volumes


BAD = {
    "counts": (lambda: {"moving": two()[0]}, "fixed has 2 channels and moving 1, expected as many"),
    "grids": (lambda: {"moving": [two()[0], blobs(GRID.padded((1, 0, 0), (0, 0, 0)))]}, r"moving\[1\] lies on another"),
    "dimensions": (lambda: {"moving": [two()[0], blobs(FLAT)]}, r"moving\[1\] lies on another grid"),
    "constant": (lambda: {"fixed": broken(1)}, r"fixed\[1\] is constant"),
    "constant component": (lambda: {"fixed": composed(tuple(broken(0)))}, r"fixed\[0\] is constant"),
    "nothing": (lambda: {"fixed": []}, "fixed is an empty list"),
    "no image": (lambda: {"fixed": ["/no/such.nii", two()[0]]}, r"fixed\[0\]: there is no file"),
    "vectors in a list": (lambda: {"fixed": [composed(two())]}, r"fixed\[0\] has 2 components per voxel"),
    "weights": (lambda: {"channel_weights": (1, 2, 3)}, "channel_weights are 3 numbers, expected one for .*: 2"),
    "negative": (lambda: {"channel_weights": (1, -1)}, "channel_weights are .*expected finite numbers from 0 on"),
    "all zero": (lambda: {"channel_weights": (0, 0)}, "some above 0"),
    "words": (lambda: {"channel_weights": "T1"}, "channel_weights is 'T1', expected a number for each channel"),
}


@pytest.mark.parametrize("case", BAD, ids=lambda name: name.replace(" ", "-"))
def test_bad_channels(engine, case: str) -> None:
    make, message = BAD[case]
    inputs = {"fixed": two(), "moving": two(), **make()}
    with pytest.raises(RegistrationError, match=message) as caught:
        itk_pdd.register(inputs.pop("fixed"), inputs.pop("moving"), **inputs)
    assert "\n" not in str(caught.value)
    assert not engine.calls


# ---- With the engine itself


@pytest.fixture(scope="module")
def pair():
    return make_pair((96, 80), 3.0, seed=3, kind="abdomen", displacement=20.0)


def noise(grid: Grid, seed: int) -> Volume:
    return Volume(np.random.default_rng(seed).normal(size=grid.shape).astype(np.float32), grid)


def vectors(fixed, moving, **options) -> np.ndarray:
    return field_from_image(itk_pdd.register(fixed, moving, **options).GetDisplacementField()).vectors


def test_weights_decide_which_channel_counts(pair) -> None:
    """One channel shows the anatomy, the other noise: the more the first counts, the better the field."""
    grid = pair.fixed.grid
    fixed, moving = (pair.fixed, noise(grid, 0)), (pair.moving, noise(grid, 1))

    def error(field: np.ndarray) -> float:
        return float(np.linalg.norm(field - pair.truth.vectors, axis=-1)[pair.body].mean())

    alone = vectors(pair.fixed, pair.moving)
    only_first = vectors(fixed, moving, channel_weights=(1, 0))
    only_second = vectors(fixed, moving, channel_weights=(0, 1))
    np.testing.assert_allclose(only_first, alone, atol=1e-3)
    assert error(alone) < 0.5 * error(np.zeros_like(alone))
    assert error(only_second) > 1.5 * error(alone)
    assert error(vectors(fixed, moving, channel_weights=(1, 0.1))) < error(
        vectors(fixed, moving, channel_weights=(0.1, 1))
    )


def test_channels_complete_each_other(pair) -> None:
    """Each channel shows one half of the anatomy and noise in the other: together they show all of it."""
    left = np.arange(pair.fixed.grid.size[0]) < pair.fixed.grid.size[0] // 2

    def halves(volume: Volume, seed: int) -> list[Volume]:
        spread = float(volume.array.std())
        fill = noise(volume.grid, seed).array * spread
        return [Volume(np.where(shown, volume.array, fill), volume.grid) for shown in (left, ~left)]

    fixed, moving = halves(pair.fixed, 0), halves(pair.moving, 1)

    def error(field: np.ndarray) -> float:
        return float(np.linalg.norm(field - pair.truth.vectors, axis=-1)[pair.body].mean())

    together = error(vectors(fixed, moving))
    assert together < min(error(vectors(f, m)) for f, m in zip(fixed, moving, strict=True))


@pytest.mark.parametrize("form", FORMS, ids=lambda name: name.replace(" ", "-"))
def test_method_warps_all_channels(engine, form: str) -> None:
    import itk

    fixed, moving = FORMS[form](two()), FORMS[form](two()[::-1])
    method = itk_pdd.PDDRegistrationMethod.New(fixed_image=fixed, moving_image=moving, channel_weights=(1, 0.5))
    output = method.GetOutput()
    (call,) = engine.calls
    assert call.channel_weights == (1, 0.5)
    simpleitk = form.startswith("SimpleITK")
    assert isinstance(output, SimpleITK.Image) == simpleitk
    if form in ("SimpleITK vectors", "VectorImage", "image of Vector"):
        assert type(output) is type(moving)
    found = SimpleITK.GetArrayFromImage(output) if simpleitk else itk.array_from_image(output)
    for i, volume in enumerate(two()[::-1]):
        image = to_itk(volume)
        expected = itk.resample_image_filter(
            image, transform=field_to_itk(field_from_image(method.GetDisplacementField())), use_reference_image=True,
            reference_image=to_itk(two()[0]),
        )  # fmt: skip
        np.testing.assert_allclose(found[..., i], itk.array_from_image(expected), atol=1e-3)
