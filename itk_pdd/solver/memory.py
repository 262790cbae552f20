"""Estimate the memory of a registration, and fit it into that of the machine."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil

from itk_pdd.errors import RegistrationError, warn
from itk_pdd.geometry.grid import Grid
from itk_pdd.solver.settings import Settings, Stage

__all__ = ["Guides", "Needs", "available", "fit", "needs", "require", "resident", "room"]

log = logging.getLogger("itk_pdd")

_SPARE = 0.9  # share of the free memory that is taken: others need some, too
_LEAST = 1 / 6  # share of the control points that is held at least: the trunk of the tree and a branch of it
_SMALLEST = 24  # voxels along the shortest axis below which a coarser grid would show nothing
_SEEN = 4.0  # millimetres at which a trained network sees images
_NETWORK, _CLASSES = 1000, 128  # bytes per voxel there: while it answers, and of its answers for both images
_DESCRIBED = 64  # bytes per voxel of a learned descriptor's MIND-SSC features, while it looks at them
_FEATURES = 2 * 32 * 4  # bytes per voxel of a user's own features of both images, at the most
_PATCH = 128**3  # voxels that a network of these looks at at once
_FILES = ("active_file", "inactive_file")
_FEW = 600  # control points that are held in any case: of a small tree the trunk is most


@dataclass(frozen=True)
class Guides:
    """The part of a user's guides that takes memory: number of labels, and spacing of features in millimetres."""

    labels: int = 0
    spacing: float | None = None


@dataclass(frozen=True)
class Needs:
    """Bytes that a registration takes at its peak beside what the process holds before."""

    images: int  # both images on the working grid, their codes and fields: in use as long as costs are
    costs: int  # costs of the largest stage and as many messages
    least_costs: int  # the same in the smallest blocks
    # What comes before and after the search, whichever is more: resampling, the descent, the field on the grid of the
    # fixed image.
    ends: int

    @property
    def most(self) -> int:
        """With all costs held at once."""
        return max(self.images + self.costs, self.ends)

    @property
    def least(self) -> int:
        """With costs in blocks."""
        return max(self.images + self.least_costs, self.ends)


def needs(
    grid: Grid,
    fixed: Grid,
    moving: Grid,
    model: Settings,
    *,
    channels: int = 1,
    masked: bool = False,
    on_host: bool = True,
    guides: Guides | None = None,
) -> Needs:
    """Estimate what a registration takes on a working ``grid``, margins included, for images on their grids.

    ``masked`` says that part of the moving image must not be compared, ``on_host`` that the CPU searches: the costs are
    not held here where a GPU does.
    """
    voxels, guides = grid.voxels, guides or Guides()
    words = channels * (1 + (model.descriptor is not None)) + (model.network is not None)
    words += (guides.labels > 0) + (guides.spacing is not None)
    finest = min(stage.shrink for stage in model.stages)
    # Both images as they are and averaged; codes of both, and once more as they are read; MIND-SSC; a few fields.
    codes = (24 + 8 * (masked + (masked and words > 1))) * words / finest**grid.dimension
    codes += 8 * masked / finest**grid.dimension  # codes without a bit set
    images = voxels * (channels * 9 + codes + 12 + 2 * masked)
    # Moments and products of the windows, gradients, fields, and those that are unfolded; images with what is known of
    # their windows, and as many derivatives along each axis; classes take less. No costs are held then.
    refinement = model.refinement
    derivatives = refinement.derivatives and grid.dimension == 3 and refinement.shrink(grid.size) == 1
    images_and_derivatives = 4 if derivatives else 1
    descent = voxels * (136 + 20 * channels * images_and_derivatives + 2 * masked) if refinement.iterations else 0
    if not on_host and refinement.features == "correlation":
        descent = voxels * 12 * (1 + channels * images_and_derivatives)
    if refinement.features == "classes" or not refinement.finish:
        descent /= refinement.shrink(grid.size) ** grid.dimension
    if guides.labels and refinement.iterations:
        # The last steps are on the working grid: labels of both images as bytes, and fields.
        descent = max(descent, voxels * (136 + 2 * -(-guides.labels // 16) * 16))
    seen = 0.0 if model.network is None else float(np.prod(fixed.extent) / _SEEN**fixed.dimension)
    images += _CLASSES * seen
    if model.descriptor is not None:
        images += _DESCRIBED * voxels / finest**grid.dimension
    known = 0.0 if guides.spacing is None else float(np.prod(fixed.extent / guides.spacing))
    images += _FEATURES * known
    costs = [_costs(grid, stage) if on_host else (0, 0) for stage in model.stages]
    # The image and the field as floats, and what each is made from or passed on as.
    before = 12.0 * max(fixed.voxels, moving.voxels) + 8 * channels * voxels
    before += _NETWORK * (seen + min(known, _PATCH))
    after = 4 * grid.dimension * fixed.voxels + 12 * voxels / 8
    return Needs(int(images), max(c[0] for c in costs), max(c[1] for c in costs), int(max(before, after, descent)))


def _costs(grid: Grid, stage: Stage) -> tuple[int, int]:
    """Bytes of costs and messages of a stage: all, and the least."""
    points = 1
    for size in grid.size:
        points *= math.ceil(math.ceil(size / stage.shrink) / stage.cell)
    along = 2 * stage.radius + 1
    each = 8 * along ** (grid.dimension - 1) * (-(-along // 8) * 8)
    return points * each, min(points, _FEW + int(_LEAST * points)) * each


def resident() -> int:
    """Count the bytes that this process holds in memory."""
    return int(psutil.Process().memory_info().rss)


def available() -> int:
    """Count the bytes that this process can take without pushing others out, within the limits of its container."""
    return min([int(psutil.virtual_memory().available), *_cgroups()])


def _cgroups(base: str = "/sys/fs/cgroup") -> list[int]:
    """Read how much the limits of a container leave (both versions of control groups)."""
    version1 = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat")
    found: list[int] = []
    for names in (("memory.max", "memory.current", "memory.stat"), version1):
        try:
            most, used, details = (Path(base, name).read_text().strip() for name in names)
            if most.isdecimal() and int(most) < 1 << 60:  # "max", or a number beyond all memory, is no limit
                # The cache of files makes way.
                files = sum(int(line.split()[1]) for line in details.splitlines() if line.split()[0] in _FILES)
                found.append(max(0, int(most) - int(used) + files))
        except (OSError, ValueError, IndexError):
            continue
    return found


def room(limit: float | None) -> float:
    """Count the bytes that a registration may take beside those that the process holds now.

    ``limit`` is the memory of the whole process in GB (10^9 bytes), by default nearly all that is free;
    RegistrationError if it is no positive number.
    """
    if limit is None:
        return _SPARE * available()
    if not limit > 0:
        raise RegistrationError(f"memory is {limit}, expected a number of GB above 0")
    return limit * 1e9 - resident()


def fit(
    make_grid: Callable[[Settings], Grid],
    estimate: Callable[[Grid], Needs],
    model: Settings,
    *,
    limit: float | None = None,
    keep_spacing: bool = False,
) -> tuple[Grid, float]:
    """Choose a working grid whose registration fits into the memory; also return the bytes that costs may take.

    First the costs are taken in blocks, which changes nothing but the time; if that is not enough, the images are
    compared at a coarser spacing, with a warning. ``make_grid`` makes the working grid for a model, whose spacing is
    where to begin; ``estimate`` says what a registration on a grid takes (see :func:`needs`), ``limit`` is that of
    :func:`room`. RegistrationError, which says how much would be needed, if it cannot fit, or with ``keep_spacing`` not
    at that of the model.
    """
    grid = wanted = make_grid(model)
    found, space = estimate(grid), room(limit)
    where = _left(space, limit)
    log.info("memory: about %s, %s", _gigabytes(found.most), where)
    if found.least > space:
        advice = "allow more (memory), " if limit is not None else ""
        asked = "the given spacing of " if keep_spacing else ""
        needed = f"a registration at {asked}{max(grid.spacing):.3g} mm takes at least {_gigabytes(found.least)} beside "
        needed += f"the images, but {where}"
        while found.least > space and not keep_spacing and min(grid.size) > _SMALLEST:
            grid = make_grid(replace(model, spacing=1.05 * max(grid.spacing)))
            found = estimate(grid)
        if found.least > space:
            advice += "give a larger spacing or none" if keep_spacing else "resample the images or give a spacing"
            raise RegistrationError(f"not enough memory: {needed}; {advice}")
        warn(f"{needed}: they are compared at {max(grid.spacing):.3g} mm instead of {max(wanted.spacing):.3g} mm")
    if found.most > space:
        log.info("memory: the costs are computed in blocks, twice each")
    return grid, space - found.images


def require(found: Needs, *, limit: float | None, what: str, advice: str) -> None:
    """Raise RegistrationError if what cannot be done in blocks takes more memory than there is; log how much."""
    space = room(limit)
    log.info("memory: about %s", _gigabytes(found.most))
    if found.most > space:
        raise RegistrationError(
            f"not enough memory: {what} takes about {_gigabytes(found.most)} beside the images, but "
            f"{_left(space, limit)}: {advice}"
        )


def _left(space: float, limit: float | None) -> str:
    return f"{_gigabytes(max(0, space))} " + ("are free" if limit is None else f"are left of {limit:g} GB")


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.2g} GB" if count < 1e10 else f"{count / 1e9:.0f} GB"
