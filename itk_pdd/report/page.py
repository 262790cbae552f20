"""The HTML page: the template, filled and written whole or not at all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from itk_pdd._version import __version__
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.outputs import Output
from itk_pdd.report.assets import Assets
from itk_pdd.views.display import JACOBIAN_SPAN, View, shrunk_shape, shrunken

__all__ = ["PairPictures", "fill", "html_table", "target", "writer"]

_SCRIPTS = ("volume.js", "drawing.js", "viewer.js", "page.js")


def target(path: Any, name: str = "report") -> Output:
    """The file of a report, as :func:`itk_pdd.io.outputs.write_all` takes it."""
    return Output(path, name, (".html", ".htm"))


def fill(
    *,
    title: str,
    subtitle: str,
    content: str,
    assets: Assets,
    pairs: Sequence[Mapping[str, Any]],
    navigation: str = "",
    single: bool = False,
) -> str:
    """A whole page.

    Parameters
    ----------
    title, subtitle : str
        Plain text.
    content, navigation : str
        HTML; what comes from outside must have been escaped.
    assets : Assets
        The arrays.
    pairs : sequence of mapping
        What the viewer shows, from :class:`PairPictures`.
    single : bool
        Whether everything is on one page.
    """
    folder = resources.files("itk_pdd.report") / "template"
    data = json.dumps({"single": single, "pairs": pairs}, allow_nan=False, separators=(",", ":"))
    values = {
        "title": escape(title),
        "subtitle": escape(subtitle),
        "version": __version__,
        "navigation": navigation,
        "content": content,
        # A name of a file must not end the script it stands in.
        "data": data.replace("<", "\\u003c"),
        "assets": assets.html(),
        "style": (folder / "style.css").read_text(encoding="utf-8"),
        "script": "\n".join((folder / name).read_text(encoding="utf-8") for name in _SCRIPTS),
    }
    page = (folder / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], page)


def html_table(
    header: Sequence[str], rows: Iterable[Sequence[Any]], *, caption: str = "", text: Iterable[int] = (0,)
) -> str:
    """A table that can be sorted; a cell is text, a number, or (html, number to sort by, class).

    Parameters
    ----------
    header : sequence of str
        Plain text.
    rows : iterable of sequences
        The cells.
    caption : str
        Plain text above the table.
    text : iterable of int
        Columns of words, set to the left.
    """
    words = set(text)
    kinds = [' class="text"' if column in words else "" for column in range(len(header))]
    head = "".join(f'<th scope="col"{kind}>{escape(name)}</th>' for kind, name in zip(kinds, header, strict=True))
    body = []
    for row in rows:
        cells = []
        for column, cell in enumerate(row):
            classes = ["text"] if column in words else []
            value = ""
            if isinstance(cell, tuple):
                cell, number, extra = cell
                classes += [extra] if extra else []
                value = f' data-value="{number:.9g}"' if number is not None and np.isfinite(number) else ""
            else:
                cell = escape(str(cell))
            kind = f' class="{" ".join(classes)}"' if classes else ""
            cells.append(f"<td{kind}{value}>{cell}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    above = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll"><table class="sortable">{above}<thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


class PairPictures:
    """What the viewer shows of one pair: the views, made small enough, and their description for the script.

    Parameters
    ----------
    identity : str
        Name of the page, a word.
    grid : Grid
        Grid of the fixed image.
    voxels : float
        How many voxels each of the images may have on the page.
    assets : Assets
        Where the arrays go.
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
        return {
            "id": self.identity,
            "dimension": self.grid.dimension,
            "shape": list(self.shape),
            "spacing": spacing,
            "origin": canonical.to_physical(corner).tolist(),
            "direction": np.asarray(canonical.direction).tolist(),
            "jacobianSpan": JACOBIAN_SPAN,
            "fixed": self._pictures(fixed),
            "before": self._pictures(before),
            "methods": [{"name": name, **self._pictures(view)} for name, view in methods.items()],
        }

    def _pictures(self, view: View) -> dict[str, Any]:
        described: dict[str, Any] = {}
        for name, picture in view.pictures.items():
            shape = self.shape if picture.kind in ("grey", "labels") else self.coarse
            described[name] = self.assets.add(shrunken(picture, shape).array)
        for name, largest in view.scales.items():
            described[f"{name}Max"] = largest
        if view.nodes is not None:
            described["field"] = self.assets.add_field(view.nodes)
            described["largest"] = max(float(np.percentile(np.linalg.norm(view.nodes, axis=-1), 99.5)), 1e-3)
        return described


def writer(text: str):
    """A function that writes a page to a path, for :func:`itk_pdd.io.outputs.write_all`."""

    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

    return write
