"""Charts as SVG, drawn without a library: box plots and a scatter plot, with the names beside what they name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from itk_pdd.report.page import render

__all__ = ["COLOURS", "box_plot", "nice_ticks", "scatter"]

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B8A900", "#6A51A3")
"""Okabe and Ito's colours, which colour-blind people tell apart, in an order for charts on white and on black."""

_NAMES_WIDTH, _VALUES_WIDTH, _ROW_HEIGHT = 134, 46, 22  # pixels


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about ``count`` round numbers from ``low`` to ``high``."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** np.floor(np.log10(raw))
    step = min((s * power for s in (1, 2, 2.5, 5, 10)), key=lambda s: abs(np.log(s / raw)))
    first = int(np.ceil(low / step - 1e-9))
    return [float(round(k * step, 12)) for k in range(first, int(np.floor(high / step + 1e-9)) + 1)]


def box_plot(
    title: str,
    values: Mapping[str, Sequence[float]],
    *,
    limits: tuple[float, float],
    colours: Mapping[str, str],
    unit: str = "",
    width: int = 480,
) -> Any:
    """Draw one box per row, with every value as a dot: an SVG element.

    The box goes from the lower to the upper quartile with a line at the median, the whiskers to the last value within
    1.5 of its lengths. Values that are not finite are left out. ``limits`` are the ends of the axis; charts to be
    compared need the same ones. ``width`` is in pixels; the height follows from the rows.
    """
    top, height = 26, 50 + _ROW_HEIGHT * len(values)
    low, high = limits if limits[1] > limits[0] else (limits[0] - 0.5, limits[0] + 0.5)

    def x(value: float) -> float:
        return _NAMES_WIDTH + (value - low) / (high - low) * (width - _NAMES_WIDTH - _VALUES_WIDTH - 8)

    rows = []
    for number, (name, given) in enumerate(values.items()):
        row: dict[str, Any] = {"name": _short(name), "y": top + _ROW_HEIGHT * (number + 0.5), "colour": colours[name]}
        known = np.sort([v for v in given if np.isfinite(v)])
        rows.append({**row, "dots": [], **(_box(known, x, row["y"]) if known.size else {})})
    told = [f"{name} {row['median']}{unit}" for name, row in zip(values, rows, strict=True) if row["dots"]]
    return _svg(
        title,
        "Medians: " + "; ".join(told),
        (width, height),
        ticks=[(x(tick), f"{tick:g}{unit}") for tick in nice_ticks(low, high)],
        rows=rows,
        top=top - 4,
        bottom=height - 24,
        left=_NAMES_WIDTH,
    )


def _box(known: np.ndarray, x: Any, middle: float) -> dict[str, Any]:
    """Places of the box, the whiskers and the dots of sorted values."""
    quartiles = np.percentile(known, (25, 50, 75))
    reach = 1.5 * (quartiles[2] - quartiles[0])
    return {
        "ends": (x(known[known >= quartiles[0] - reach].min()), x(known[known <= quartiles[2] + reach].max())),
        "box": [x(quartile) for quartile in quartiles],
        # A fixed zigzag shows equal values as several dots, and makes the same page every time.
        "dots": [(x(v), middle + 3 * (number % 3 - 1), _figure(v)) for number, v in enumerate(known)],
        "median": _figure(quartiles[1]),
    }


def scatter(
    title: str,
    points: Mapping[str, Mapping[str, float]],
    *,
    colours: Mapping[str, str],
    across: str,
    along: str,
    width: int = 760,
) -> Any:
    """Draw quality against time on a logarithmic axis, an SVG element: a named point per method, with its interval.

    Each point has ``x`` (positive), ``y`` and, where known, ``low`` and ``high`` of y. ``across`` and ``along`` name
    the axes of x and y; ``width`` is in pixels.
    """
    height, left, right, top, bottom = 380, 62, width - 130, 30, 334
    xs = np.log10([p["x"] for p in points.values()])
    ys = [v for p in points.values() for v in (p["y"], p.get("low"), p.get("high")) if v is not None and np.isfinite(v)]
    x0, x1 = np.floor(xs.min() * 2) / 2 - 0.1, np.ceil(xs.max() * 2) / 2 + 0.1
    margin = 0.08 * (max(ys) - min(ys)) or 0.05 * abs(max(ys)) or 1.0
    y0, y1 = min(ys) - margin, max(ys) + margin

    def x(value: float) -> float:
        return left + (value - x0) / (x1 - x0) * (right - left)

    def y(value: float) -> float:
        return bottom - (value - y0) / (y1 - y0) * (bottom - top)

    decades = range(int(np.floor(x0)), int(np.ceil(x1)) + 1)
    marks = [digit * 10.0**power for power in decades for digit in (1, 2, 5)]
    places = {name: (x(at), y(p["y"])) for (name, p), at in zip(points.items(), xs, strict=True)}
    labels = _apart(places)
    return _svg(
        title,
        f"{along} against {across}. "
        + "; ".join(f"{n}: {_figure(p['y'])} in {_figure(p['x'])}" for n, p in points.items()),
        (width, height),
        rungs=[(y(tick), f"{tick:g}") for tick in nice_ticks(y0, y1)],
        ticks=[(x(np.log10(mark)), f"{mark:g}") for mark in marks if x0 <= np.log10(mark) <= x1],
        points=[
            {
                "name": name,
                "x": places[name][0],
                "y": places[name][1],
                "label": labels[name],
                "colour": colours[name],
                "interval": (y(p["low"]), y(p["high"])) if np.isfinite(p.get("low", np.nan)) else None,
            }
            for name, p in points.items()
        ],
        across=across,
        along=along,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
    )


def _apart(places: Mapping[str, tuple[float, float]], gap: float = 14.0) -> dict[str, float]:
    """Heights of the names: that of the point, pushed down where another name is in the way."""
    placed: dict[str, float] = {}
    for name in sorted(places, key=lambda name: places[name][1]):
        across, height = places[name]
        near = [other for other in placed if abs(places[other][0] - across) < 120]
        for other in sorted(near, key=placed.__getitem__):
            if abs(placed[other] - height) < gap:
                height = placed[other] + gap
        placed[name] = height
    return placed


def _figure(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _short(name: str) -> str:
    return name if len(name) <= 17 else name[:16] + "…"


def _svg(title: str, description: str, size: tuple[int, int], **drawing: Any) -> Any:
    """Fill the template of the charts."""
    from markupsafe import Markup

    width, height = size
    drawn = render("charts.svg", title=title, description=description, width=width, height=height, **drawing)
    return Markup("".join(line.strip() for line in drawn.splitlines()))
