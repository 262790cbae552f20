"""Views of a registration: 8-bit copies along the patient's axes, small enough for a page.

All arrays have the axes z, y, x of the *canonical* grid (:meth:`itk_pdd.Grid.canonical`): x runs to the patient's
left, y to the back, z to the head. A 2-D image has one slice.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.outputs import whole_file
from itk_pdd.io.volume import Volume
from itk_pdd.views.grey import Knots, encode, knots_of
from itk_pdd.views.picture import grey_limits, upright

__all__ = [
    "JACOBIAN_SPAN",
    "Picture",
    "View",
    "encode_jacobian",
    "fixed_view",
    "grey",
    "load_view",
    "moved_view",
    "save_view",
    "shrunk_shape",
    "shrunken",
]

JACOBIAN_SPAN = 3.0
"""Codes 1 to 255 of a Jacobian map span log2 J from minus to plus this; code 0 is folded."""

log = logging.getLogger("itk_pdd")

_NODES = 64  # nodes of the displayed field along its longest axis: a quarter of a CT


@dataclass(frozen=True)
class Picture:
    """Voxels for display."""

    array: np.ndarray  # uint8 or uint16, axes z, y, x
    kind: str  # "grey", "labels", "jacobian", "map": meaning of the numbers; it decides how the picture is made smaller
    knots: Knots = ()  # of a grey picture: codes with the intensities they stand for (:data:`itk_pdd.views.grey.Knots`)


@dataclass(frozen=True)
class View:
    """Pictures of one image or of one registration."""

    pictures: Mapping[str, Picture]  # by name: ``image``, ``labels``, ``jacobian``, ``uncertainty``
    # float32 (z, y, x, dim) displacements in millimetres along the canonical axes, at nodes that are spread evenly from
    # the first to the last voxel
    nodes: np.ndarray | None = None
    scales: Mapping[str, float] = field(default_factory=dict)  # largest value of a picture of kind ``map``, in its unit


def grey(volume: Volume, limits: tuple[float, float]) -> Picture:
    """Convert an image to 256 codes, most of them between the limits."""
    knots = knots_of(volume.array, limits)
    return Picture(_canonical(encode(volume.array, knots), volume.grid), "grey", knots)


def fixed_view(image: Volume, labels: Volume | None = None) -> View:
    """Make the pictures of the fixed image."""
    pictures = {"image": grey(image, grey_limits(image.array)), "labels": labels and _labels(labels)}
    return View({name: picture for name, picture in pictures.items() if picture})


def moved_view(
    warped: Volume,
    displacements: DisplacementField | None,
    *,
    limits: tuple[float, float],
    labels: Volume | None = None,
    determinant: np.ndarray | None = None,
    uncertainty: Volume | None = None,
) -> View:
    """Make the pictures of a moving image on the grid of the fixed one.

    Without displacements there is no map of the Jacobian and no grid. ``limits`` are the intensities shown as black and
    white; take those of the moving image, so that all methods are shown alike. The Jacobian ``determinant`` of the
    field may be known already; ``uncertainty`` is the standard deviation of the displacement in millimetres.
    """
    pictures: dict[str, Picture | None] = {"image": grey(warped, limits), "labels": labels and _labels(labels)}
    scales, nodes = {}, None
    if displacements is not None:
        grid = displacements.grid
        codes = encode_jacobian(displacements.jacobian_determinant() if determinant is None else determinant)
        pictures["jacobian"] = Picture(_canonical(codes, grid), "jacobian")
        nodes = _nodes(displacements)
    if uncertainty is not None:
        largest = float(np.percentile(uncertainty.array, 99.5)) or 1.0
        levels = np.rint(np.clip(uncertainty.array / largest, 0, 1) * 255).astype(np.uint8)
        pictures["uncertainty"] = Picture(_canonical(levels, uncertainty.grid), "map")
        scales["uncertainty"] = largest
    return View({name: picture for name, picture in pictures.items() if picture}, nodes, scales)


def encode_jacobian(determinant: np.ndarray) -> np.ndarray:
    """Encode Jacobian determinants as uint8: 0 where folded, else 128 + 127 log2(J) / span, within 1 to 255."""
    with np.errstate(divide="ignore", invalid="ignore"):
        level = 128 + 127 / JACOBIAN_SPAN * np.log2(determinant)
    return np.where(determinant > 0, np.clip(np.rint(np.nan_to_num(level)), 1, 255), 0).astype(np.uint8)


def shrunk_shape(grid: Grid, voxels: float) -> tuple[int, int, int]:
    """Return the shape (z, y, x) on the canonical axes with at most about ``voxels`` nearly cubic voxels.

    The finest axes are coarsened first; nothing is made finer than it is.
    """
    canonical = grid.canonical()
    size = np.array([*canonical.size, 1][:3])
    spacing = np.array([*canonical.spacing, 1.0][:3])
    target = spacing.min()

    def at(edge: float) -> np.ndarray:
        return np.maximum(1, np.rint(size * spacing / np.maximum(spacing, edge))).astype(int)

    while at(target).prod() > voxels and at(target).max() > 2:
        target *= 1.02
    return tuple(int(n) for n in at(target)[::-1])


def shrunken(picture: Picture, shape: tuple[int, ...]) -> Picture:
    """Resample a picture to fewer voxels.

    Grey values and maps are averaged, labels sampled, and a voxel of a Jacobian map counts as folded where any of the
    voxels it stands for is, so that no fold is lost.
    """
    array = picture.array
    if array.shape == tuple(shape):
        return picture
    if picture.kind == "labels":
        return Picture(_sampled(array, shape), "labels")
    if picture.kind == "jacobian":
        from scipy import ndimage

        # Half the distance of two samples: every voxel is seen from one of them.
        reach = [-(-old // (2 * new)) if old > new else 0 for old, new in zip(array.shape, shape, strict=True)]
        folded = ndimage.maximum_filter(array == 0, size=[2 * r + 1 for r in reach])
        return Picture(np.where(_sampled(folded, shape), 0, np.maximum(1, _sampled(array, shape))), "jacobian")
    from skimage.transform import resize

    smaller = resize(array.astype(np.float32), shape, order=1, mode="edge", anti_aliasing=True, preserve_range=True)
    return replace(picture, array=np.rint(np.clip(smaller, 0, 255)).astype(np.uint8))


def save_view(view: View, path: Path) -> None:
    """Write a view to an ``.npz`` file, whole or not at all."""
    arrays = {f"picture/{picture.kind}/{name}": picture.array for name, picture in view.pictures.items()}
    arrays |= {f"knots/{name}": np.array(picture.knots) for name, picture in view.pictures.items() if picture.knots}
    arrays |= {f"scale/{name}": np.float64(value) for name, value in view.scales.items()}
    if view.nodes is not None:
        arrays["nodes"] = view.nodes
    with whole_file(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


def load_view(path: Path) -> View:
    """Read a file of :func:`save_view`."""
    view = View({})
    try:
        with np.load(path, allow_pickle=False) as file:
            for key in file.files:
                what, *rest = key.split("/")
                if what == "picture":
                    pairs = file[f"knots/{rest[1]}"].tolist() if f"knots/{rest[1]}" in file.files else []
                    picture = Picture(file[key], rest[0], tuple((float(code), float(value)) for code, value in pairs))
                    view = replace(view, pictures={**view.pictures, rest[1]: picture})
                elif what == "knots":
                    continue
                elif what == "scale":
                    view = replace(view, scales={**view.scales, rest[0]: float(file[key])})
                else:
                    view = replace(view, nodes=file[key])
    except (ValueError, KeyError, IndexError, OSError, EOFError, BadZipFile) as error:
        raise RegistrationError(f"{path} is no view that this package has written ({error}): remove it") from error
    return view


def _canonical(array: np.ndarray, grid: Grid) -> np.ndarray:
    array = upright(array, grid)
    return np.ascontiguousarray(array if grid.dimension == 3 else array[None])


def _labels(labels: Volume) -> Picture | None:
    array = labels.array
    if array.min() < 0 or array.max() > 65535:
        log.warning("the report shows no labels: they go from %s to %s, expected 0 to 65535", array.min(), array.max())
        return None
    return Picture(_canonical(array.astype(np.uint8 if array.max() < 256 else np.uint16), labels.grid), "labels")


def _nodes(displacements: DisplacementField) -> np.ndarray:
    """Sample the field at the nodes of the viewer, components along the canonical axes."""
    from scipy import ndimage

    grid = displacements.grid
    cosines = np.asarray(grid.canonical().direction)
    vectors = _canonical(displacements.vectors @ cosines.astype(np.float32), grid)
    shape = vectors.shape[:3]
    step = max(1.0, (max(shape) - 1) / (_NODES - 1))
    count = [1 if n == 1 else max(2, round((n - 1) / step) + 1) for n in shape]
    places = np.meshgrid(*[np.linspace(0, n - 1, m) for n, m in zip(shape, count, strict=True)], indexing="ij")
    parts = [ndimage.map_coordinates(vectors[..., i], places, order=1) for i in range(grid.dimension)]
    return np.stack(parts, axis=-1).astype(np.float32)


def _sampled(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Take the voxel nearest to the centre of each new one."""
    picks = [
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(int), old - 1)
        for old, new in zip(array.shape, shape, strict=True)
    ]
    return array[np.ix_(*picks)]
