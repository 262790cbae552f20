"""The registration itself: two volumes in, a displacement field out. Free of ITK."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from itk_pdd import models
from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid, slabs
from itk_pdd.geometry.mapping import Mapping
from itk_pdd.geometry.resampling import interpolate, resample
from itk_pdd.io.volume import Volume
from itk_pdd.kernels.thermometer.cpu import share_bits
from itk_pdd.models.learned import register_learned
from itk_pdd.network.preparation import canonical_volume
from itk_pdd.solver import capture
from itk_pdd.solver.memory import fit, needs
from itk_pdd.solver.operations import checked_device, on_device
from itk_pdd.solver.refinement import refined
from itk_pdd.solver.search import WorkingImage, search
from itk_pdd.solver.semantics import ClassMaps
from itk_pdd.solver.settings import Model
from itk_pdd.solver.unfolding import without_folds
from itk_pdd.uncertainty.calibration import calibration_of
from itk_pdd.uncertainty.estimate import Uncertainty
from itk_pdd.uncertainty.features import collect
from itk_pdd.uncertainty.recorder import Recorder

if TYPE_CHECKING:
    from itk_pdd.network.card import ModelCard

__all__ = ["Result", "capture_range", "register_volumes", "working_grid"]

log = logging.getLogger("itk_pdd")


@dataclass(frozen=True)
class Result:
    """What a registration found.

    Parameters
    ----------
    field : DisplacementField
        From fixed to moving points on the grid of the fixed image, the initial transform included.
    model : Model
        The model that was used.
    working_grid : Grid
        Grid on which the images were compared.
    capture_range_mm : float
        Displacement in millimetres, beside the initial transform, up to which a deformation is found (see
        :func:`capture_range`).
    uncertainty : Uncertainty, optional
        How far the field can be believed, where that was asked for.
    """

    field: DisplacementField
    model: Model
    working_grid: Grid
    capture_range_mm: float
    uncertainty: Uncertainty | None = None


def register_volumes(
    fixed: Volume | Sequence[Volume],
    moving: Volume | Sequence[Volume],
    *,
    channel_weights: Sequence[float] | None = None,
    initial: Mapping | None = None,
    fixed_mask: Volume | None = None,
    moving_mask: Volume | None = None,
    model: str | Model = "auto",
    device: str = "auto",
    seed: int = 0,
    threads: int | None = None,
    spacing: float | None = None,
    smoothness: float = 1.0,
    refinement_iterations: int | None = None,
    memory: float | None = None,
    uncertainty: bool | str = False,
    progress: Callable[[float, str], None] | None = None,
) -> Result:
    """Register two volumes.

    Parameters
    ----------
    fixed, moving : Volume or sequence of Volume
        Checked images of one dimension, or the channels of each, on one grid.
    channel_weights : sequence of float, optional
        How much each channel counts beside the others; all alike by default.
    initial : Mapping, optional
        Where to start, from fixed to moving physical points.
    fixed_mask, moving_mask : Volume, optional
        bool volumes; outside, the fixed image has no say and the field is carried on from its surroundings; samples
        that would land outside the moving mask do not count.
    model : str or Model
        Name of a model, or the model itself.
    device : {"auto", "cpu", "cuda", "cuda:1", ...}
        Where to search, to descend on the correlation and to unfold, and where the network of a model computes, if it
        has one: "auto" is a GPU where torch finds one that works, else the CPU. Resampling, spanning trees and the
        descent on class probabilities are the CPU's, and the unfolding of a PDD network's fields.
    seed : int
        Kept for models that draw random numbers; those with hand-made features draw none.
    threads : int, optional
        CPU threads; as many as torch uses by default.
    spacing : float, optional
        Working spacing in millimetres instead of the model's; smaller is more exact and slower.
    smoothness : float
        Factor of the model's regularisation; a larger one gives a smoother field that fits less closely. That of PDD
        networks was learned and cannot be changed.
    refinement_iterations : int, optional
        Steps of the instance optimisation instead of the model's; more fit the images more closely and fold more
        easily, 0 leaves it out.
    memory : float, optional
        What the process may hold in memory, in GB; by default nearly all that is free. Where it is short, the costs are
        computed in blocks (the same result, slower), or the images compared at a coarser spacing (with a warning).
    uncertainty : {False, True, "where possible"}
        Whether to estimate how far the field can be believed; without it nothing is computed for that. PDD networks
        do not estimate it yet: True is refused with them.
    progress : callable, optional
        Called with a fraction from 0 to 1 and the name of the step at hand.

    Returns
    -------
    Result

    Raises
    ------
    RegistrationError
        If there is no such model or device, an option makes no sense, or the memory is not enough.
    """

    model = models.load(model)
    checked_device(device)
    report = progress or (lambda fraction, text: None)
    started = time.perf_counter()
    fixed, moving = (tuple(v) if isinstance(v, Sequence) else (v,) for v in (fixed, moving))
    weights = _checked_weights(fixed, moving, channel_weights)
    if not 0 < smoothness < math.inf:
        raise RegistrationError(f"smoothness is {smoothness}, expected a finite number above 0")
    if model.pdd is not None:
        if smoothness != 1:
            raise RegistrationError(
                f"smoothness is {smoothness}, but model {model.name} is a PDD network, which has learned its own: "
                "leave it out, or choose another model"
            )
        if uncertainty is True:
            raise RegistrationError(
                f"the uncertainty is asked for, but model {model.name} is a PDD network, which does not estimate it: "
                "leave it out, or choose another model"
            )
        with _threads(threads):
            field, grid, range_mm = register_learned(
                fixed, moving, model, initial=initial, masked=fixed_mask is not None or moving_mask is not None,
                device=device, spacing=spacing, refinement_iterations=refinement_iterations, memory=memory,
                progress=report,
            )  # fmt: skip
        report(1.0, "done")
        return Result(field, model, grid, range_mm)
    if spacing is not None:
        if not spacing > 0:
            raise RegistrationError(f"spacing is {spacing}, expected a length above 0 mm")
        # What is asked for is not made coarser for being slow.
        model = replace(model, spacing=float(spacing), max_voxels=sys.maxsize)
    if refinement_iterations is not None:
        if refinement_iterations < 0:
            raise RegistrationError(f"refinement_iterations is {refinement_iterations}, expected at least 0")
        model = replace(model, refinement=replace(model.refinement, iterations=int(refinement_iterations)))
    model = model.smoother(smoothness)
    with _threads(threads):
        report(0.0, "resampling")
        facts: dict[str, Any] = {"channels": len(fixed), "masked": moving_mask is not None}
        facts["on_host"] = checked_device(device) == "cpu"
        grid, for_costs = fit(
            lambda model: _search_grid(fixed[0].grid, moving[0].grid, initial, model),
            lambda grid: needs(grid, fixed[0].grid, moving[0].grid, model, **facts),
            model,
            limit=memory,
            keep_spacing=spacing is not None,
        )
        range_mm = capture_range(model) * max(grid.spacing)
        log.info("model %s, working grid %s, capture range %.3g mm", model.name, grid, range_mm)
        first = _prepared(fixed, grid, None, fixed_mask, weights)
        second = _prepared(moving, grid, initial, moving_mask, weights)
        if model.network is not None:
            report(0.02, "organs")
            first, second = _with_classes(first, second, fixed[0], moving[0], grid, initial, model, device)
        share = 0.45 if model.refinement.iterations else 0.9
        calibration = calibration_of(model) if uncertainty else None

        def displaced(operations: Any) -> tuple[np.ndarray, int, Recorder | None]:
            # What begins anew on another device is not to be mixed with what was given up.
            recorder = None if calibration is None else Recorder(first.shape, first.dimension, calibration.temperature)
            found, block = search(
                *_with_descriptor(first, second, model, operations),
                model.stages,
                operations=operations,
                memory=for_costs,
                progress=lambda f, text: report(0.05 + share * f, text),
                recorder=recorder,
                at_edge=lambda edge, reach: capture.tell_edge(edge, reach * max(grid.spacing)),
            )
            if model.refinement.iterations:
                report(0.5, "refinement")
                start, before = found, block
                found, block = refined(
                    first, second, start, before, model.refinement,
                    smallest_jacobian=model.smallest_jacobian, operations=operations,
                    progress=lambda f: report(0.5 + 0.45 * f, "refinement"),
                )  # fmt: skip
                if recorder is not None:
                    recorder.refinement(start, before, found, block)
            if model.smallest_jacobian is not None:
                found = without_folds(found, (block,) * 3, model.smallest_jacobian, operations)
            return found, block, recorder

        found, block, recorder = on_device(device, displaced)
        report(0.95, "field")
        field = _to_fixed_grid(found, grid, block, fixed[0].grid, initial)
        estimate = None
        if recorder is not None and calibration is not None:
            evidence = collect(recorder, first, second, found, block, grid)
            estimate = Uncertainty(evidence, calibration, field, initial)
    if estimate is not None and estimate.quality is not None:
        log.log(logging.WARNING if estimate.quality.failed else logging.INFO, "%s", estimate.quality)
    report(1.0, "done")
    log.info("registered in %.1f s", time.perf_counter() - started)
    return Result(field, model, grid, range_mm, estimate)


def capture_range(model: Model) -> float:
    """Displacement in working voxels up to which a model finds a smooth deformation.

    It is half of the farthest displacement that a single stage tries: on synthetic pairs whose largest displacement is
    80 % of it, the mean error stays below 1.5 voxels (``tests/benchmarks/bench_truth.py``). Translations are found
    beyond it.
    """
    return 0.5 * max(stage.reach for stage in model.stages)


def working_grid(grid: Grid, model: Model) -> Grid:
    """Grid on which images are compared: anatomical axes, the same spacing along all of them.

    Parameters
    ----------
    grid : Grid
        Grid of the fixed image.
    model : Model
        Gives the spacing, or leaves it to the image: the edge of a cube of the volume of a voxel.
    """
    canonical = grid.canonical()
    spacing = model.spacing or float(np.prod(grid.spacing) ** (1 / grid.dimension))
    smallest = float((np.prod(canonical.extent) / model.max_voxels) ** (1 / grid.dimension))
    if spacing < smallest:
        log.info("working spacing %.3g mm instead of %.3g mm: the image is large", smallest, spacing)
        spacing = smallest
    return canonical.with_spacing(spacing)


def _search_grid(fixed: Grid, moving: Grid, initial: Mapping | None, model: Model) -> Grid:
    """The working grid with what of the moving image is within reach around it."""
    inner = working_grid(fixed, model)
    reach = sum(stage.reach for stage in model.stages)  # the farthest that all stages together could go
    # The moving image is needed as far around the fixed one as displacements reach, if there is anything.
    return inner.padded(*_margins(inner, moving, initial, reach))


def _margins(grid: Grid, moving: Grid, initial: Mapping | None, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Voxels to add on each side of the working grid so that it holds what of the moving image is within reach."""
    corners = grid.padded([reach] * grid.dimension, [reach] * grid.dimension)
    # Which part of the extended grid sees the moving image, on a coarse lattice.
    axes = [np.linspace(0, n - 1, min(n, 24)) for n in corners.size]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    points = corners.to_physical(index)
    seen = moving.to_index(points if initial is None else initial(points))
    inside = ((seen > -1) & (seen < np.asarray(moving.size))).all(axis=-1)
    if not inside.any():
        return np.zeros(grid.dimension, int), np.zeros(grid.dimension, int)
    used = index[inside]
    last = np.asarray(grid.size) - 1
    needed = reach - used.min(axis=0), used.max(axis=0) - reach - last
    # The border of the image lies somewhere within the next mesh of the lattice. A few voxels are not worth it.
    mesh = (np.asarray(corners.size) - 1) / np.maximum([len(a) - 1 for a in axes], 1)
    small = np.maximum(1, 0.05 * np.asarray(grid.size))
    lower, upper = (np.where(n > small, np.clip(np.ceil(n + mesh), 0, reach), 0).astype(int) for n in needed)
    return lower, upper


def _checked_weights(
    fixed: tuple[Volume, ...], moving: tuple[Volume, ...], weights: Sequence[float] | None
) -> tuple[float, ...]:
    """Weights of the channels, which must belong together."""
    if len(fixed) != len(moving):
        raise RegistrationError(f"fixed has {len(fixed)} channels and moving {len(moving)}, expected as many")
    for name, channels in (("fixed", fixed), ("moving", moving)):
        if any(channel.grid != channels[0].grid for channel in channels):
            raise RegistrationError(f"the channels of {name} lie on different grids, expected one: resample them")
    weights = (1.0,) * len(fixed) if weights is None else tuple(float(w) for w in weights)
    if len(weights) != len(fixed):
        raise RegistrationError(
            f"channel_weights has {len(weights)} numbers, expected one for each channel: {len(fixed)}"
        )
    if min(weights) < 0 or not np.isfinite(weights).all() or sum(weights) <= 0:
        raise RegistrationError(f"channel_weights are {weights}, expected finite numbers not below 0 and one above")
    return weights


def _prepared(
    channels: tuple[Volume, ...], grid: Grid, mapping: Mapping | None, mask: Volume | None, weights: tuple[float, ...]
) -> WorkingImage:
    """An image on the working grid, as the search wants it."""
    # However the voxels are stored, they are interpolated in the same order: rounding would otherwise decide ties anew.
    arrays = [resample(canonical_volume(volume), grid, mapping=mapping).array for volume in channels]
    used = None
    if mask is not None:
        mask = canonical_volume(mask)
        used = resample(mask, grid, mapping=mapping, interpolation="nearest", outside="zero").array
    if grid.dimension == 2:
        arrays, used = [array[None] for array in arrays], None if used is None else used[None]
    # A mask of everything is none.
    used = None if used is None or used.all() else used.astype(bool)
    return WorkingImage(tuple(np.ascontiguousarray(a) for a in arrays), grid.dimension, weights, used)


def _with_classes(
    first: WorkingImage,
    second: WorkingImage,
    fixed: Volume,
    moving: Volume,
    grid: Grid,
    initial: Mapping | None,
    model: Model,
    device: str,
) -> tuple[WorkingImage, WorkingImage]:
    """Both images with what the model's network says about them."""
    from itk_pdd.network.semantic import SemanticNetwork

    folder = str(model.network)

    def answers(operations: Any) -> tuple[ModelCard, list[tuple[np.ndarray, Grid]]]:
        network = SemanticNetwork.from_folder(folder, device=str(operations.device))
        return network.card, [network.probabilities(volume) for volume in (fixed, moving)]

    card, answer = on_device(device, answers)
    # Small organs count more than their share of the volume: they have the same right to be met.
    bits = share_bits([c.volume**-0.3 for c in card.classes[1:]])
    result = []
    for image, mapping, (probabilities, where) in zip((first, second), (None, initial), answer, strict=True):
        # Without the background, which is what the others leave.
        probabilities = np.ascontiguousarray(np.moveaxis(probabilities[1:], 0, -1))
        classes = ClassMaps(probabilities, where, bits, grid, model.class_weight, mapping)
        result.append(replace(image, classes=classes))
    return result[0], result[1]


def _with_descriptor(
    first: WorkingImage, second: WorkingImage, model: Model, operations: Any
) -> tuple[WorkingImage, WorkingImage]:
    """Both images with the learned descriptor of the model, if it has one."""
    if model.descriptor is None:
        return first, second
    if first.dimension != 3:
        log.info("the descriptor of model %s is for 3-D images: this pair goes without it", model.name)
        return first, second
    from itk_pdd.network.descriptor import load_descriptor

    codes = load_descriptor(model.descriptor, device=operations.device).codes
    return replace(first, descriptor=codes), replace(second, descriptor=codes)


def _to_fixed_grid(
    found: np.ndarray, grid: Grid, block: int, fixed: Grid, initial: Mapping | None
) -> DisplacementField:
    """The field found at blocks of the working grid, in millimetres on the fixed image's grid, initial included."""
    vectors = (found[0, ..., :2] if grid.dimension == 2 else found) @ grid.matrix.T.astype(np.float32)
    inner = DisplacementField(np.ascontiguousarray(vectors, dtype=np.float32), grid.blocks(block))
    if initial is None:
        return DisplacementField(interpolate(inner.vectors, inner.grid, fixed), fixed)
    out = np.empty((*fixed.shape, fixed.dimension), np.float32)
    for slab, points in slabs(fixed):
        out[slab] = initial(points + inner.at(points, outside="nearest")) - points
    return DisplacementField(out, fixed)


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    import torch

    if count is None:
        yield
        return
    if count < 1:
        raise RegistrationError(f"threads is {count}, expected at least 1")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
