"""Pictures for notebooks: what is drawn where."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from itk_pdd import DisplacementField, Grid, RegistrationError, Volume, plot
from itk_pdd.io.fields import field_to_itk, field_to_simpleitk, write_field

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

# Index axes that run to the head, to the patient's right and to the front: nothing is where the array has it.
TURNED = Grid.create((12, 20, 16), (2.0, 1.0, 1.5), (30.0, -20.0, 5.0), np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]]))


@pytest.fixture(autouse=True)
def closed():
    from matplotlib import pyplot

    yield
    pyplot.close("all")


def spot(grid: Grid, place: tuple[float, ...]) -> Volume:
    """A bright spot, ``place`` being where it lies in the patient, from 0 (right, front, foot) to 1."""
    canonical = grid.canonical()
    centre = canonical.to_physical(np.asarray(place) * (np.asarray(canonical.size) - 1))
    array = np.exp(-((grid.points() - centre) ** 2).sum(-1) / 18) + 0.01 * np.random.default_rng(0).random(grid.shape)
    return Volume(array.astype(np.float32), grid)


def where_brightest(ax) -> tuple[float, float]:
    """Where on the screen the brightest pixels of the first image lie, from 0 (left, bottom) to 1."""
    drawn = ax.images[0]
    values = np.asarray(drawn.get_array()).reshape(*drawn.get_array().shape[:2], -1).sum(-1)
    row, column = np.argwhere(values > 0.95 * values.max()).mean(axis=0)
    left, right, bottom, top = drawn.get_extent()
    point = (
        left + (column + 0.5) / values.shape[1] * (right - left),
        bottom + (row + 0.5) / values.shape[0] * (top - bottom),
    )
    return tuple(ax.transAxes.inverted().transform(ax.transData.transform(point)))


@pytest.mark.parametrize(
    ("plane", "axes"), [("axial", (0, 1)), ("coronal", (0, 2)), ("sagittal", (1, 2))], ids=lambda v: str(v)
)
def test_the_left_is_on_the_right_and_head_or_front_at_the_top(plane, axes):
    place = [0.5, 0.5, 0.5]
    place[axes[0]], place[axes[1]] = 0.85, 0.8
    image = spot(TURNED, tuple(place))
    across, up = where_brightest(plot.overlay(image, image, plane=plane))
    assert across == pytest.approx(0.85, abs=0.08)
    # The back is at the bottom of an axial slice, the head at the top of the others.
    assert up == pytest.approx(0.2 if plane == "axial" else 0.8, abs=0.08)


def test_overlay_is_grey_where_the_images_agree_and_coloured_where_not():
    one, other = spot(TURNED, (0.3, 0.5, 0.5)), spot(TURNED, (0.7, 0.5, 0.5))
    same = np.asarray(plot.overlay(one, one).images[0].get_array())
    assert np.ptp(same, axis=-1).max() == 0 and same.max() == 1
    rgb = np.asarray(plot.overlay(one, other).images[0].get_array())
    assert rgb[:, :8, 1].max() > 0.9 > 0.5 > rgb[:, :8, 0].min() and rgb[:, 12:, 0].max() > 0.9
    first, last = (plot.overlay(one, one, position=p).images[0].get_array() for p in (0.5, 1))
    assert not np.array_equal(first, last)


@pytest.mark.parametrize("grid", [TURNED, Grid.create((20, 15), (1.0, 2.0))], ids=["3-D", "2-D"])
def test_lines_of_the_grid_are_where_the_mapped_coordinate_is_a_multiple_of_the_step(grid):
    shift = np.array([1.5, -0.5, 2.0][: grid.dimension])
    field = DisplacementField(np.broadcast_to(shift, (*grid.shape, grid.dimension)).astype(np.float32), grid)
    ax = plot.deformation_grid(field, step=4.0)
    across, down = ax.collections
    lines = [np.concatenate([path.vertices for path in part.get_paths()]) for part in (across, down)]
    for axis, vertices in enumerate(lines):
        mapped = vertices[:, axis] + shift[axis]
        assert vertices.size and np.abs(mapped / 4 - np.rint(mapped / 4)).max() < 1e-4


def test_jacobian_of_a_scaling_and_of_a_fold():
    grid = TURNED
    scaled = DisplacementField((0.5 * (grid.points() - grid.centre)).astype(np.float32), grid)
    drawn = plot.jacobian(scaled).images[0].get_array()
    assert np.ma.count_masked(drawn) == 0
    assert np.asarray(drawn) == pytest.approx(3 * np.log2(1.5), abs=1e-3)
    flipped = DisplacementField((-2 * (grid.points() - grid.centre) * [1, 0, 0]).astype(np.float32), grid)
    assert np.ma.getmaskarray(plot.jacobian(flipped).images[0].get_array()).all()


def test_uncertainty_has_a_scale_in_millimetres():
    deviation = Volume(np.abs(TURNED.points()[..., 0] - TURNED.centre[0]).astype(np.float32), TURNED)
    ax = plot.uncertainty(deviation, image=spot(TURNED, (0.5, 0.5, 0.5)))
    background, drawn = ax.images
    assert background.get_cmap().name == "gray"
    assert drawn.get_clim()[1] == pytest.approx(np.percentile(deviation.array, 99.5))
    assert drawn.colorbar.ax.get_ylabel() == "standard deviation (mm)"
    with pytest.raises(RegistrationError, match=r"must not be negative, found -0\.5"):
        plot.uncertainty(Volume(deviation.array - 1, TURNED))


def test_every_form_of_a_field_is_taken(tmp_path):
    field = DisplacementField((0.1 * TURNED.points()).astype(np.float32), TURNED)
    write_field(field, tmp_path / "field.nii.gz")
    forms = [field, field_to_itk(field), field_to_simpleitk(field), tmp_path / "field.nii.gz"]
    drawn = [np.asarray(plot.jacobian(form).images[0].get_array()) for form in forms]
    for other in drawn[1:]:
        assert other == pytest.approx(drawn[0], abs=1e-4)


def test_into_given_axes():
    from matplotlib import pyplot

    ax = pyplot.subplots()[1]
    image = spot(TURNED, (0.5, 0.5, 0.5))
    assert plot.overlay(image.to_simpleitk(), image, ax=ax) is ax
    assert len(pyplot.get_fignums()) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda i, f: plot.overlay(i, i, plane="top"), "plane must be one of axial, coronal, sagittal, found 'top'"),
        (lambda i, f: plot.overlay(i, i, position=3), "position must lie between 0 and 1"),
        (
            lambda i, f: plot.overlay(i, spot(Grid.create((9, 9, 9)), (0.5,) * 3)),
            "moving must lie on the grid of",
        ),
        (lambda i, f: plot.deformation_grid(f, step=-1), "step must be positive"),
        (lambda i, f: plot.deformation_grid(np.zeros((3, 3))), "field is no displacement field: found ndarray"),
        (lambda i, f: plot.jacobian(f, image=spot(Grid.create((9, 9, 9)), (0.5,) * 3)), "image must lie on the grid"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(RegistrationError, match=message):
        call(spot(TURNED, (0.5, 0.5, 0.5)), DisplacementField.zeros(TURNED))


def test_without_matplotlib_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        plot.jacobian(DisplacementField.zeros(TURNED))


def test_it_is_there_after_the_package_is_imported() -> None:
    """Neither the pictures nor matplotlib are loaded before they are used."""
    code = (
        "import sys, itk_pdd\n"
        "assert not {'itk_pdd.plot', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "assert callable(itk_pdd.plot.overlay) and 'plot' in dir(itk_pdd) and 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_colour_bars_touch_no_neighbour():
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(12, 4))
    field, deviation = (
        DisplacementField.zeros(TURNED),
        Volume(np.linspace(0, 3, TURNED.voxels, dtype=np.float32).reshape(TURNED.shape), TURNED),
    )
    for ax in axes[:2]:
        plot.jacobian(field, ax=ax)
    plot.uncertainty(deviation, ax=axes[2])
    figure.canvas.draw()
    boxes = [each.get_tightbbox() for each in figure.axes]
    assert [(a, b) for a in range(len(boxes)) for b in range(a) if boxes[a].overlaps(boxes[b])] == []


def test_two_images_of_one_unit_have_one_window():
    """Two scans in Hounsfield units, one with denser bone: soft tissue has one grey value in both."""
    grid = Grid.create((20, 20, 20))
    array = np.full(grid.shape, 40.0, np.float32)
    array[:, :, :8] = -1000
    other = array.copy()
    other[:, :6, 12:] = 1500
    drawn = np.asarray(plot.overlay(Volume(array, grid), Volume(other, grid)).images[0].get_array())
    red, green, _ = drawn[15, 15]
    assert red == pytest.approx(green, abs=1e-6)


def test_a_viewer_in_a_notebook(tmp_path):
    image = spot(TURNED, (0.5, 0.5, 0.5))
    labels = Volume((image.array > 0.5).astype(np.uint8), TURNED)
    shown = plot.view(image, image, DisplacementField.zeros(TURNED), fixed_labels=labels, moving_labels=labels)
    frame = shown._repr_html_()
    assert frame.startswith("<iframe srcdoc=") and frame.count('"') == 4, "the page is escaped within its attribute"
    assert "MB" in repr(shown)
    shown.save(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == shown.html
    coarse = plot.view(image, image, DisplacementField.zeros(TURNED), voxels=100)
    assert len(coarse.html) < len(shown.html)
