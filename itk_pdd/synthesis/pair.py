"""Synthetic pairs of images whose true deformation is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.volume import Volume
from itk_pdd.synthesis.anatomy import Anatomy
from itk_pdd.synthesis.deformation import Deformation, random_deformation
from itk_pdd.synthesis.rendering import Acquisition, ct_contrast, random_acquisition, random_contrast, render

__all__ = ["MODALITIES", "SyntheticPair", "make_pair"]

MODALITIES = ("same", "random")


@dataclass(frozen=True)
class SyntheticPair:
    """Two images of one random anatomy, the moving one deformed.

    Parameters
    ----------
    fixed, moving : Volume
        float32 images.
    fixed_labels, moving_labels : Volume
        uint8 label maps on the same grids; both sample one anatomy, so they are true on their own and not warped.
    truth : DisplacementField
        On the fixed grid: the fixed point x shows what the moving image shows at x + u(x).
    inverse : DisplacementField
        On the moving grid: from moving points back to fixed points.
    body : numpy.ndarray
        bool array on the fixed grid: where there is anything but background.
    names : mapping
        Names of the labels.
    """

    fixed: Volume
    moving: Volume
    fixed_labels: Volume
    moving_labels: Volume
    truth: DisplacementField
    inverse: DisplacementField
    body: np.ndarray
    names: Mapping[int, str]


def make_pair(
    size: Sequence[int] = (96, 80, 64),
    spacing: Sequence[float] | float = 3.0,
    *,
    seed: int,
    origin: Sequence[float] | float = 0.0,
    direction: np.ndarray | None = None,
    moving_grid: Grid | None = None,
    kind: str = "abdomen",
    modality: str = "same",
    displacement: float | None = None,
    scales: Sequence[float] | None = None,
    affine: np.ndarray | None = None,
    deformation: Deformation | None = None,
    acquisition: Acquisition | None = None,
) -> SyntheticPair:
    """Make a random pair with known truth.

    Parameters
    ----------
    size : sequence of int
        Voxels of the fixed image along x, y(, z); two numbers make a 2-D pair.
    spacing : float or sequence of float
        Millimetres between voxels.
    seed : int
        Determines the pair entirely.
    origin, direction :
        Of the fixed image, as in :meth:`itk_pdd.geometry.grid.Grid.create`.
    moving_grid : Grid, optional
        Grid of the moving image; that of the fixed image by default.
    kind : {"abdomen", "shapes"}
        The anatomy (see :class:`itk_pdd.synthesis.Anatomy`).
    modality : {"same", "random"}
        "same": both images show the tissues alike, an abdomen as in CT, shapes with a random contrast but a random
        scanner for each image. "random": each image has a random contrast and a random scanner of its own.
    displacement : float, optional
        Largest displacement within the fixed image in millimetres, not counting ``affine``; 8 % of the mean extent of
        the fixed image by default.
    scales : sequence of float, optional
        Smoothness of the deformation, see :func:`itk_pdd.synthesis.random_deformation`.
    affine : numpy.ndarray, optional
        Homogeneous matrix applied after the displacement, see :func:`itk_pdd.synthesis.random_affine`.
    deformation : Deformation, optional
        The true mapping itself, in place of ``displacement``, ``scales`` and ``affine``.
    acquisition : Acquisition, optional
        The scanner of both images; by default a CT scanner for an abdomen of one modality, else random ones.

    Returns
    -------
    SyntheticPair

    Raises
    ------
    RegistrationError
        If an argument is out of range, unknown or contradicts another.
    """
    fixed_grid = _check_grid(Grid.create(size, spacing, origin, direction))
    if isinstance(seed, int) and seed < 0:
        raise RegistrationError(f"seed is {seed}; expected a whole number from 0 up")
    if modality not in MODALITIES:
        raise RegistrationError(f"modality is {modality!r}; expected one of {', '.join(map(repr, MODALITIES))}")
    if moving_grid is None:
        moving_grid = fixed_grid
    elif moving_grid.dimension != fixed_grid.dimension:
        raise RegistrationError(
            f"moving_grid has {moving_grid.dimension} dimensions, size has {fixed_grid.dimension}; expected the same"
        )
    anatomy_rng, motion_rng, look_rng, fixed_rng, moving_rng = np.random.default_rng(seed).spawn(5)
    anatomy = Anatomy(fixed_grid, int(anatomy_rng.integers(2**63)), kind)
    if deformation is None:
        magnitude = 0.08 * float(fixed_grid.extent.mean()) if displacement is None else displacement
        deformation = random_deformation(
            fixed_grid, seed=motion_rng, magnitude=magnitude, scales=scales, affine=affine, cover=[moving_grid]
        )
    elif not (displacement is None and scales is None and affine is None):
        raise RegistrationError(
            "deformation is given together with displacement, scales or affine; expected one or the other"
        )
    inverse = deformation.inverse(moving_grid)
    fixed_tissues = anatomy.sample()
    moving_tissues = anatomy.sample(moving_grid, inverse)

    realistic = kind == "abdomen" and modality == "same"
    shared = ct_contrast(look_rng) if realistic else random_contrast(look_rng)
    images = []
    for tissues, grid, rng in (
        (fixed_tissues, fixed_grid, fixed_rng), (moving_tissues, moving_grid, moving_rng)
    ):  # fmt: skip
        contrast = shared if modality == "same" else random_contrast(rng)
        scanner = Acquisition() if realistic else random_acquisition(rng, grid.dimension)
        images.append(render(tissues, grid, contrast, acquisition or scanner, rng))
    return SyntheticPair(
        fixed=images[0],
        moving=images[1],
        fixed_labels=Volume(fixed_tissues.labels, fixed_grid),
        moving_labels=Volume(moving_tissues.labels, moving_grid),
        truth=deformation.forward(fixed_grid),
        inverse=inverse,
        body=fixed_tissues.labels != 0,
        names=anatomy.names,
    )


def _check_grid(grid: Grid) -> Grid:
    if grid.dimension not in (2, 3):
        raise RegistrationError(f"size is {grid.size}; expected two or three numbers of voxels")
    if min(grid.size) < 4:
        raise RegistrationError(f"size is {grid.size}; expected at least 4 voxels along each axis")
    if not all(np.isfinite(s) and s > 0 for s in grid.spacing):
        raise RegistrationError(f"spacing is {grid.spacing}; expected lengths above 0 mm")
    return grid
