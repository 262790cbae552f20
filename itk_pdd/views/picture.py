"""Draw a registration as one picture: the images, their overlay before and after, and the deformed grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.volume import Volume

__all__ = ["grey_limits", "overview", "upright", "window", "write_png"]

_FOREGROUND = 0.05
"""Share of the way from the background to the brightest intensities from which something is foreground."""

_GAP, _TITLE, _MARGIN = 4, 22, 62
_INK, _PAPER = (225, 225, 225), (18, 18, 18)
_PALETTE = np.array(
    [(230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167), (120, 220, 232)]
)


@dataclass(frozen=True)
class _Plane:
    """A slice through canonical axes: array axis ``across`` is fixed, rows run along ``rows``, columns the third."""

    name: str
    across: int
    upside_down: bool


_PLANES = {
    3: (_Plane("axial", 0, False), _Plane("coronal", 1, True), _Plane("sagittal", 2, True)),
    2: (_Plane("", -1, False),),
}


def overview(
    fixed: Volume,
    moving: Volume,
    warped: Volume,
    field: DisplacementField,
    *,
    labels: Sequence[Volume] | None = None,
    height: int = 230,
) -> np.ndarray:
    """Draw a registration in three planes through the middle of the fixed image (one in 2-D): uint8 (rows, columns, 3).

    The columns are the fixed, the moving and the warped image, the overlay of fixed (green) and moving (magenta) before
    and after (grey where they agree), and a grid of the moving image pulled back by the field. The patient's left is on
    the right, front or head at the top. All images, and ``labels`` of the three, drawn as outlines, lie on the grid of
    the field. ``height`` is in pixels, of the longest side of a slice.
    """
    grid = field.grid
    canonical = grid.canonical()
    images = [upright(window(volume.array), grid) for volume in (fixed, moving, warped)]
    outlines = [None] * 3 if labels is None else [upright(volume.array, grid) for volume in labels]
    step = _round(max(grid.extent) / 16)
    lines = upright(_line_strength(field, canonical, step), grid)
    scale = height / max(canonical.extent)
    titles = ["fixed", "moving", "warped", "before", "after", f"grid of {step:g} mm"]
    rows, names = [], []
    for plane in _PLANES[grid.dimension]:
        cuts = [_cut(image, plane, canonical, scale) for image in images]
        edges = [None if o is None else _cut(o, plane, canonical, scale, nearest=True) for o in outlines]
        tiles = [_outlined(_grey(cut), edge) for cut, edge in zip(cuts, edges, strict=True)]
        tiles += [np.stack([cut, cuts[0], cut], axis=-1) for cut in (cuts[1], cuts[2])]
        in_plane = [
            axis for axis in range(grid.dimension) if axis != grid.dimension - 1 - plane.across or plane.across < 0
        ]
        strength = np.max([_cut(lines[..., axis], plane, canonical, scale) for axis in in_plane], axis=0)
        tiles.append(
            _grey(cuts[2]) * 0.35 * (1 - strength[..., None]) + strength[..., None] * np.array([1.0, 0.85, 0.3])
        )
        rows.append(tiles)
        names.append(plane.name)
    return _page(rows, titles, names)


def write_png(picture: np.ndarray, path: Path) -> None:
    """Write a picture (rows, columns, 3) of uint8 to a PNG file."""
    from PIL import Image

    Image.fromarray(picture).save(path, format="PNG")


def grey_limits(array: np.ndarray) -> tuple[float, float]:
    """Return the intensities shown as black and white: 1st and 99.5th percentile of the foreground.

    A background is a dark half whose intensities hardly vary, such as the air of a CT; the foreground begins a little
    above it, so that fat in CT is seen. Where there is none, as in a crop of a brain, all intensities count: its dark
    half is anatomy too.
    """
    from skimage.filters import threshold_otsu

    sample = array[(slice(None, None, 2),) * array.ndim].astype(np.float64)  # float32 overflows at outliers
    if sample.min() < sample.max():
        bright = sample > threshold_otsu(sample)
        if sample[~bright].std() < 0.25 * (sample[bright].mean() - sample[~bright].mean()):
            background = np.median(sample[~bright])
            sample = sample[sample > background + _FOREGROUND * (np.percentile(sample[bright], 99.5) - background)]
    low, high = np.percentile(sample, (1, 99.5))
    return float(low), float(max(high, low + 1e-9))


def window(array: np.ndarray, limits: tuple[float, float] | None = None) -> np.ndarray:
    """Map intensities to grey values from 0 to 1, between the limits (by default :func:`grey_limits` of the array)."""
    low, high = grey_limits(array) if limits is None else limits
    return np.clip((array.astype(np.float32) - low) / (high - low), 0, 1)


def upright(array: np.ndarray, grid: Grid) -> np.ndarray:
    """Turn an array (z, y, x, ...) on a grid so that its axes lie along the patient's."""
    order, flipped = grid.canonical_axes()
    last = grid.dimension - 1
    axes = [last - order[last - axis] for axis in range(grid.dimension)]
    array = array.transpose(*axes, *range(grid.dimension, array.ndim))
    return np.flip(array, [last - axis for axis in range(grid.dimension) if flipped[axis]])


def _line_strength(field: DisplacementField, canonical: Grid, step: float) -> np.ndarray:
    """Return how near every voxel is to a line of the moving image, 0 to 1, per axis x, y, z of the patient."""
    grid = field.grid
    place = canonical.to_index(grid.points() + field.vectors) * np.asarray(canonical.spacing)
    distance = np.abs(place - step * np.round(place / step))
    return np.exp(-((distance / (0.06 * step + 0.35 * max(grid.spacing))) ** 2)).astype(np.float32)


def _cut(array: np.ndarray, plane: _Plane, canonical: Grid, scale: float, *, nearest: bool = False) -> np.ndarray:
    """Cut the middle slice and resample it to square pixels."""
    from skimage.transform import resize

    extent = list(canonical.extent[::-1])
    if plane.across >= 0:
        array = np.take(array, array.shape[plane.across] // 2, axis=plane.across)
        del extent[plane.across]
    if plane.upside_down:
        array = array[::-1]
    shape = [max(2, round(length * scale)) for length in extent]
    return resize(array, shape, order=0 if nearest else 1, preserve_range=True, anti_aliasing=False, mode="edge")


def _grey(image: np.ndarray) -> np.ndarray:
    return np.repeat(image[..., None], 3, axis=-1)


def _outlined(image: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    if labels is None:
        return image
    from skimage.segmentation import find_boundaries

    labels = np.rint(labels).astype(int)
    edge = find_boundaries(labels, mode="inner") & (labels > 0)
    image = image.copy()
    image[edge] = _PALETTE[(labels[edge] - 1) % len(_PALETTE)] / 255
    return image


def _page(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Paste tiles in rows and columns under titles."""
    from PIL import Image, ImageDraw

    margin = _MARGIN if any(names) else _GAP
    widths = [max(row[column].shape[1] for row in rows) for column in range(len(titles))]
    heights = [max(tile.shape[0] for tile in row) for row in rows]
    size = margin + sum(widths) + _GAP * len(widths), _TITLE + sum(heights) + _GAP * len(heights)
    page = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(page)
    top = _TITLE
    for row, height, name in zip(rows, heights, names, strict=True):
        draw.text((6, top + height // 2), name, fill=_INK, anchor="lm")
        left = margin
        for tile, width in zip(row, widths, strict=True):
            pixels = np.rint(np.clip(tile, 0, 1) * 255).astype(np.uint8)
            corner = left + (width - tile.shape[1]) // 2, top + (height - tile.shape[0]) // 2
            page.paste(Image.fromarray(pixels), corner)
            left += width + _GAP
        top += height + _GAP
    left = margin
    for title, width in zip(titles, widths, strict=True):
        draw.text((left + width // 2, _TITLE // 2), title, fill=_INK, anchor="mm")
        left += width + _GAP
    return np.asarray(page)


def _round(value: float) -> float:
    """Round down to one of 1, 2, 5, 10, 20, ..."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(max(step for step in (1, 2, 5) if step * power <= value) * power)
