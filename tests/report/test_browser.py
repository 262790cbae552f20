"""The pages in a browser: what the controls say is what is drawn."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
from scipy import ndimage

from itk_pdd import DisplacementField, Grid, Volume
from itk_pdd.evaluation import tables
from itk_pdd.evaluation.compare import compare, pair_names
from itk_pdd.evaluation.methods import candidates
from itk_pdd.io.fields import write_field
from itk_pdd.report.comparison import write_comparison_report
from itk_pdd.report.registration import write_registration_report

from .test_comparison import page, results  # noqa: F401

TRIED = {"mode", "curtain", "map", "opacity", "window", "level", "zoom", "contours", "grid", "crosshair"}
CONTROLS = "return [...document.querySelectorAll('[data-control]')].map((c) => c.dataset.control)"


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


@pytest.fixture(scope="module")
def two_methods(tmp_path_factory, results, scene):  # noqa: F811
    """A comparison of the truth with no displacement at all."""
    (pair, _), folder = results[0], results[-1].parent
    out, still = tmp_path_factory.mktemp("two"), folder / "still.nii"
    write_field(DisplacementField.zeros(scene.fixed.grid), still)
    copies = [f"{sys.executable} {folder / 'copy.py'} {file} {{field}} {{fixed}} {{moving}}"
              for file in (folder / "truth.nii", still)]  # fmt: skip
    found = compare([pair], candidates([], [f"truth={copies[0]}", f"still={copies[1]}"]), out, views=True)
    table = tables.rows(found)
    write_comparison_report(out / "r.html", [(pair_names([pair])[0], pair)], found, table, tables.summary(table), out)
    return out / "r.html"


def test_the_controls_of_a_comparison(browser, two_methods):
    browser.open(two_methods)
    names = "return [...document.querySelectorAll('header select, header button, header a')].map((e) => e.id || e.hash)"
    assert browser.script(names) == ["#summary", "#pairs", "#problems", "#methods", "pair-chooser", "theme"]
    choose = "const box = document.getElementById('pair-chooser'); box.value = 'pair-1';"
    browser.script(f"{choose} box.dispatchEvent(new Event('change'))")
    browser.viewer()
    assert browser.script("return location.hash") == "#pair-1"
    assert set(browser.script(CONTROLS)) == {*TRIED, "method"}
    methods = browser.script("return [...document.querySelector('[data-control=method]').options].map((o) => o.text)")
    value = "return document.querySelector(`[data-control=${arguments[0]}]`).selectedIndex"
    pictures = []
    for number, _ in enumerate(methods):
        browser.set("method", str(number))
        pictures.append(browser.pixels("axial").tobytes())
    assert len(set(pictures)) == len(methods)
    for key, control, by in (("m", "method", 1), ("n", "method", -1), ("v", "mode", 1)):
        count = browser.script(f"return document.querySelector('[data-control={control}]').options.length")
        before = browser.script(value, control)
        browser.press(key, "[data-view=axial]")
        assert browser.script(value, control) == (before + by) % count
    browser.script("document.querySelector('nav a').click()")
    browser.wait("return !document.querySelector('[data-page=summary]').hidden")
    opened = "return [...document.querySelectorAll('details')].map((d) => d.open)"
    before = browser.script(opened)
    browser.script("document.querySelectorAll('details summary').forEach((s) => s.click())")
    assert browser.script(opened) == [not state for state in before]


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


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    """A 2-D pair whose moving image is twice as bright."""
    grid = Grid.create((60, 80), (1.0, 1.0))
    ramp = np.linspace(0, 100, grid.voxels, dtype=np.float32).reshape(grid.shape)
    path = tmp_path_factory.mktemp("flat") / "flat.html"
    write_registration_report(path, Volume(ramp, grid), Volume(2 * ramp + 500, grid), DisplacementField.zeros(grid))
    return path


def test_a_flat_image_has_no_keys_for_slices(browser, flat):
    browser.open(flat)
    browser.viewer()
    words = browser.script("return document.querySelector('.keys').innerText")
    assert "slice" not in words and "before or after" in words


def test_every_control_has_a_test(plain):
    """A new control is named here with the test that tries it."""
    assert set(plain.script(CONTROLS)) == TRIED
    buttons = "return [...document.querySelectorAll('button:not(.sort)')].map((b) => b.textContent)"
    assert {text.split()[0] for text in plain.script(buttons)} == {
        "◐", "After", "Before", "Reset", "Link", "All", "Axial", "Coronal", "Sagittal"
    }  # fmt: skip


def test_a_link_shows_the_same_view(plain, single):
    """Slices, planes and controls are in the address; words that mean nothing there change nothing."""
    for control, value in (
        ("mode", "checkerboard"),
        ("map", "jacobian"),
        ("curtain", 30),
        ("zoom", 40),
        ("window", 70),
    ):
        plain.set(control, value)
    plain.press("PageUp", "[data-view=axial]")
    plain.press("2", "[data-view=axial]")
    seen, words = plain.pixels("coronal"), "return viewInWords(viewer)"
    view = plain.script(words)
    plain.press("l", "[data-view=coronal]")
    address = plain.script("return location.hash.slice(1)")
    assert address.endswith(view) and "link to this view" in plain.script("return viewer.readout.textContent")
    plain.open(single, address)
    plain.viewer()
    plain.settle()
    assert plain.script(words) == view
    assert np.array_equal(plain.pixels("coronal"), seen)
    plain.open(single, "x&at=5+500+1&planes=none&mode=nothing&zoom=1e9&contours=0")
    plain.viewer()
    assert plain.script("return document.querySelector('[data-control=contours]').checked") is False
    assert plain.script("return [viewer.cross.length, viewer.state.shown, viewer.state.mode, viewer.state.zoom]") == [
        3, "all", "overlay", 0
    ]  # fmt: skip


def test_the_legend_tells_the_colours_of_labels(plain, scene):
    keys = "return [...document.querySelectorAll('.label-key')].map((key) => key.textContent)"
    assert plain.script(keys) == []
    plain.set("contours", True)
    plain.settle()
    assert plain.script(keys) == [str(label) for label in np.unique(scene.fixed_labels.array) if label]


def test_the_cross_leaves_the_letters_free(plain):
    """The letters of the sides stand at half the height, where the cross is at the start."""
    bare = plain.pixels("axial")
    plain.set("crosshair", True)
    drawn = (plain.pixels("axial") != bare).any(axis=-1)
    assert drawn[:, 30:-30].any()
    assert not drawn[:, :18].any() and not drawn[:, -18:].any()


def test_every_way_to_show_the_images_is_explained(plain):
    legend = "return document.querySelector('.legend').textContent"
    for mode, words in (("overlay", "magenta"), ("checkerboard", "in turn"), ("difference", "grey where they agree")):
        plain.set("mode", mode)
        assert words in plain.script(legend)
    plain.set("map", "jacobian")
    assert "volume in the moving image" in plain.script(legend)


def test_the_page_opens_with_the_result(browser, single):
    browser.open(single)
    browser.viewer()
    assert browser.script("return document.querySelector('[data-control=curtain]').value") == "0"
    reached = "return [...document.querySelectorAll('[data-reached]')].map((b) => b.textContent)"
    assert browser.script(reached) == ["After"]
    browser.set("crosshair", False)
    browser.script("document.querySelector('[data-end=\"100\"]').click()")
    browser.settle()
    before = browser.pixels("axial")
    assert browser.script(reached) == ["Before"]
    browser.set("curtain", 0)
    assert (browser.pixels("axial") != before).any()
    browser.set("curtain", 100)
    assert np.array_equal(browser.pixels("axial"), before)


def test_the_cross_and_the_ways_to_show_the_images_differ(plain):
    shown = {}
    for mode in plain.script("return [...document.querySelector('[data-control=mode]').options].map((o) => o.value)"):
        plain.set("mode", mode)
        shown[mode] = plain.pixels("axial").tobytes()
    assert len(set(shown.values())) == 5
    plain.set("crosshair", True)
    assert plain.pixels("axial").tobytes() != shown["difference"]


@pytest.mark.parametrize("curtain", [0, 50, 100])
def test_a_colour_map_covers_the_picture_and_is_seen_over_the_overlay(plain, curtain):
    plain.set("mode", "overlay")
    plain.set("curtain", curtain)
    plain.set("map", "uncertainty")
    plain.set("opacity", 100)
    pixels = plain.pixels("axial")
    for half in (pixels[:, : pixels.shape[1] // 2 - 60], pixels[:, pixels.shape[1] // 2 + 60 :]):
        assert np.median(half.reshape(-1, 4), axis=0)[:3] == pytest.approx([253, 231, 37], abs=2)
    # Below a map the images are grey, whatever colours they had: red, green and blue fall short of its colour alike.
    plain.set("opacity", 0)
    grey = plain.pixels("axial").astype(int)[..., :3]
    assert np.ptp(grey, axis=-1).max() <= 1


def test_window_and_level(plain):
    legend = "return document.querySelector('.legend').textContent"
    start, words = plain.pixels("axial").astype(int), plain.script(legend)
    low, high = (float(v) for v in re.search(r"grey: (\S+) to (\S+) in both images", words).groups())
    plain.set("window", 66)  # twice as wide
    wide = plain.pixels("axial").astype(int)
    found = re.search(r"grey: (\S+) to (\S+) in both", plain.script(legend)).groups()
    assert float(found[1]) - float(found[0]) == pytest.approx(2 * (high - low), rel=0.03)
    assert np.ptp(wide[40:-60, 60:-60, 0]) < 0.8 * np.ptp(start[40:-60, 60:-60, 0])
    plain.set("level", 75)  # half a width up: darker
    assert plain.pixels("axial")[..., 0].mean() < wide[..., 0].mean() - 5
    plain.script("document.querySelector('[data-reset]').click()")
    plain.settle()
    assert np.array_equal(plain.pixels("axial"), start)


def test_images_of_another_unit_have_their_own_windows(browser, flat):
    browser.open(flat)
    browser.viewer()
    words = browser.script("return document.querySelector('.legend').textContent")
    ends = [float(v) for v in re.search(r"grey: (\S+) to (\S+) fixed, (\S+) to (\S+) moving", words).groups()]
    assert ends == pytest.approx([1, 99, 502, 698], abs=1.5)
    for name in ("fixed", "moving"):  # the same picture, each in its own window
        assert browser.pixels(name)[100, 100, 0] == pytest.approx(int(browser.pixels("axial")[100, 100, 1]), abs=2)


def test_zoom_and_its_keys(plain):
    start = plain.pixels("axial")

    def bright(pixels):
        return np.count_nonzero(pixels[40:-60, 20:-20, 0] > 100)

    plain.set("crosshair", True)
    plain.set("zoom", 33)  # 8 ** (1 / 3) = 2
    assert bright(plain.pixels("axial")) > 2 * bright(start)
    cross = plain.pixels("axial").astype(int)
    column = np.argmax((cross[..., 2] - cross[..., 0]).clip(0).sum(axis=0)) / cross.shape[1]
    # A click beside the cross moves it there: no more than half as far as without the zoom.
    at = "return Number(document.querySelector('[data-slice=sagittal]').value)"
    before = plain.script(at)
    plain.script(
        "const c = document.querySelector('[data-view=axial]'), b = c.getBoundingClientRect();"
        "c.setPointerCapture = () => {};"
        "c.dispatchEvent(new PointerEvent('pointerdown', {clientX: b.left + (arguments[0] + 0.25) * b.width,"
        "clientY: b.top + 0.5 * b.height}))",
        column,
    )
    plain.settle()
    count = plain.script("return Number(document.querySelector('[data-slice=sagittal]').max) + 1")
    assert plain.script(at) - before == pytest.approx(count / 8, abs=1.5)
    value = "return Number(document.querySelector('[data-control=zoom]').value)"
    for key, expected in (("0", 0), ("+", 8), ("+", 16), ("-", 8)):
        plain.press(key, "[data-view=axial]")
        assert plain.script(value) == expected


def test_all_planes_are_seen_without_scrolling(browser, single, flat):
    browser.resize(1280, 800)
    boxes = """return [...document.querySelectorAll('.pane:not([hidden]) canvas')].map((c) => {
        const b = c.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]})"""
    for path in (single, flat):
        browser.open(path)
        browser.viewer()
        places = np.array(browser.script(boxes))
        assert len(places) == 3 and np.ptp(places[:, 1]) < 1
        assert places[:, 2].max() <= 1280 and places[:, 3].max() <= 800
    assert np.ptp(places[:, [0, 2]]) > 0.7 * 1280  # a 2-D image has company, and uses the width


@pytest.mark.parametrize("width", [390, 768])
def test_a_comparison_fits_a_narrow_window(browser, page, width):  # noqa: F811
    """Its tables of figures scroll within themselves; nothing else is wider than the window."""
    browser.resize(width, 900)
    for name in ("summary", "pairs", "problems", "methods", "pair-1"):
        browser.open(page, name)
        if name == "pair-1":
            browser.viewer()
        assert browser.script("return document.documentElement.scrollWidth") <= width
        beyond = """return [...document.querySelectorAll('main *:not(.unseen, select)')].filter((e) =>
            !e.closest('.scroll, pre, svg') && e.getBoundingClientRect().right > arguments[0] + 0.5
        ).map((e) => e.outerHTML.slice(0, 80))"""
        assert browser.script(beyond, width) == []


def test_long_names_and_reasons_fit_a_phone(browser, page, tmp_path):  # noqa: F811
    """Names of pairs break, and a reason has the width of the page, not of a letter."""
    words = "the images match in part (likeness 0.42, 0.05 at the start; risk of failure 40 %)"
    text = page.read_text(encoding="utf-8")
    [name] = set(re.findall(r"<section data-page=\"pair-1\" hidden><h2>([^<]+)</h2>", text))
    text = text.replace(f"<h2>{name}</h2>", "<h2>" + 9 * "patient_" + "</h2>")
    text = re.sub(r"(<td class=\"text[^>]*>)the images [^<]*", lambda found: found[1] + words, text)
    changed = tmp_path / "page.html"
    changed.write_text(text, encoding="utf-8")
    browser.resize(390, 900)
    browser.open(changed, "pair-1")
    browser.viewer()
    assert words in text and browser.script("return document.documentElement.scrollWidth") <= 390
    tall = "return Math.max(...[...document.querySelectorAll('[data-page=pair-1] td')].map((e) => e.clientHeight))"
    assert browser.script(tall) < 100


def test_tables_of_a_comparison_are_whole_on_a_screen_and_on_paper(browser, page):  # noqa: F811
    hidden = """return [...document.querySelectorAll('[data-page=summary] .scroll')].filter(
        (e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.innerText.slice(0, 60))"""
    for width, media in ((1280, "screen"), (718, "print")):  # A4 within its margins
        browser.resize(width, 900)
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media})
        browser.open(page, "summary")
        assert browser.script(hidden) == []
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_the_labels_are_one_table(browser, single):
    browser.resize(1280, 800)
    browser.open(single)
    tops = browser.script(
        "return [...document.querySelectorAll('.labels tr')].map((r) => r.getBoundingClientRect().top)"
    )
    assert len(tops) > 1 and tops == sorted(set(tops))


def test_nothing_is_cut_off_on_a_phone(browser, single, flat):
    browser.resize(390, 844)
    for path in (single, flat):
        browser.open(path)
        browser.viewer()
        assert browser.script("return document.documentElement.scrollWidth") <= 390
        beyond = """return [...document.querySelectorAll('main *:not(.unseen, select)')].filter((e) => {
            const scrolls = e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX !== 'visible';
            return scrolls || e.getBoundingClientRect().right > 390.5;
        }).map((e) => e.outerHTML.slice(0, 80))"""
        assert browser.script(beyond) == []


def test_print_fills_its_pages(browser, single, flat):
    for path, pages in ((single, 2), (flat, 1)):  # labels have a page of their own
        browser.open(path)
        browser.viewer()
        assert len(re.findall(rb"/Type\s*/Page\b", browser.printed())) == pages


def test_the_keys_are_told_where_there_is_a_keyboard(plain):
    words = plain.script("return document.querySelector('.keys').innerText")
    assert "next or previous slice" in words
    assert "before or after" in words and "zoom in, out" in words
    assert plain.script("return document.querySelector('.keys').getBoundingClientRect().height") > 10
