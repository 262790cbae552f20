"""Charts as SVG, drawn without a library: box plots and a scatter plot, named directly so that no legend is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

__all__ = ["COLOURS", "box_plot", "nice_ticks", "scatter"]

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B8A900", "#6A51A3")
"""Okabe and Ito's colours, which colour-blind people tell apart, in an order for charts on white and on black."""

_NAMES, _VALUES, _ROW = 134, 46, 22


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers from ``low`` to ``high``."""
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
) -> str:
    """One box per row, with every value as a dot.

    The box goes from the lower to the upper quartile with a line at the median, the whiskers to the last value within
    1.5 of its lengths.

    Parameters
    ----------
    title : str
        Title of the chart.
    values : mapping
        For each row its values; those that are not finite are left out.
    limits : tuple of float
        Ends of the axis, the same for charts that are to be compared.
    colours : mapping
        Colour of each row.
    unit : str
        Unit, for the axis.
    width : int
        Width of the drawing; its height follows from the rows.
    """
    top, bottom = 26, 24
    height = top + _ROW * len(values) + bottom
    low, high = limits if limits[1] > limits[0] else (limits[0] - 0.5, limits[0] + 0.5)

    def x(value: float) -> float:
        return _NAMES + (value - low) / (high - low) * (width - _NAMES - _VALUES - 8)

    parts = [f'<text class="title" x="0" y="14">{escape(title)}</text>']
    for tick in nice_ticks(low, high):
        parts.append(_line("axis", x(tick), top - 4, x(tick), height - bottom))
        parts.append(
            f'<text class="soft" x="{x(tick):.1f}" y="{height - 8}" text-anchor="middle">{tick:g}{unit}</text>'
        )
    told = []
    for number, (name, given) in enumerate(values.items()):
        middle = top + _ROW * (number + 0.5)
        parts.append(f'<text x="{_NAMES - 10}" y="{middle + 4:.1f}" text-anchor="end">{escape(_short(name))}</text>')
        known = np.array([v for v in given if np.isfinite(v)])
        if not known.size:
            parts.append(f'<text class="soft" x="{_NAMES}" y="{middle + 4:.1f}">no value</text>')
            continue
        colour = colours[name]
        parts.append(f'<g fill="{colour}" stroke="{colour}">{_box(known, x, middle)}</g>')
        median = float(np.median(known))
        parts.append(f'<text x="{width}" y="{middle + 4:.1f}" text-anchor="end">{_figure(median)}</text>')
        told.append(f"{name} {_figure(median)}{unit}")
    return _svg(width, height, title, "Medians: " + "; ".join(told), parts)


def _box(known: np.ndarray, x, middle: float) -> str:
    quartiles = np.percentile(known, (25, 50, 75))
    reach = 1.5 * (quartiles[2] - quartiles[0])
    ends = known[known >= quartiles[0] - reach].min(), known[known <= quartiles[2] + reach].max()
    left, centre, right = (x(q) for q in quartiles)
    parts = [
        _line("", x(ends[0]), middle, left, middle),
        _line("", right, middle, x(ends[1]), middle),
        f'<rect class="box" x="{left:.1f}" y="{middle - 6:.1f}" width="{max(right - left, 0.5):.1f}" height="12"/>',
    ]
    # Dots in a fixed zigzag, so that equal values are seen as several and the page is the same every time.
    for number, value in enumerate(np.sort(known)):
        offset = (number % 3 - 1) * 3
        parts.append(
            f'<circle class="dot" cx="{x(value):.1f}" cy="{middle + offset:.1f}" r="1.7" stroke="none">'
            f"<title>{_figure(value)}</title></circle>"
        )
    parts.append(f'<path d="M{centre:.1f} {middle - 7:.1f}v14" stroke-width="2.4"/>')
    return "".join(parts)


def scatter(
    title: str,
    points: Mapping[str, Mapping[str, float]],
    *,
    colours: Mapping[str, str],
    across: str,
    along: str,
    width: int = 760,
) -> str:
    """Quality against time: one named point per method, time on a logarithmic axis, with confidence intervals.

    Parameters
    ----------
    title : str
        Title of the chart.
    points : mapping
        For each method ``x`` (positive), ``y`` and, where known, ``low`` and ``high`` of y.
    colours : mapping
        Colour of each method.
    across, along : str
        Names of the axis of x and of that of y.
    width : int
        Width of the drawing.
    """
    height, left, right, top, bottom = 380, 62, 130, 30, 46
    xs = np.log10([p["x"] for p in points.values()])
    ys = [v for p in points.values() for v in (p["y"], p.get("low"), p.get("high")) if v is not None and np.isfinite(v)]
    x0, x1 = np.floor(xs.min() * 2) / 2 - 0.1, np.ceil(xs.max() * 2) / 2 + 0.1
    margin = 0.08 * (max(ys) - min(ys)) or 0.05 * abs(max(ys)) or 1.0
    y0, y1 = min(ys) - margin, max(ys) + margin

    def x(value: float) -> float:
        return left + (value - x0) / (x1 - x0) * (width - left - right)

    def y(value: float) -> float:
        return height - bottom - (value - y0) / (y1 - y0) * (height - top - bottom)

    parts = [f'<text class="title" x="0" y="14">{escape(title)}</text>']
    for tick in nice_ticks(y0, y1):
        parts.append(_line("axis", left, y(tick), width - right, y(tick)))
        parts.append(f'<text class="soft" x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for power in range(int(np.floor(x0)), int(np.ceil(x1)) + 1):
        for digit in (1, 2, 5):
            at = power + np.log10(digit)
            if x0 <= at <= x1:
                parts.append(_line("axis", x(at), top, x(at), height - bottom))
                label = f"{digit * 10.0**power:g}"
                parts.append(
                    f'<text class="soft" x="{x(at):.1f}" y="{height - bottom + 18}" text-anchor="middle">{label}</text>'
                )
    parts.append(
        f'<text x="{(left + width - right) / 2:.0f}" y="{height - 6}" text-anchor="middle">{escape(across)}</text>'
    )
    parts.append(
        f'<text x="14" y="{height / 2:.0f}" transform="rotate(-90 14 {height / 2:.0f})" text-anchor="middle">'
        f"{escape(along)}</text>"
    )
    labels = _apart({name: y(p["y"]) for name, p in points.items()}, {n: x(v) for n, v in zip(points, xs, strict=True)})
    for name, point in points.items():
        colour, cx, cy = colours[name], x(np.log10(point["x"])), y(point["y"])
        if np.isfinite(point.get("low", np.nan)):
            ends = y(point["low"]), y(point["high"])
            parts.append(f'<path d="M{cx:.1f} {ends[0]:.1f}V{ends[1]:.1f}" stroke="{colour}" stroke-width="1.6"/>')
        parts.append(f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="5.5" fill="{colour}"/>')
        parts.append(f'<text x="{cx + 10:.1f}" y="{labels[name] + 4:.1f}">{escape(name)}</text>')
    told = "; ".join(f"{n}: {_figure(p['y'])} in {_figure(p['x'])}" for n, p in points.items())
    return _svg(width, height, title, f"{along} against {across}. {told}", parts)


def _apart(ys: Mapping[str, float], xs: Mapping[str, float], gap: float = 14.0) -> dict[str, float]:
    """Heights of the names: that of the point, pushed down where another name near by is in the way."""
    placed: dict[str, float] = {}
    for name in sorted(ys, key=ys.__getitem__):
        height = ys[name]
        near = [other for other in placed if abs(xs[other] - xs[name]) < 120]
        for other in sorted(near, key=placed.__getitem__):
            if abs(placed[other] - height) < gap:
                height = placed[other] + gap
        placed[name] = height
    return placed


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _figure(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _short(name: str) -> str:
    return name if len(name) <= 17 else name[:16] + "…"


def _svg(width: int, height: int, title: str, description: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img"><title>{escape(title)}</title>'
        f"<desc>{escape(description)}</desc>{''.join(parts)}</svg>"
    )
