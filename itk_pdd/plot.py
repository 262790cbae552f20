"""Pictures of a registration for notebooks.

Each function but :func:`view` draws one slice into a matplotlib axes and returns it. Slices lie along the patient's
axes: the patient's left is on the right, front or head at the top, millimetres on both axes. matplotlib comes with the
extra ``plot``.
"""

from __future__ import annotations

import html
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.images import is_itk, is_simpleitk
from itk_pdd.io.volume import Volume
from itk_pdd.report.page import write_page
from itk_pdd.report.registration import registration_page
from itk_pdd.views.grey import knots_of, windows
from itk_pdd.views.picture import grey_limits, upright, window

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["View", "deformation_grid", "jacobian", "overlay", "uncertainty", "view"]

# Array axis (z, y, x) that is fixed; True if the head is at the end of the rows.
_PLANES = {"axial": (0, False), "coronal": (1, True), "sagittal": (2, True)}


@dataclass(frozen=True)
class _Cut:
    """A slice along the patient's axes: its rows and columns, with their places in millimetres."""

    plane: str
    position: float
    grid: Grid

    @classmethod
    def of(cls, grid: Grid, plane: str, position: float | None) -> _Cut:
        if plane not in _PLANES:
            raise RegistrationError(f"plane must be one of {', '.join(_PLANES)}, found {plane!r}")
        position = 0.5 if position is None else float(position)
        if not 0 <= position <= 1:
            raise RegistrationError(f"position must lie between 0 and 1 (first and last slice), found {position:g}")
        return cls(plane, position, grid)

    @property
    def across(self) -> int | None:
        """The array axis that is fixed; None for an image of one slice."""
        return _PLANES[self.plane][0] if self.grid.dimension == 3 else None

    @property
    def axes(self) -> tuple[int, int]:
        """The axes (0 x, 1 y, 2 z) along columns and rows."""
        return {None: (0, 1), 0: (0, 1), 1: (0, 2), 2: (1, 2)}[self.across]

    @property
    def flipped(self) -> bool:
        """True if the second axis runs upwards."""
        return self.across is not None and _PLANES[self.plane][1]

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """Cut an array on the grid; axes rows, columns (, components)."""
        array = upright(array, self.grid)
        if self.across is None:
            return array
        return np.take(array, round(self.position * (array.shape[self.across] - 1)), axis=self.across)

    def coordinates(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the distances of columns and rows from the first voxel along the patient's axes, in millimetres."""
        canonical = self.grid.canonical()
        columns, rows = (np.arange(canonical.size[a]) * canonical.spacing[a] for a in self.axes)
        return columns, rows

    def spans(self) -> list[tuple[float, float]]:
        """Return where the slice begins and ends along columns and rows, in millimetres."""
        canonical = self.grid.canonical()
        return [(-0.5 * canonical.spacing[a], (canonical.size[a] - 0.5) * canonical.spacing[a]) for a in self.axes]

    def prepare(self, axes: Axes | None, title: str) -> Axes:
        """Set up the axes to draw into: equal scales, the right way up."""
        axes = _pyplot().subplots()[1] if axes is None else axes
        spans = self.spans()
        axes.set_xlim(*spans[0])
        axes.set_ylim(*(spans[1] if self.flipped else spans[1][::-1]))
        axes.set_aspect("equal")
        axes.set_xlabel(f"{'xyz'[self.axes[0]]} (mm)")
        axes.set_ylabel(f"{'xyz'[self.axes[1]]} (mm)")
        axes.set_title(title)
        return axes

    def show(self, axes: Axes, image: np.ndarray, **options: Any) -> Any:
        """Draw a slice as an image."""
        limits, (columns, rows) = (axes.get_xlim(), axes.get_ylim()), self.spans()
        drawn = axes.imshow(image, extent=(*columns, *rows), origin="lower", **options)
        axes.set_xlim(*limits[0])
        axes.set_ylim(*limits[1])
        return drawn


def overlay(
    fixed: Any,
    moving: Any,
    *,
    plane: str = "axial",
    position: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw two images over each other: fixed green, moving magenta, grey where they agree.

    Images of one unit, such as two CT, are drawn in one window of intensities.

    Parameters
    ----------
    fixed, moving : itk.Image, SimpleITK.Image, Volume, str or path-like
        The images; warp the moving one first.
    plane : {"axial", "coronal", "sagittal"}
        Plane of a 3-D image.
    position : float, optional
        Slice, from 0 (first) to 1 (last); the middle by default.
    ax : matplotlib.axes.Axes, optional
        Axes to draw into; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    RegistrationError
        If the images do not lie on one grid, or an option is out of range.
    ImportError
        If matplotlib is not installed.
    """
    first, second = Volume.from_image(fixed, name="fixed"), Volume.from_image(moving, name="moving")
    _same_grid(first.grid, second.grid, "moving", "fixed")
    cut = _Cut.of(first.grid, plane, position)
    ax = cut.prepare(ax, "fixed green, moving magenta")
    limits = windows(*(knots_of(volume.array, grey_limits(volume.array)) for volume in (first, second)))
    a, b = (cut(window(volume.array, each)) for volume, each in zip((first, second), limits, strict=True))
    cut.show(ax, np.stack([b, a, b], axis=-1))
    return ax


def deformation_grid(
    field: Any,
    *,
    image: Any = None,
    step: float | None = None,
    plane: str = "axial",
    position: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw lines that are straight in the moving image, as they lie in the fixed image.

    Parameters
    ----------
    field : DisplacementField, ITK or SimpleITK displacement field (transform or image), str or path-like
        From fixed to moving points in millimetres.
    image : itk.Image, SimpleITK.Image, Volume, str or path-like, optional
        Image to draw below: the fixed or the warped one, on the grid of the field.
    step : float, optional
        Distance of the lines in millimetres; by default a sixteenth of the image, rounded.
    plane, position, ax
        As for :func:`overlay`.

    Returns
    -------
    matplotlib.axes.Axes
    """
    displacements = _field(field)
    cut = _Cut.of(displacements.grid, plane, position)
    ax = cut.prepare(ax, "deformed grid")
    _background(ax, cut, image)
    if step is None:
        wanted = max(displacements.grid.extent) / 16
        power = 10.0 ** np.floor(np.log10(wanted))
        step = max(n for n in (1, 2, 5) if n * power <= wanted) * power
    if not step > 0:
        raise RegistrationError(f"step must be positive, found {step:g} mm")
    cosines = np.asarray(displacements.grid.canonical().direction)
    vectors = cut(displacements.vectors @ cosines.astype(np.float32))
    places = np.meshgrid(*cut.coordinates())
    for axis, place in zip(cut.axes, places, strict=True):
        mapped = place + vectors[..., axis]
        levels = np.arange(np.ceil(mapped.min() / step), np.floor(mapped.max() / step) + 1) * step
        if levels.size:
            ax.contour(*cut.coordinates(), mapped, levels=levels, colors="#e69f00", linewidths=0.9)
    return ax


def jacobian(
    field: Any,
    *,
    image: Any = None,
    plane: str = "axial",
    position: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a map of the Jacobian determinant: blue shrinks, orange grows, black folds.

    Parameters
    ----------
    field, image
        As for :func:`deformation_grid`.
    plane, position, ax
        As for :func:`overlay`.

    Returns
    -------
    matplotlib.axes.Axes
        With a colour bar beside it; the colours are those of log2 J from -1.5 to 1.5, its ticks those of J.
    """
    displacements = _field(field)
    cut = _Cut.of(displacements.grid, plane, position)
    ax = cut.prepare(ax, "Jacobian determinant")
    _background(ax, cut, image)
    from matplotlib.colors import LinearSegmentedColormap

    determinant = cut(displacements.jacobian_determinant())
    colours = LinearSegmentedColormap.from_list("jacobian", ["#0072b2", "#f7f7f7", "#e69f00"]).with_extremes(
        bad="black"
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.ma.masked_array(np.log2(determinant), determinant <= 0)
    drawn = cut.show(ax, level, cmap=colours, vmin=-1.5, vmax=1.5, alpha=1.0 if image is None else 0.6)
    ticks = np.array([0.5, 0.7, 1.0, 1.4, 2.0])
    bar = _colour_bar(ax, drawn, "Jacobian determinant", ticks=np.log2(ticks))
    bar.set_ticklabels([f"{tick:g}" for tick in ticks])
    return ax


def uncertainty(
    deviation: Any,
    *,
    image: Any = None,
    plane: str = "axial",
    position: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a map of the standard deviation of the displacement.

    Parameters
    ----------
    deviation : itk.Image, SimpleITK.Image, Volume, str or path-like
        Standard deviation in millimetres, not negative.
    image : itk.Image, SimpleITK.Image, Volume, str or path-like, optional
        Image to draw below, on the same grid.
    plane, position, ax
        As for :func:`overlay`.

    Returns
    -------
    matplotlib.axes.Axes
        With a colour bar beside it.
    """
    volume = Volume.from_image(deviation, name="deviation")
    if volume.array.min() < 0:
        raise RegistrationError(f"deviation must not be negative, found {volume.array.min():g}: it is no uncertainty")
    cut = _Cut.of(volume.grid, plane, position)
    ax = cut.prepare(ax, "uncertainty")
    _background(ax, cut, image)
    largest = float(np.percentile(volume.array, 99.5)) or 1.0
    drawn = cut.show(ax, cut(volume.array), cmap="cividis", vmin=0, vmax=largest, alpha=1.0 if image is None else 0.6)
    _colour_bar(ax, drawn, "standard deviation (mm)")
    return ax


@dataclass(frozen=True)
class View:
    """A page with a viewer, which a notebook shows inline.

    Attributes
    ----------
    html : str
        The whole page.
    height : int
        Height of the frame in a notebook, in pixels.
    """

    html: str
    height: int = 720

    def _repr_html_(self) -> str:
        """Return the page in a frame of its own, so that its style stays inside."""
        page = html.escape(self.html, quote=True)
        return f'<iframe srcdoc="{page}" style="width:100%;height:{self.height}px;border:0" allowfullscreen></iframe>'

    def __repr__(self) -> str:
        return f"View({len(self.html) / 1e6:.1f} MB; shown by a notebook, or written with save())"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page to a file (.html), whole or not at all; an ``OutputError`` says why it cannot be written."""
        write_page(path, self.html)


def view(
    fixed: Any,
    moving: Any,
    transform: Any,
    *,
    fixed_labels: Any = None,
    moving_labels: Any = None,
    uncertainty: Any = None,
    voxels: int = 1_000_000,
    height: int = 720,
) -> View:
    """Show a registration in a viewer: three planes, blending, contours, Jacobian, and the verdict.

    It is the page that ``pdd-register --report`` writes. matplotlib is not needed.

    Parameters
    ----------
    fixed, moving : itk.Image, SimpleITK.Image, Volume, str or path-like
        The images.
    transform : DisplacementField, ITK or SimpleITK displacement field (transform or image), str or path-like
        From fixed to moving points in millimetres, on the grid of the fixed image.
    fixed_labels, moving_labels : itk.Image, SimpleITK.Image, Volume, str or path-like, optional
        Label maps, drawn as contours; with both their overlap is told.
    uncertainty : itk.Image, SimpleITK.Image, Volume, str or path-like, optional
        Standard deviation of the displacement in millimetres, on the grid of the fixed image.
    voxels : int, default 1000000
        Most voxels of a picture: a larger number shows finer images and makes a larger notebook.
    height : int, default 720
        Height of the frame in pixels.

    Returns
    -------
    View
        Shown by a notebook as the last line of a cell; ``save("page.html")`` writes it.

    Raises
    ------
    RegistrationError
        If something does not lie on the grid of the fixed image.
    """
    own, other = (Volume.from_image(image, name=name) for image, name in ((fixed, "fixed"), (moving, "moving")))
    labels: dict[str, Any] = {
        name: None if given is None else Volume.labels_from_image(given, name=name)
        for name, given in (("fixed_labels", fixed_labels), ("moving_labels", moving_labels))
    }
    deviation = None if uncertainty is None else Volume.from_image(uncertainty, name="uncertainty")
    page = registration_page(own, other, _field(transform), **labels, uncertainty=deviation, voxels=voxels)
    return View(page, height)


def _colour_bar(ax: Axes, drawn: Any, label: str, **options: Any) -> Any:
    """Add a colour bar; the axes give it all the room that bar, ticks and label need, so it touches no neighbour."""
    bar = ax.figure.colorbar(drawn, ax=ax, fraction=0.22, pad=0.03, label=label, **options)
    bar.ax.tick_params(labelsize="small", pad=1)
    return bar


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot
    except ImportError as error:
        raise ImportError("pictures need matplotlib, which is not installed: run pip install matplotlib") from error
    return matplotlib.pyplot


def _field(field: Any) -> DisplacementField:
    """Read a displacement field in any form in which this package returns or writes it."""
    if isinstance(field, DisplacementField):
        return field
    from itk_pdd.io.fields import field_from_image, read_field

    if isinstance(field, str | os.PathLike):
        return read_field(field)
    if hasattr(field, "GetDisplacementField"):
        field = field.GetDisplacementField()
    if not (is_itk(field) or is_simpleitk(field)):
        raise RegistrationError(
            f"field is no displacement field: found {type(field).__name__}, expected a transform or an image of "
            "vectors of ITK or SimpleITK, or the path of a file"
        )
    return field_from_image(field)


def _background(ax: Axes, cut: _Cut, image: Any) -> None:
    if image is None:
        return
    volume = Volume.from_image(image, name="image")
    _same_grid(cut.grid, volume.grid, "image", "field")
    cut.show(ax, cut(window(volume.array)), cmap="gray", vmin=0, vmax=1)


def _same_grid(expected: Grid, found: Grid, name: str, other: str) -> None:
    if found.dimension != expected.dimension or not found.same_space(expected):
        raise RegistrationError(
            f"{name} must lie on the grid of {other}: found {found}, expected {expected} at the same place; resample it"
        )
