"""The pages in a browser: what the controls say is what is drawn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from itk_pdd import Volume
from itk_pdd.report.registration import write_registration_report

from .test_comparison import page, results  # noqa: F401


@pytest.fixture(scope="module")
def single(tmp_path_factory, scene):
    path = tmp_path_factory.mktemp("single") / "page with space.html"
    write_registration_report(
        path, scene.fixed, scene.moving, scene.truth, fixed_labels=scene.fixed_labels,
        moving_labels=scene.moving_labels,
        uncertainty=Volume(np.full(scene.fixed.grid.shape, 2.0, np.float32), scene.fixed.grid),
    )  # fmt: skip
    return path


def brightness(pixels: np.ndarray) -> tuple[float, float]:
    """Where the bright part lies, from 0 (left, top) to 1."""
    parts, _ = ndimage.label(pixels[..., :3].min(axis=-1) > 100)
    sizes = np.bincount(parts.ravel())[1:]  # the letters are bright, too, but small
    bright = np.argwhere(parts == 1 + np.argmax(sizes))
    return tuple((bright.mean(axis=0) / pixels.shape[:2])[::-1])


@pytest.fixture
def plain(browser, single):
    """The viewer with nothing but the moving image, at the slices through the ball."""
    browser.open(single)
    browser.viewer()
    for control in ("contours", "grid", "crosshair"):
        browser.set(control, False)
    browser.set("mode", "image")
    browser.set("curtain", 0)
    return browser


def test_images_lie_where_the_patient_has_them(plain):
    # The ball lies 4 mm to the left, 4 mm to the front and 3 mm to the head of the centre.
    across, down = brightness(plain.pixels("axial"))
    assert across > 0.55 and down < 0.45
    across, down = brightness(plain.pixels("coronal"))
    assert across > 0.55 and down < 0.45
    across, down = brightness(plain.pixels("sagittal"))
    assert across < 0.45 and down < 0.45


def test_the_slider_goes_from_after_to_before(plain):
    after = plain.pixels("axial")
    plain.set("mode", "fixed")
    fixed = plain.pixels("axial")
    plain.set("mode", "image")
    plain.set("curtain", 100)
    before = plain.pixels("axial")
    assert abs(brightness(after)[0] - brightness(fixed)[0]) < 0.03
    # The moving image lies 4 of 27 mm further to the left of the patient.
    assert brightness(before)[0] - brightness(after)[0] == pytest.approx(4 / 28, abs=0.05)
    plain.set("curtain", 50)
    half, middle = plain.pixels("axial"), after.shape[1] // 2
    rows = slice(40, -60)  # the words stand elsewhere
    assert np.array_equal(half[rows, : middle - 60], before[rows, : middle - 60])
    assert np.array_equal(half[rows, middle + 60 :], after[rows, middle + 60 :])


def test_plane_buttons_and_slices(plain):
    shown = "return [...document.querySelectorAll('[data-pane]')].filter((p) => !p.hidden).map((p) => p.dataset.pane)"
    assert plain.script(shown) == ["axial", "coronal", "sagittal"]
    for name in ("axial", "coronal", "sagittal", "all"):
        plain.script(f"document.querySelector('button[data-plane={name}]').click()")
        plain.settle()
        assert plain.script(shown) == (["axial", "coronal", "sagittal"] if name == "all" else [name])
        pressed = "return [...document.querySelectorAll('button[aria-pressed=true]')].map((b) => b.dataset.plane)"
        assert plain.script(pressed) == [name]
    slider = "return Number(document.querySelector('[data-slice=axial]').value)"
    start = plain.script(slider)
    canvas = "[data-view=axial]"
    for key, step in (("ArrowUp", 1), ("ArrowDown", -1), ("PageDown", -10), ("PageUp", 10)):
        before = plain.script(slider)
        plain.press(key, canvas)
        assert plain.script(slider) == min(17, max(0, before + step))
    plain.press("Home", canvas)
    assert plain.script(slider) == 0
    plain.script("document.querySelector(arguments[0]).dispatchEvent(new WheelEvent('wheel', {deltaY: -1}))", canvas)
    plain.settle()
    assert plain.script(slider) == 1 != start


def test_a_click_moves_the_other_planes(plain):
    plain.script(
        "const c = document.querySelector('[data-view=axial]'), b = c.getBoundingClientRect();"
        "c.setPointerCapture = () => {};"
        "const place = {clientX: b.left + 0.1 * b.width, clientY: b.top + 0.9 * b.height};"
        "c.dispatchEvent(new PointerEvent('pointerdown', place))"
    )
    plain.settle()
    at = "const s = document.querySelector(`[data-slice=${arguments[0]}]`); return s.value / s.max"
    assert plain.script(at, "sagittal") == pytest.approx(0.1, abs=0.06)  # the patient's right
    assert plain.script(at, "coronal") == pytest.approx(0.9, abs=0.06)  # the back


def test_keys(plain):
    checked = "return document.querySelector(`[data-control=${arguments[0]}]`).checked"
    for key, control in (("c", "contours"), ("g", "grid"), ("x", "crosshair")):
        plain.press(key, "[data-view=axial]")
        assert plain.script(checked, control) is True
    value = "return document.querySelector(`[data-control=${arguments[0]}]`).value"
    plain.press("j", "[data-view=axial]")
    assert plain.script(value, "map") == "jacobian"
    plain.press("b", "[data-view=axial]")
    assert plain.script(value, "curtain") == "100"
    plain.press("2", "[data-view=axial]")
    assert plain.script("return document.querySelector('[data-pane=axial]').hidden")


def test_overlays_are_drawn_and_explained(plain):
    bare = plain.pixels("axial")
    legend = "return document.querySelector('.legend').textContent"
    for control, words in (("contours", "dotted moving"), ("grid", "straight in the moving image")):
        plain.set(control, True)
        assert (plain.pixels("axial") != bare).any() and words in plain.script(legend)
        plain.set(control, False)
    plain.set("map", "uncertainty")
    assert "2.0 mm" in plain.script(legend)
    plain.set("opacity", 100)
    colour = np.median(plain.pixels("axial").reshape(-1, 4), axis=0)[:3]
    assert colour == pytest.approx([253, 231, 37], abs=2)  # the upper end of the scale
    plain.set("map", "displacement")
    assert "Displacement: 0  4.0 mm" in plain.script(legend)
    # A shift neither shrinks nor grows: its map has no colour.
    plain.set("map", "jacobian")
    assert np.array_equal(plain.pixels("axial"), bare)
    plain.set("mode", "overlay")
    coloured = plain.pixels("axial").astype(int)
    assert np.abs(coloured[..., 0] - coloured[..., 2]).max() <= 1


def test_the_readout_is_in_millimetres_of_the_patient(plain, scene):
    grid = scene.fixed.grid.canonical()
    expected = grid.to_physical(np.asarray(grid.size) // 2)
    text = plain.script("return document.querySelector('[data-readout]').textContent")
    place = ", ".join(f"{axis} {value:.1f}" for axis, value in zip("xyz", expected, strict=True))
    assert text.startswith(f"{place} mm (LPS)") and "displacement 4.0 mm" in text


def test_pages_of_a_comparison(browser, page):  # noqa: F811
    browser.open(page)
    shown = "return [...document.querySelectorAll('[data-page]')].filter((p) => !p.hidden).map((p) => p.dataset.page)"
    assert browser.script(shown) == ["summary"]
    for name in ("pairs", "problems", "methods"):
        browser.script("location.hash = arguments[0]", name)
        browser.wait(f"return document.querySelector('nav a[aria-current]')?.hash === '#{name}'")
        assert browser.script(shown) == [name]
    browser.open(page, "pair-1")
    browser.viewer()
    assert browser.script(shown) == ["pair-1"]
    assert browser.script("return document.querySelector('[data-pane=axial] canvas').getAttribute('aria-label')")


def test_tables_are_sorted_by_a_click(browser, page):  # noqa: F811
    browser.open(page)
    names = "return [...document.querySelector('table tbody').rows].map((r) => r.cells[0].textContent)"
    click = "document.querySelectorAll('table thead')[0].rows[0].cells[1].querySelector('button').click()"
    browser.script(click)
    assert browser.script(names) == ["initial", "truth", "bad"]
    browser.script(click)
    assert browser.script(names) == ["truth", "initial", "bad"]  # what has no value stays last


def test_light_and_dark(browser, single):
    browser.open(single)
    colour = "return getComputedStyle(document.body).backgroundColor"
    first = browser.script(colour)
    browser.script("document.getElementById('theme').click()")
    assert browser.script(colour) != first
    browser.script("document.getElementById('theme').click()")
    assert browser.script(colour) == first
