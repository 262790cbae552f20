"""The registration by dense searches and a descent: two images in, a displacement field out. Free of ITK."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from itk_pdd.geometry.blockfield import BlockField
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.mapping import Mapping, PointMap
from itk_pdd.geometry.resampling import interpolate
from itk_pdd.kernels.operations import Operations
from itk_pdd.kernels.thermometer.cpu import share_bits
from itk_pdd.network.settings import RARITY
from itk_pdd.solver import capture
from itk_pdd.solver.class_maps import ClassMaps
from itk_pdd.solver.correction import corrected
from itk_pdd.solver.devices import checked_device, computing_threads, on_device
from itk_pdd.solver.feature_maps import feature_maps
from itk_pdd.solver.folds import without_folds
from itk_pdd.solver.landmarks import Pulls, image_doubt
from itk_pdd.solver.memory import Guides, fit, needs
from itk_pdd.solver.problem import Options, Problem, Result
from itk_pdd.solver.refinement import refined
from itk_pdd.solver.reuse import Kept
from itk_pdd.solver.search import search
from itk_pdd.solver.settings import Refinement, Settings
from itk_pdd.solver.trust import Trust, trusted
from itk_pdd.solver.working import Maps, WorkingImage, search_grid
from itk_pdd.uncertainty.calibration import Calibration, calibration_of
from itk_pdd.uncertainty.recorder import Recorder

if TYPE_CHECKING:
    from itk_pdd.solver.organs import Organs  # loads torch, and only named here

__all__ = ["DenseModel", "on_blocks"]

log = logging.getLogger("itk_pdd")

_UNLIMITED = 2**62  # voxels
_RESULTS = 32  # of a fixed image on one grid: three stages have fewer
_LABEL_WEIGHT = 15.0  # cost of a difference in all labels, beside 1 for one in all MIND-SSC features
_BEGIN = 2  # working voxels per block of a field to begin with
_LABEL_CORRELATION = 0.04  # weight of the local correlation beside labels of weight 1


class Searches(Protocol):
    """The searches of another model, which tell how certain they are."""

    def recorder(self, grid: Grid) -> Recorder:
        """Make a recorder that has listened to these searches, on a working grid."""


@dataclass(frozen=True)
class DenseModel(Settings):
    """A model that registers by dense searches from coarse to fine and a descent on the result."""

    def register(self, problem: Problem, options: Options) -> Result:
        """Register two images: see :meth:`registered`."""
        return self.registered(problem, options)

    def registered(
        self,
        problem: Problem,
        options: Options,
        *,
        start: PointMap | None = None,
        organs: Organs | None = None,
        searches: Searches | None = None,
    ) -> Result:
        """Register two images; RegistrationError if there is no such device, or the memory is not enough.

        Both are resampled onto a working grid that fits into the memory. Dense searches find the displacements, a
        gradient descent refines them, folded voxels are unfolded, and the field is carried to the fixed image's grid.
        With ``start``, from fixed points to those that the initial transform takes, there are no searches: the descent
        begins there. ``organs`` are what is known of the organs, where the model has no network of its own.
        ``searches`` know the certainty of those that gave the start.
        """
        device, report = checked_device(options.device), options.progress
        model, problem = self._guided(problem).adjusted(options), problem.without_outliers()
        with computing_threads(options.threads, torch=self._uses_torch(problem)):
            report(0.0, "resampling")
            grid, for_costs = model._fitting_grid(problem, options, on_host=device == "cpu")
            range_mm = model.capture_range * max(grid.spacing)
            log.info("model %s, working grid %s, capture range %.3g mm", model.name, grid, range_mm)
            fixed = model._fixed_copy(problem, grid)
            moving = WorkingImage.from_volumes(
                problem.moving_channels, grid, problem.initial, problem.moving_mask, problem.weights
            )
            if model.network is not None:
                report(0.02, "organs")
                organs = model._organs(problem, options)
            if organs is not None:
                fixed, moving = model._with_classes(fixed, moving, problem, grid, organs)
            begun = None if start is None else on_blocks(start, grid)
            fixed, moving = model._with_guides(fixed, moving, problem, grid)
            calibration = model.calibrated() if options.uncertainty else None
            landmarks = None if problem.guidance is None else problem.guidance.landmarks

            def displaced(operations: Operations) -> tuple[BlockField, float | None, Recorder | None, Trust | None]:
                # A device that is given up leaves nothing behind: the next one begins with a recorder of its own.
                recorder = None
                if calibration is not None:
                    recorder = searches.recorder(grid) if searches else Recorder(calibration.temperature, operations)
                images = model._with_descriptor(fixed, moving, operations)
                pulls = trust = None
                if landmarks is not None:
                    pulls = Pulls.of(landmarks, grid, problem.initial)
                    trust = model._believed(*images, pulls, operations, for_costs, report)
                    pulls = pulls.chosen(trust.obeyed)
                found, edge = model._displacements(*images, grid, operations, for_costs, recorder, report, pulls, begun)
                return found, edge, recorder, trust

            found, edge, recorder, trust = on_device(options.device, displaced)
            report(0.95, "field")
            field = _on_fixed_grid(found.to_field(grid), problem.fixed.grid, problem.initial)
            if landmarks is not None and trust is not None and trust.obeyed.any():
                places = (each[trust.obeyed] for each in (landmarks.fixed, landmarks.moving, landmarks.sigma))
                field = corrected(field, *places, exact=landmarks.exact)
            uncertainty = None
            if recorder is not None and calibration is not None:
                # They load much of scipy.
                from itk_pdd.uncertainty.estimate import Uncertainty
                from itk_pdd.uncertainty.features import collect

                evidence = collect(recorder, fixed, moving, found, grid)
                guided = problem.guidance is not None
                uncertainty = Uncertainty(evidence, calibration, field, problem.initial, guided=guided)
        report(1.0, "done")
        return Result(field, model, grid, range_mm, uncertainty, edge, trust=trust)

    def calibrated(self) -> Calibration:
        """Return the calibration of the model's uncertainty."""
        return calibration_of(self.name, self.network)

    def _fixed_copy(self, problem: Problem, grid: Grid) -> WorkingImage:
        """Resample the fixed image onto the working grid, unless it is there from a registration before."""

        def made(kept: Kept | None) -> WorkingImage:
            image = WorkingImage.from_volumes(problem.fixed_channels, grid, None, problem.fixed_mask, problem.weights)
            return replace(image, kept=kept)

        # What guides a registration becomes part of the codes, and differs from one registration to the next.
        if problem.kept is None or problem.guidance is not None:
            return made(None)
        return problem.kept.get(("working", grid, problem.weights, self), lambda: made(Kept(_RESULTS)))

    def adjusted(self, options: Options) -> DenseModel:
        """Apply the user's spacing and smoothness to the settings."""
        model = self.smoother(options.smoothness)
        if options.spacing is None:
            return model
        # An explicit spacing overrides the limit of voxels.
        return replace(model, spacing=float(options.spacing), max_voxels=_UNLIMITED)

    def _uses_torch(self, problem: Problem) -> bool:
        known = problem.guidance
        own = self.network is not None or self.descriptor is not None
        return own or (known is not None and known.features is not None)

    def _guided(self, problem: Problem) -> DenseModel:
        """Descend on labels or features, too, where these guide the registration."""
        known = problem.guidance
        if known is None or self.refinement.features == "classes" or not self.refinement.iterations:
            return self
        if known.labels is not None:
            return replace(self, refinement=Refinement.of_classes(_LABEL_CORRELATION / known.labels.weight))
        card = None if known.features is None else known.features.card
        if card is None or not card.descent:
            return self
        if card.values == "probabilities":
            return replace(self, refinement=Refinement.of_classes(_LABEL_CORRELATION / card.descent))
        return replace(self, refinement=replace(self.refinement, guides=card.descent))

    def _believed(
        self,
        fixed: WorkingImage,
        moving: WorkingImage,
        pulls: Pulls,
        operations: Operations,
        memory: float,
        report: Callable[[float, str], None],
    ) -> Trust:
        """Choose the landmarks that are obeyed, by what the images say without them."""
        report(0.03, "landmarks")
        alone = search(fixed, moving, self.stages, operations=operations, memory=memory)
        doubt = image_doubt(fixed, moving, self.stages[0], pulls, alone, operations)
        return trusted(pulls.points, pulls.residuals(alone), pulls.sigma, doubt, fixed.shape)

    def _with_guides(
        self, fixed: WorkingImage, moving: WorkingImage, problem: Problem, grid: Grid
    ) -> tuple[WorkingImage, WorkingImage]:
        """Add what the user knows about the images."""
        known = problem.guidance
        if known is None:
            return fixed, moving
        guides: list[tuple[Maps, Maps]] = []
        if known.labels is not None:
            guides.append(known.labels.maps(grid, problem.initial, _LABEL_WEIGHT * known.labels.weight))
        if known.features is not None:
            images, spacing = (problem.fixed_channels, problem.moving_channels), max(grid.spacing)
            found = [known.features.features(channels, spacing) for channels in images]
            guides.append(feature_maps(found[0], found[1], known.features.card, grid, problem.initial))
        alone = known.features is not None and known.features.card.alone
        own, other = tuple(each[0] for each in guides), tuple(each[1] for each in guides)
        return replace(fixed, guides=own, alone=alone), replace(moving, guides=other, alone=alone)

    def _fitting_grid(self, problem: Problem, options: Options, *, on_host: bool) -> tuple[Grid, float]:
        """Choose the working grid; also return the bytes that are left for costs."""
        fixed, moving, known = problem.fixed.grid, problem.moving.grid, problem.guidance

        def guides(grid: Grid) -> Guides | None:
            if known is None:
                return None
            spacing = None if known.features is None else known.features.card.spacing or max(grid.spacing)
            return Guides(0 if known.labels is None else len(known.labels.labels), spacing)

        return fit(
            lambda model: search_grid(fixed, moving, problem.initial, model),
            lambda grid: needs(
                grid, fixed, moving, self, channels=len(problem.fixed_channels),
                masked=problem.moving_mask is not None, on_host=on_host, guides=guides(grid),
            ),
            self,
            limit=options.memory,
            keep_spacing=options.spacing is not None,
        )  # fmt: skip

    def _displacements(
        self,
        fixed: WorkingImage,
        moving: WorkingImage,
        grid: Grid,
        operations: Operations,
        memory: float,
        recorder: Recorder | None,
        report: Callable[[float, str], None],
        pulls: Pulls | None,
        begun: BlockField | None,
    ) -> tuple[BlockField, float | None]:
        """Search (unless a field is there to begin with), refine, unfold; also return the share at the range's edge."""
        edge: float | None = None

        def edge_found(share: float, reach: int) -> None:
            nonlocal edge
            edge = share
            capture.tell_edge(share, reach * max(grid.spacing))

        share = 0.45 if self.refinement.iterations else 0.9  # of the progress
        found = begun or search(
            fixed,
            moving,
            self.stages,
            operations=operations,
            memory=memory,
            progress=lambda f, text: report(0.05 + share * f, text),
            at_edge=edge_found,
            listener=recorder,
            pulls=pulls,
        )
        if self.refinement.iterations:
            report(0.5, "refinement")
            before = found
            found = refined(
                fixed,
                moving,
                before,
                self.refinement,
                smallest_jacobian=self.smallest_jacobian,
                progress=lambda f: report(0.5 + 0.45 * f, "refinement"),
                operations=operations,
                pulls=pulls,
            )
            if recorder is not None:
                recorder.refinement(before, found)
        if self.smallest_jacobian is not None:
            scale = (float(found.size),) * 3
            found = found.with_vectors(without_folds(found.vectors, scale, self.smallest_jacobian, operations))
        return found, edge

    def _with_classes(
        self, fixed: WorkingImage, moving: WorkingImage, problem: Problem, grid: Grid, organs: Organs
    ) -> tuple[WorkingImage, WorkingImage]:
        """Add the class probabilities of a network to both images."""
        bits = share_bits([c.volume**RARITY for c in organs.card.classes[1:]])
        result = []
        sides = ((fixed, None, organs.fixed), (moving, problem.initial, organs.moving))
        for image, mapping, (maps, where) in sides:
            # Without the background: the other probabilities determine it.
            maps = np.ascontiguousarray(np.moveaxis(maps[1:], 0, -1))
            result.append(replace(image, classes=ClassMaps(maps, where, bits, grid, self.class_weight, mapping)))
        return result[0], result[1]

    def _organs(self, problem: Problem, options: Options) -> Organs:
        """Let the model's network name the organs of both images."""
        # It loads torch.
        from itk_pdd.network.semantic import SemanticNetwork
        from itk_pdd.solver.organs import organs_of

        def found(operations: Operations) -> Organs:
            device = str(operations.device)
            network = SemanticNetwork.from_folder(str(self.network), device=device)
            return organs_of(problem, network, key=self.network, device=device, force=options.force)

        return on_device(options.device, found)

    def _with_descriptor(
        self, fixed: WorkingImage, moving: WorkingImage, operations: Operations
    ) -> tuple[WorkingImage, WorkingImage]:
        """Add the learned descriptor of the model, if it has one, to both images."""
        if self.descriptor is None:
            return fixed, moving
        if fixed.dimension != 3:
            log.info("the descriptor of model %s is for 3-D images: this pair goes without it", self.name)
            return fixed, moving
        from itk_pdd.network.descriptor import load_descriptor

        codes = load_descriptor(self.descriptor, device=operations.device).codes
        return replace(fixed, descriptor=codes), replace(moving, descriptor=codes)


def on_blocks(start: PointMap, grid: Grid) -> BlockField:
    """Sample a mapping in 3-D on blocks of the working grid."""
    blocks = grid.blocks(_BEGIN)
    points = blocks.points()
    vectors = (start(points) - points) @ np.linalg.inv(grid.matrix).T
    z, y, x = grid.shape
    field = BlockField.zeros(_BEGIN, (z, y, x), grid.dimension)
    return field.with_vectors(np.ascontiguousarray(vectors, np.float32))


def _on_fixed_grid(inner: DisplacementField, fixed: Grid, initial: Mapping | None) -> DisplacementField:
    """Carry a field to the grid of the fixed image, followed by the initial transform."""
    if initial is None:
        return DisplacementField(interpolate(inner.vectors, inner.grid, fixed), fixed)
    return DisplacementField.from_function(lambda points: initial(points + inner.at(points, outside="nearest")), fixed)
