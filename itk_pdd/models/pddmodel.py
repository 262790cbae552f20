"""A trained PDD network with its card, as a model that registers. Free of ITK."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.mapping import PointMap
from itk_pdd.kernels.operations import Operations
from itk_pdd.models.seen import Seen, SeenImages, SeenOrgans, grid_of, seen_masks
from itk_pdd.network.card import WEIGHTS, PddCard
from itk_pdd.network.export import write_model
from itk_pdd.network.pddnet import Lattice, PddNetwork
from itk_pdd.network.preparation import prepare_image
from itk_pdd.network.semantic import WHOLE, SemanticNetwork
from itk_pdd.network.storage import load_weights, read_tensors
from itk_pdd.solver.devices import checked_device, computing_threads, on_device
from itk_pdd.solver.engine import on_blocks
from itk_pdd.solver.folds import without_folds
from itk_pdd.solver.memory import Needs, require
from itk_pdd.solver.organs import Organs, organs_of
from itk_pdd.solver.problem import Options, Problem, Result
from itk_pdd.solver.settings import SMALLEST_JACOBIAN
from itk_pdd.solver.working import WorkingImage, working_grid
from itk_pdd.uncertainty.calibration import PDD, calibration_in
from itk_pdd.uncertainty.searches import SearchRecorder

__all__ = ["PddModel", "composed"]

log = logging.getLogger("itk_pdd")


_BYTES_OF_MIND = 210  # per voxel, while MIND-SSC features are made
_BYTES_OF_EVIDENCE = 80  # per voxel, while both images are compared for the uncertainty


@dataclass(frozen=True, eq=False)
class PddModel:
    """A PDD network and its card.

    Parameters
    ----------
    network : PddNetwork
        With trained weights.
    card : PddCard
        Describes it.
    smallest_jacobian : float, optional
        The field of every search is unfolded where its Jacobian determinant is smaller, so that all searches together
        do not fold on the working grid. None leaves folds where they are.
    iterations : int, optional
        Steps of the instance optimisation instead of the card's; more fit the images more closely and fold more easily,
        0 leaves it out.
    """

    network: PddNetwork
    card: PddCard
    smallest_jacobian: float | None = SMALLEST_JACOBIAN
    iterations: int | None = None

    def __post_init__(self) -> None:
        self.network.eval().requires_grad_(False)

    @property
    def name(self) -> str:
        """Name on the card."""
        return self.card.name

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str]) -> PddModel:
        """Read a model folder: ``card.json`` and ``weights.safetensors``.

        Raises
        ------
        RegistrationError
            If a file is missing or damaged, comes from a newer version, or the two do not belong together.
        """
        card = PddCard.from_folder(folder)
        network = PddNetwork(card.network)
        load_weights(network, read_tensors(Path(folder) / WEIGHTS, name="model"), name=f"model {card.name}")
        return cls(network, card)

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Write card and weights into a folder, for ``register(model=folder)``.

        Raises
        ------
        OutputError
            If they cannot be written; a model that was there is kept.
        """
        write_model(folder, self.network, self.card)

    def register(self, problem: Problem, options: Options) -> Result:
        """Register two images.

        Parameters
        ----------
        problem : Problem
            Images of one channel, 3-D, in the units the network was trained with.
        options : Options
            How to register; spacing and smoothness were learned and cannot be chosen.

        Returns
        -------
        Result
            The capture range is half of the farthest displacement that is tried.

        Raises
        ------
        RegistrationError
            If the network cannot use the images or an option, or the memory is not enough (there are no blocks).
        """
        device = checked_device(options.device)
        self.check(problem, options)
        problem = problem.without_outliers()
        fixed, report = problem.fixed, options.progress
        self.require(problem, options, on_host=device == "cpu")
        with computing_threads(options.threads, torch=True):
            report(0.0, "organs" if self.network.organs is not None else "features")
            calibration = calibration_in(self.name, self.card.uncertainty, default=PDD) if options.uncertainty else None
            recorder = None if calibration is None else SearchRecorder(calibration.temperature)
            start, grid = self.searched(problem, options, self.organs(problem, options), recorder)
            range_mm = 0.5 * self.capture_range_mm(grid)
            log.info("model %s, working grid %s, capture range %.3g mm", self.name, grid, range_mm)
            report(0.95, "field")
            initial = problem.initial
            mapping = start if initial is None else lambda points: initial(start(points))
            field = DisplacementField.from_function(mapping, fixed.grid)
            uncertainty = None
            if recorder is not None and calibration is not None:
                # They load much of scipy.
                from itk_pdd.uncertainty.estimate import Uncertainty
                from itk_pdd.uncertainty.features import collect

                evidence = collect(recorder.recorder(grid), *_images(problem, grid), on_blocks(start, grid), grid)
                uncertainty = Uncertainty(evidence, calibration, field, initial)
        report(1.0, "done")
        return Result(field, self, grid, range_mm, uncertainty)

    def require(self, problem: Problem, options: Options, *, on_host: bool) -> None:
        """Raise RegistrationError if the memory is not enough for a registration."""
        require(
            self.needs(
                problem.fixed.grid,
                problem.moving.grid,
                masked=problem.moving_mask is not None,
                on_host=on_host,
                uncertain=bool(options.uncertainty),
            ),
            limit=options.memory,
            what=f"a registration with model {self.name}",
            advice=f"{'close other programs' if options.memory is None else 'allow more (memory)'}, crop the images, "
            "or choose another model",
        )

    def check(self, problem: Problem, options: Options) -> None:
        """Raise RegistrationError for images and options that the network cannot use."""
        if options.smoothness != 1:
            raise RegistrationError(
                f"smoothness is {options.smoothness}, but model {self.name} is a PDD network, which has learned its "
                "own: leave it out, or choose another model"
            )
        if problem.guidance is not None:
            raise RegistrationError(
                f"model {self.name} is a PDD network, which no labels or landmarks can guide: choose another model"
            )
        if len(problem.fixed_channels) > 1:
            raise RegistrationError(
                f"fixed and moving have {len(problem.fixed_channels)} channels, but model {self.name} was trained on "
                "images of one: give one, or choose another model"
            )
        if options.spacing is not None:
            raise RegistrationError(
                f"spacing is {options.spacing}, but model {self.name} works at the spacing it was trained for: leave "
                "it out, or choose another model"
            )

    def working_grid(self, grid: Grid) -> Grid:
        """Choose the grid on which the network sees a fixed image on ``grid``; RegistrationError if that is not 3-D."""
        if grid.dimension != 3:
            raise RegistrationError(
                f"model {self.name} works on 3-D images, found one of {grid.dimension} dimensions: choose another model"
            )
        return working_grid(grid, spacing=self.card.spacing).reindexed(*self.card.order())

    def capture_range_mm(self, grid: Grid) -> float:
        """Compute the farthest displacement along an axis that the first search tries, on a working grid."""
        layout = self.network.lattice(grid.shape)
        reach = zip(layout.displacements.reach, layout.step, grid.spacing[::-1], strict=True)
        return min(along * step * spacing for along, step, spacing in reach)

    def needs(
        self, fixed: Grid, moving: Grid, *, masked: bool = False, on_host: bool = True, uncertain: bool = False
    ) -> Needs:
        """Estimate the memory that a registration takes.

        Parameters
        ----------
        fixed, moving : Grid
            Grids of the images.
        masked : bool
            Whether part of the moving image must not be compared.
        on_host : bool
            Whether the network works on the CPU; features and costs are not held here where a GPU does.
        uncertain : bool
            Whether the uncertainty is estimated.
        """
        grid, settings = self.working_grid(fixed), self.network.settings
        layouts = [self.network.lattice(grid.shape, warp=number) for number in range(len(settings.warps))]
        # Both images normalised, and as the network sees them.
        images = 4 * (3 * grid.voxels + float(np.prod(moving.extent)) / float(np.prod(grid.spacing)))
        # The field, and the points at which it is sampled, some at a time; before that it is looked through for folds.
        ends = max(4 * 3 * fixed.voxels, 4 * 10 * grid.voxels) + 100 * min(fixed.voxels, 2_000_000)
        if uncertain:
            ends = max(ends, _BYTES_OF_EVIDENCE * grid.voxels)
        if not on_host:
            return Needs(int(images), 0, 0, int(ends))
        points = math.prod(layouts[0].shape)
        if settings.features == "obelisk":
            # The sampled map, of 8 times as many channels, and what the convolutions make of it, of 4 times as many.
            making = 4 * (8 + 3 * 4) * settings.channels * points
        elif settings.organs is not None:
            # The finest resolution of the segmentation network, a few times.
            making = 4 * 6 * settings.organs.widths[0] * min(grid.voxels // settings.organs.fold**3, WHOLE)
        else:
            making = _BYTES_OF_MIND * grid.voxels
        costs = max(4 * math.prod(lay.control.shape) * math.prod(lay.displacements.shape) for lay in layouts)
        # Regularised costs beside those that they are made of, and what a mask of the moving image leaves of them.
        peak = max(making, (4.1 if masked else 2.1) * costs)
        held = 2 * 4 * self.network.channels * points
        return Needs(int(images + held), int(peak), int(peak), int(ends))

    def organs(self, problem: Problem, options: Options) -> Organs | None:
        """Name the organs of both images, where their probabilities are the features."""
        features = self.network.organs
        if features is None:
            return None

        def found(operations: Operations) -> Organs:
            device = str(operations.device)
            network = SemanticNetwork(features.unet.to(device), self.card.segmentation())
            return organs_of(problem, network, key=id(self.network), device=device, force=options.force)

        return on_device(options.device, found)

    def searched(
        self, problem: Problem, options: Options, organs: Organs | None, recorder: SearchRecorder | None = None
    ) -> tuple[PointMap, Grid]:
        """Run all searches.

        Parameters
        ----------
        problem, options
            See :meth:`register`.
        organs : Organs, optional
            See :meth:`organs`.
        recorder : SearchRecorder, optional
            Listens to the searches.

        Returns
        -------
        mapping : callable
            From fixed physical points (..., 3) in millimetres to those that the initial transform takes.
        grid : Grid
            The working grid.
        """
        grid = self.working_grid(problem.fixed.grid)
        return composed(self.fields(problem, options, organs, recorder), grid, self.smallest_jacobian), grid

    def fields(
        self, problem: Problem, options: Options, organs: Organs | None, recorder: SearchRecorder | None = None
    ) -> list[DisplacementField]:
        """Run all searches, see :meth:`searched`; the displacements of each, in millimetres, the first search first."""
        grid = self.working_grid(problem.fixed.grid)
        return on_device(
            options.device,
            lambda operations: self._fields(problem, str(operations.device), options.progress, organs, grid, recorder),
        )

    def _fields(
        self,
        problem: Problem,
        device: str,
        report: Callable[[float, str], None],
        organs: Organs | None,
        grid: Grid,
        recorder: SearchRecorder | None,
    ) -> list[DisplacementField]:
        initial, smallest = problem.initial, self.smallest_jacobian
        if recorder is not None:
            recorder.clear()  # a device that was given up has left something behind
        network = self.network.to(device)
        seen: Seen
        if network.organs is not None and organs is not None:
            seen = SeenOrgans(network.organs, organs, grid, device)
        else:
            own, other = (
                prepare_image(volume, max(grid.spacing), self.card.intensity)
                for volume in (problem.fixed, problem.moving)
            )
            seen = SeenImages(network, own, other, grid, device)
        report(0.05, "features")
        first = seen.fixed(network.lattice(grid.shape))
        fields: list[DisplacementField] = []
        count = len(network.settings.warps)
        for warp in range(count):
            report((0.15 + 0.8 * warp) / count, "features")
            layout = network.lattice(grid.shape, warp=warp)
            second = seen.moving(layout, _Composed(fields, initial) if fields else initial)
            report((0.5 + 0.8 * warp) / count, f"search {warp + 1} of {count}")
            masks = seen_masks(problem, layout, grid, _Composed(fields, initial), device)
            listener = None if recorder is None else partial(
                recorder.search, scale=layout.step, points=grid_of(layout.positions(), grid), grid=grid,
                before=_Composed(fields, None),
            )  # fmt: skip
            found = network.displacements(
                first, second, layout, warp=warp, iterations=self.iterations, masks=masks, listener=listener
            )
            vectors = found.cpu().numpy().astype(np.float32)
            if smallest is not None:
                # Few control points are soon unfolded; folds between them are left to the working grid.
                vectors = without_folds(vectors, scale=_steps(layout.positions())[::-1].tolist(), minimum=smallest)
            fields.append(_field(vectors, layout, grid))
        return fields


def _images(problem: Problem, grid: Grid) -> tuple[WorkingImage, WorkingImage]:
    """Resample both images onto the working grid, to compare them there."""
    return (
        WorkingImage.from_volumes(problem.fixed_channels, grid, None, problem.fixed_mask),
        WorkingImage.from_volumes(problem.moving_channels, grid, problem.initial, problem.moving_mask),
    )


def composed(fields: list[DisplacementField], grid: Grid, smallest: float | None) -> PointMap:
    """Compose the fields of searches to one mapping.

    Parameters
    ----------
    fields : list of DisplacementField
        From :meth:`PddModel.fields`.
    grid : Grid
        The working grid.
    smallest : float, optional
        Jacobian determinant of each field below which voxels of the working grid are unfolded; by default none are.
    """
    if smallest is not None:
        # Determinants multiply: those of several fields together may be smaller than of each.
        fields = _without_folds(fields, grid, smallest ** len(fields))
    return _Composed(fields, None)


class _Composed:
    """A mapping through displacement fields that go on beyond their borders, the last first, then another mapping."""

    def __init__(self, fields: Sequence[DisplacementField], then: PointMap | None) -> None:
        self.fields, self.then = tuple(fields), then

    def __call__(self, points: np.ndarray) -> np.ndarray:
        for field in reversed(self.fields):
            points = points + field.at(points, outside="nearest")
        return points if self.then is None else self.then(points)


def _without_folds(fields: list[DisplacementField], grid: Grid, minimum: float) -> list[DisplacementField]:
    """Keep the fields where they do not fold together on the working grid; else make one field that does not."""
    whole = DisplacementField.from_function(_Composed(fields, None), grid)
    vectors = np.ascontiguousarray(whole.vectors @ np.linalg.inv(grid.matrix).T.astype(np.float32))
    relaxed = without_folds(vectors, scale=(1.0,) * 3, minimum=minimum)
    if relaxed is vectors:
        return fields
    return [DisplacementField(np.ascontiguousarray(relaxed @ grid.matrix.T.astype(np.float32)), grid)]


def _field(vectors: np.ndarray, layout: Lattice, grid: Grid) -> DisplacementField:
    """Convert displacements of control points in voxels of a grid to a field in millimetres."""
    physical = vectors @ grid.matrix.T.astype(np.float32)
    return DisplacementField(np.ascontiguousarray(physical), grid_of(layout.positions(), grid))


def _steps(positions: Sequence[Tensor]) -> np.ndarray:
    return np.asarray([float(p[1] - p[0]) for p in positions])
