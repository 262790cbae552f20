"""Labels of both images: what is read, which count, and that they guide."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK
from click.testing import CliRunner
from itk_pdd.cli.register import main

import itk_pdd
from itk_pdd import Volume, models
from itk_pdd.errors import RegistrationError, RegistrationWarning, told
from itk_pdd.geometry.blockfield import BlockField
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.guidance.guidance import read_guidance
from itk_pdd.guidance.labelmaps import read_labels
from itk_pdd.guidance.labels import LabelMaps, label_guide
from itk_pdd.solver.guided import compared
from itk_pdd.solver.problem import Problem, Result
from itk_pdd.solver.refinement import refined
from itk_pdd.solver.settings import Refinement
from itk_pdd.solver.working import WorkingImage

GRID = Grid.create((90, 80), 1.5, (3.0, -4.0))


def discs(centres: dict[int, tuple[float, float]], radius: float = 12.0) -> np.ndarray:
    y, x = np.meshgrid(*(np.arange(n) for n in GRID.shape), indexing="ij")
    array = np.zeros(GRID.shape, np.uint8)
    for label, (cx, cy) in centres.items():
        array[(x - cx) ** 2 + (y - cy) ** 2 <= radius**2] = label
    return array


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * np.count_nonzero(first & second) / (np.count_nonzero(first) + np.count_nonzero(second))


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> SimpleNamespace:
    """Two images of noise, which tell nothing of two discs that move apart."""
    rng = np.random.default_rng(0)
    fixed, moving = (rng.normal(size=GRID.shape).astype(np.float32) for _ in range(2))
    labels = discs({1: (28, 40), 2: (62, 40)}), discs({1: (24, 36), 2: (66, 45)})
    folder = tmp_path_factory.mktemp("discs")
    paths = {}
    arrays = {"fixed": fixed, "moving": moving, "fixed_labels": labels[0], "moving_labels": labels[1]}
    for name, array in arrays.items():
        paths[name] = folder / f"{name}.nrrd"
        SimpleITK.WriteImage(Volume(array, GRID).to_simpleitk(), str(paths[name]))
    images = {name: Volume(array, GRID).to_simpleitk() for name, array in arrays.items()}
    return SimpleNamespace(folder=folder, paths=paths, images=images, labels=labels)


def test_a_label_of_another_structure_is_told() -> None:
    rng = np.random.default_rng(0)
    images = [rng.normal(size=GRID.shape).astype(np.float32)] * 2
    labels = discs({1: (28, 40), 2: (62, 40)})
    images[1] = np.where(labels == 1, rng.normal(size=GRID.shape).astype(np.float32), images[0])
    fixed, moving, drawn = (Volume(array, GRID) for array in (*images, labels))
    guidance = read_guidance((GRID, GRID), fixed_labels=drawn, moving_labels=drawn)
    still = Result(DisplacementField.zeros(GRID), models.DEFAULT, GRID, 10.0)
    with pytest.warns(RegistrationWarning, match="label 1 guided the registration, but there the images match less"):
        compared(Problem((fixed,), (moving,), guidance=guidance), still)
    with told() as warnings:
        compared(Problem((fixed,), (fixed,), guidance=guidance), still)
    assert not warnings


def registered(pair: SimpleNamespace, **options) -> np.ndarray:
    """Register the images and warp the labels by SimpleITK."""
    images = pair.images
    transform = itk_pdd.register(images["fixed"], images["moving"], **options)
    moving = images["moving_labels"]
    warped = SimpleITK.Resample(moving, images["fixed"], transform, SimpleITK.sitkNearestNeighbor)
    return SimpleITK.GetArrayFromImage(warped)


def test_labels_guide_where_images_tell_nothing(pair) -> None:
    images = pair.images
    warped = registered(pair, fixed_labels=images["fixed_labels"], moving_labels=images["moving_labels"])
    for label in (1, 2):
        assert dice(warped == label, pair.labels[0] == label) > 0.93


def test_thin_structures_are_met_where_large_images_are_compared_on_blocks() -> None:
    y, x = np.meshgrid(*(np.arange(n) for n in GRID.shape), indexing="ij")
    bands = [(np.abs(y - 40 - 4 * np.sin(x / 9.0 + turn)) <= 1.2).astype(np.uint8) for turn in (0.0, 0.7)]
    fixed, moving = label_guide(*(Volume(band, GRID) for band in bands), dimension=2).maps(GRID, None, 15.0)
    flat = np.zeros((1, *GRID.shape), np.float32)
    images = [WorkingImage((flat,), 2, guides=(maps,)) for maps in (fixed, moving)]
    settings = replace(Refinement.of_classes(0.04), max_voxels=2000)  # of blocks of two or more voxels
    start = BlockField.zeros(4, flat.shape, 2)
    found = refined(*images, start, settings, smallest_jacobian=0.05)
    assert found.size == 1
    at = np.stack([x, y], axis=-1) + found.vectors[0, ..., :2]
    column, row = (np.rint(at[..., i]).clip(0, GRID.size[i] - 1).astype(int) for i in (0, 1))
    assert dice(bands[1][row, column] > 0, bands[0] > 0) > 0.9


def test_only_the_labels_that_are_asked_for_guide(pair) -> None:
    images = pair.images
    known = {"fixed_labels": images["fixed_labels"], "moving_labels": images["moving_labels"]}
    warped = registered(pair, **known, guide=[2])
    assert dice(warped == 2, pair.labels[0] == 2) > 0.93
    assert dice(warped == 1, pair.labels[0] == 1) < 0.9


def test_a_table_and_probability_maps_give_what_label_maps_give(pair) -> None:
    own, other = pair.labels
    twelve = np.where(other == 1, 12, np.where(other == 2, 7, 0)).astype(np.uint16)
    grid = Grid.create(GRID.size, GRID.spacing, GRID.origin)
    plain = label_guide(Volume(own, grid), Volume(other, grid), dimension=2)
    renamed = label_guide(Volume(own, grid), Volume(twelve, grid), dimension=2, label_map={1: 12, 2: 7})
    soft = label_guide(
        Volume(own, grid), [Volume((other == n).astype(np.float32), grid) for n in (1, 2)], dimension=2
    )  # fmt: skip
    expected = [maps.features(1) for maps in plain.maps(grid, None, 15.0)]
    for guide in (renamed, soft):
        for found, wanted in zip(guide.maps(grid, None, 15.0), expected, strict=True):
            np.testing.assert_array_equal(found.features(1), wanted)
    own_map, other_map = renamed.volumes(grid)
    np.testing.assert_array_equal(own_map.array, own)
    np.testing.assert_array_equal(other_map.array, other)


def test_labels_of_one_image_alone_are_left_out_by_name() -> None:
    fixed, moving = Volume(discs({1: (20, 20), 3: (60, 50)}), GRID), Volume(discs({1: (22, 20), 4: (60, 50)}), GRID)
    with pytest.warns(RegistrationWarning, match=r"label 3 is not in moving_labels; label 4 is not in fixed_labels"):
        guide = label_guide(fixed, moving, dimension=2)
    assert [label.fixed for label in guide.labels] == [1]


def test_codes_of_many_labels_tell_them_apart() -> None:
    array = np.repeat(np.repeat(np.arange(60, dtype=np.uint8).reshape(6, 10), 8, 0), 8, 1)
    grid = Grid.create(array.shape[::-1], 1.0)
    source = read_labels(Volume(array, grid), dimension=2, name="fixed_labels")
    labels = tuple(source.places)
    maps = LabelMaps(source, labels, [1.0] * len(labels), grid, 15.0)
    codes = maps.codes(1)[0][4::8, 4::8].ravel()
    bits = np.array([[bin(int(a) ^ int(b)).count("1") for a in codes] for b in codes])
    assert bits[~np.eye(60, dtype=bool)].min() >= 8
    assert maps.features(1).shape == (1, *array.shape, 64)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"guide": "5"}, "guide names the label 5, but the labels are 1, 2"),
        ({"guide": "heart"}, "guide names 'heart', expected"),
        ({"moving_labels": None}, "fixed_labels is given without moving_labels"),
        ({"label_weight": 0}, "label_weight is 0, expected"),
        ({"label_map": {1: 9}}, "no label guides the registration: label 1 is not in moving_labels"),
        ({"label_map": {1: 2, 2: 2}}, "label_map names a label twice"),
        ({"label_map": "absent.csv"}, "label_map: absent.csv cannot be read"),
        ({"fixed_labels": np.zeros((3, 3))}, "fixed_labels is not an image"),
        ({"fixed_labels": []}, "fixed_labels is an empty list"),
        ({"fixed_labels": None, "moving_labels": None, "guide": "all"}, "guide and label_map are about labels"),
    ],
)
def test_bad_input_is_one_sentence(pair, change, told) -> None:
    images = pair.images
    known = {"fixed_labels": images["fixed_labels"], "moving_labels": images["moving_labels"], **change}
    with pytest.raises(RegistrationError, match=told) as error:
        itk_pdd.register(images["fixed"], images["moving"], **known)
    assert "\n" not in str(error.value)


def test_probabilities_and_empty_maps_are_checked(pair) -> None:
    with pytest.raises(RegistrationError, match="expected probabilities"):
        read_labels(Volume(np.full(GRID.shape, 1.5, np.float32), GRID), dimension=2, name="fixed_labels")
    with pytest.raises(RegistrationError, match="fixed_labels is empty"):
        read_labels(Volume(np.zeros(GRID.shape, np.uint8), GRID), dimension=2, name="fixed_labels")
    with pytest.raises(RegistrationError, match="fixed_labels is 2-D"):
        read_labels(pair.images["fixed_labels"], dimension=3, name="fixed_labels")


def test_names_of_slicer_segments_choose_labels(pair) -> None:
    image = SimpleITK.Image(pair.images["fixed_labels"])
    for number, (value, name) in enumerate(((1, "Liver"), (2, "Spleen"))):
        image.SetMetaData(f"Segment{number}_LabelValue", str(value))
        image.SetMetaData(f"Segment{number}_Name", name)
    guide = label_guide(image, pair.images["moving_labels"], dimension=2, guide="spleen")
    assert [(label.name, label.fixed) for label in guide.labels] == [("Spleen", 2)]


def test_the_command_guides_on_request_only(pair) -> None:
    paths, out = pair.paths, pair.folder
    given = [str(paths["fixed"]), str(paths["moving"])]
    given += ["--fixed-labels", str(paths["fixed_labels"]), "--moving-labels", str(paths["moving_labels"])]
    found = {}
    for name, more in (("with", ["--guide", "all"]), ("without", [])):
        record = out / f"{name}.json"
        made = CliRunner().invoke(main, [*given, *more, "--report", str(out / "page.html"), "--record", str(record)])
        assert made.exit_code == 0, made.output
        found[name] = json.loads(record.read_text())
    assert found["with"]["dice"]["after"]["mean"] > 0.93
    assert found["without"]["dice"]["after"]["mean"] < 0.9
    assert found["with"]["options"]["guide"] == "all"
    refused = CliRunner().invoke(main, [*given[:4], "--guide", "1", "-o", str(out / "field.nii.gz")])
    assert refused.exit_code == 2
    assert "give --fixed-labels and --moving-labels" in refused.output


def test_the_object_takes_labels(pair) -> None:
    images = pair.images
    method = itk_pdd.PDDRegistrationMethod.New(
        fixed_image=images["fixed"], moving_image=images["moving"], fixed_labels=images["fixed_labels"],
        moving_labels=images["moving_labels"], guide=[1, 2],
    )  # fmt: skip
    warped = SimpleITK.Resample(
        images["moving_labels"], images["fixed"], method.GetTransform(), SimpleITK.sitkNearestNeighbor
    )  # fmt: skip
    assert dice(SimpleITK.GetArrayFromImage(warped) == 1, pair.labels[0] == 1) > 0.93
    assert method.GetRecord()["dice"]["after"]["mean"] > 0.93
