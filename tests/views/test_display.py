"""Copies for display: orientation, codes, sizes, files."""

from __future__ import annotations

import base64
import gzip
import json

import numpy as np
import pytest

from itk_pdd import DisplacementField, Grid, RegistrationError, Volume
from itk_pdd.report.assets import Assets
from itk_pdd.views import display


def test_axes_run_along_the_patients(grid):
    canonical = grid.canonical()
    for axis in range(grid.dimension):
        along = grid.points() @ np.asarray(canonical.direction)[:, axis]
        shown = display.grey(Volume(along.astype(np.float32), grid), (float(along.min()), float(along.max())))
        assert shown.array.shape == (1,) * (3 - grid.dimension) + canonical.shape
        steps = np.diff(shown.array.astype(int), axis=2 - axis)
        assert steps.min() >= 0 and shown.array.min() == 0 and shown.array.max() == 255


def test_nodes_hold_the_components_along_the_patients_axes(grid):
    canonical = np.asarray(grid.canonical().direction)
    for axis in range(grid.dimension):
        vectors = np.broadcast_to(7.5 * canonical[:, axis], (*grid.shape, grid.dimension)).astype(np.float32)
        view = display.moved_view(
            Volume(np.zeros(grid.shape, np.float32), grid), DisplacementField(vectors, grid), limits=(0, 1)
        )
        expected = np.zeros(grid.dimension)
        expected[axis] = 7.5
        assert view.nodes.reshape(-1, grid.dimension) == pytest.approx(
            np.tile(expected, (view.nodes[..., 0].size, 1)), abs=1e-4
        )
        assert set(np.unique(view.pictures["jacobian"].array)) == {128}


def test_nodes_go_from_the_first_to_the_last_voxel():
    grid = Grid.create((200, 3, 90), (0.5, 1.0, 1.0))
    field = DisplacementField(0.1 * grid.points().astype(np.float32), grid)
    view = display.moved_view(Volume(np.zeros(grid.shape, np.float32), grid), field, limits=(0, 1))
    assert view.nodes.shape == (29, 2, 64, 3)
    assert view.nodes[0, 0, 0] == pytest.approx([0, 0, 0]) and view.nodes[-1, -1, -1] == pytest.approx([9.95, 0.2, 8.9])
    assert view.nodes[0, 0, :, 0] == pytest.approx(np.linspace(0, 9.95, 64), abs=1e-4)


def test_codes_of_the_jacobian():
    values = np.array([-3.0, 0.0, 1e-9, 0.125, 0.5, 1.0, 1.7, 8.0, 1e9])
    codes = display.encode_jacobian(values)
    assert codes[:2].tolist() == [0, 0] and codes[5] == 128 and codes.min() == 0 and codes[2] == 1
    known = slice(3, 8)
    assert 2.0 ** ((codes[known].astype(float) - 128) * display.JACOBIAN_SPAN / 127) == pytest.approx(
        values[known], rel=0.01
    )


def test_no_fold_is_lost_in_a_smaller_map():
    for seed in range(20):
        array = np.full((23, 31, 17), 128, np.uint8)
        place = tuple(np.random.default_rng(seed).integers(0, n) for n in array.shape)
        array[place] = 0
        for shape in ((12, 16, 9), (8, 10, 6), (23, 31, 5)):
            smaller = display.shrunken(display.Picture(array, "jacobian"), shape).array
            assert (smaller == 0).any() and np.median(smaller) == 128


def test_smaller_pictures_keep_their_place_and_their_labels():
    index = np.indices((40, 30, 20))
    ramp = display.Picture((6 * index[0]).astype(np.uint8), "grey")
    smaller = display.shrunken(ramp, (20, 15, 20)).array
    assert smaller[5:15, 3, 3] == pytest.approx(6 * (2 * np.arange(5, 15) + 0.5), abs=1)
    labels = display.Picture(np.where(index[1] < 15, 300, 7).astype(np.uint16), "labels")
    assert set(np.unique(display.shrunken(labels, (9, 7, 5)).array)) == {7, 300}


@pytest.mark.parametrize(
    ("size", "spacing", "voxels"), [((512, 512, 60), (0.7, 0.7, 5.0), 1e6), ((35, 51, 35), (1.0, 1.0, 1.0), 1e6)]
)
def test_the_finest_axes_are_coarsened_first(size, spacing, voxels):
    grid = Grid.create(size, spacing)
    shape = display.shrunk_shape(grid, voxels)
    assert np.prod(shape) <= voxels
    if np.prod(size) <= voxels:
        assert shape == grid.shape
    else:
        assert shape[0] == 60 and np.prod(shape) > 0.9 * voxels and shape[1] == shape[2]


def test_views_survive_their_file(tmp_path, scene):
    view = display.moved_view(
        scene.moving, scene.truth, limits=(0, 100), labels=scene.moving_labels,
        uncertainty=Volume(np.full(scene.fixed.grid.shape, 2.5, np.float32), scene.fixed.grid),
    )  # fmt: skip
    display.save_view(view, tmp_path / "view.npz")
    read = display.load_view(tmp_path / "view.npz")
    assert read.scales == {"uncertainty": 2.5} and np.array_equal(read.nodes, view.nodes)
    assert {n: p.kind for n, p in read.pictures.items()} == {
        "image": "grey", "labels": "labels", "jacobian": "jacobian", "uncertainty": "map"
    }  # fmt: skip
    assert all(np.array_equal(read.pictures[n].array, p.array) for n, p in view.pictures.items())
    assert [path.name for path in tmp_path.iterdir()] == ["view.npz"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nothing", b"text"])
def test_a_damaged_view_is_named(tmp_path, content):
    (tmp_path / "view.npz").write_bytes(content)
    with pytest.raises(RegistrationError, match=r"view\.npz is no view"):
        display.load_view(tmp_path / "view.npz")


def test_a_pickle_is_not_read(tmp_path):
    np.savez(tmp_path / "view.npz", **{"picture/grey/image": np.array([{"a": 1}], dtype=object)})
    with pytest.raises(RegistrationError, match="is no view"):
        display.load_view(tmp_path / "view.npz")


def test_labels_that_cannot_be_shown_are_left_out_with_a_word(caplog, scene):
    view = display.fixed_view(scene.fixed, Volume(scene.fixed_labels.array.astype(np.int32) - 1, scene.fixed.grid))
    assert "labels" not in view.pictures and "expected 0 to 65535" in caplog.text


def test_arrays_in_the_page():
    assets = Assets()
    array = np.arange(24, dtype=">u2").reshape(2, 3, 4) * 1000
    described = json.loads(json.dumps(assets.add(array)))
    assert (described["shape"], described["type"]) == ([2, 3, 4], "uint16")
    content = gzip.decompress(base64.b64decode(assets.texts[described["id"]]))
    assert np.array_equal(np.frombuffer(content, "<u2").reshape(2, 3, 4), array)


def test_field_in_the_page():
    rng = np.random.default_rng(0)
    nodes = (300 * rng.normal(size=(4, 5, 6, 3))).astype(np.float32)
    assets = Assets()
    described = assets.add_field(nodes)
    content = np.frombuffer(gzip.decompress(base64.b64decode(assets.texts[described["id"]])), np.uint8).astype(int)
    steps = (content[: content.size // 2] + 256 * content[content.size // 2 :]).reshape(described["shape"])
    whole = (np.cumsum(steps, axis=-1) + 32768) % 65536 - 32768
    assert described["shape"] == [3, 4, 5, 6]
    assert np.moveaxis(whole * described["unit"], 0, -1) == pytest.approx(nodes, abs=described["unit"] * 0.51)
