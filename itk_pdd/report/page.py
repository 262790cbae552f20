"""The HTML page: templates filled by Jinja2 (all text is escaped), and the file written whole or not at all."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from itk_pdd._version import __version__
from itk_pdd.evaluation.verdict import FAILED, GOOD, LOOK
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.outputs import Output, write_all, write_bytes
from itk_pdd.report.assets import Assets
from itk_pdd.views.display import JACOBIAN_SPAN, View, shrunk_shape, shrunken
from itk_pdd.views.grey import windows

__all__ = ["LAMPS", "LIGHTS", "Cell", "PairPictures", "Table", "fill", "render", "target", "write_page", "writer"]

LAMPS = {
    GOOD: ("●", "Good", "The images, the field and the search show nothing suspicious."),
    LOOK: ("▲", "Look", "Check the images below for this before you use the result."),
    FAILED: ("■", "Probably failed", "The result should not be used as it is."),
}
"""Sign, title and meaning of each word of a verdict."""
LIGHTS = {GOOD: "good", LOOK: "look", FAILED: "poor"}
"""Names of the colours in the style sheet."""
_SCRIPTS = ("volume.js", "drawing.js", "controls.js", "share.js", "viewer.js", "page.js")


@dataclass(frozen=True)
class Cell:
    """A cell of a table."""

    text: str = ""  # plain text
    number: float | None = None  # the number by which the column is sorted; by default its text
    kind: str = ""  # CSS class of the cell
    # text in small letters behind and under the first one
    beside: str = ""
    below: str = ""
    link: str = ""  # name of the section of the page to which the text leads

    @property
    def key(self) -> str:
        """The number as the page carries it; empty if there is none."""
        return "" if self.number is None or not np.isfinite(self.number) else f"{self.number:.9g}"


@dataclass(frozen=True)
class Table:
    """A table that can be sorted."""

    header: Sequence[str]  # titles of the columns
    rows: Sequence[Sequence[str | Cell]]  # cells: text, or :class:`Cell`
    caption: str = ""  # text above the table
    words: Sequence[int] = (0,)  # columns of words, aligned left


def target(path: Any, name: str = "report") -> Output:
    """Describe the file of a report for :func:`itk_pdd.io.outputs.write_all`."""
    return Output(path, name, (".html", ".htm"))


def writer(text: str) -> Any:
    """Return a function that writes a page to a path, for :func:`itk_pdd.io.outputs.write_all`."""
    return partial(write_bytes, content=text.encode("utf-8"))


def write_page(path: str | os.PathLike[str], text: str) -> None:
    """Write a page to a file, whole or not at all."""
    write_all([(target(path), writer(text))])


@cache
def _environment() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("itk_pdd.report", "template"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["px"] = "{:.1f}".format
    # No line begins with a unit, and sizes such as 2 x 2 mm stay on one line.
    held = r"(?<=\d) (?=%|mm\b|x \d)|(?<=\d x) (?=\d)"
    environment.filters["units"] = partial(re.sub, held, "\N{NO-BREAK SPACE}")
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment


def render(template: str, **values: Any) -> str:
    """Fill a template of this package; values are escaped."""
    return _environment().get_template(template).render(values)


def fill(
    template: str,
    *,
    title: str,
    subtitle: str,
    assets: Assets,
    pictures: Sequence[Mapping[str, Any]],
    single: bool = False,
    **values: Any,
) -> str:
    """Make a whole page; ``title`` and ``subtitle`` are plain text, ``values`` the other names in the template.

    ``pictures`` describe the pairs for the viewer (:class:`PairPictures`), whose arrays are ``assets``. A ``single``
    page has no sections to choose from.
    """
    from markupsafe import Markup

    folder: Path = resources.files("itk_pdd.report") / "template"  # type: ignore[assignment]
    return render(
        template,
        title=title,
        subtitle=subtitle,
        version=__version__,
        data={"single": single, "pairs": pictures},
        assets=[Markup(text) for text in assets.texts],
        style=Markup((folder / "style.css").read_text(encoding="utf-8")),
        scripts=[Markup((folder / name).read_text(encoding="utf-8")) for name in _SCRIPTS],
        **values,
    )


class PairPictures:
    """Pictures of one pair for the viewer: made small enough for the page, and described for the script.

    ``identity`` is the name of the page, a word; ``voxels`` is how many each of the images may have on the page.
    """

    def __init__(self, identity: str, grid: Grid, voxels: float, assets: Assets) -> None:
        self.identity, self.grid, self.assets = identity, grid, assets
        self.shape = shrunk_shape(grid, voxels)
        # Maps are smooth: half the resolution halves the page.
        self.coarse = tuple(max(1, -(-n // 2)) for n in self.shape) if np.prod(self.shape) > 2**18 else self.shape

    def describe(self, fixed: View, before: View, methods: Mapping[str, View]) -> dict[str, Any]:
        """Add the arrays of a pair and describe them.

        Parameters
        ----------
        fixed, before : View
            The fixed image, and the moving image before registration.
        methods : mapping of View
            What came out, by the name of the method.
        """
        canonical = self.grid.canonical()
        extent = canonical.extent.tolist() + [1.0] * (3 - self.grid.dimension)
        spacing = [length / n for length, n in zip(extent, self.shape[::-1], strict=True)]
        # The first voxel of a coarser grid lies further inside.
        corner = np.array([s / old - 1 for s, old in zip(spacing, canonical.spacing, strict=False)]) / 2
        grey = windows(fixed.pictures["image"].knots, before.pictures["image"].knots)
        return {
            "id": self.identity,
            "dimension": self.grid.dimension,
            "shape": list(self.shape),
            "spacing": spacing,
            "origin": canonical.to_physical(corner).tolist(),
            "direction": np.asarray(canonical.direction).tolist(),
            "jacobianSpan": JACOBIAN_SPAN,
            "fixed": self._pictures(fixed, grey[0]),
            "before": self._pictures(before, grey[1]),
            "methods": [{"name": name, **self._pictures(view, grey[1])} for name, view in methods.items()],
        }

    def _pictures(self, view: View, grey: tuple[float, float]) -> dict[str, Any]:
        described: dict[str, Any] = {}
        for name, picture in view.pictures.items():
            shape = self.shape if picture.kind in ("grey", "labels") else self.coarse
            described[name] = self.assets.add(shrunken(picture, shape).array)
            if picture.knots:
                described[name] |= {"knots": picture.knots, "window": grey}
        for name, largest in view.scales.items():
            described[f"{name}Max"] = largest
        if view.nodes is not None:
            described["field"] = self.assets.add_field(view.nodes)
            described["largest"] = max(float(np.percentile(np.linalg.norm(view.nodes, axis=-1), 99.5)), 1e-3)
        return described
