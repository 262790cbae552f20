"""Settings of a registration by dense searches and a descent: the numbers a model consists of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

__all__ = ["MAX_WORKING_VOXELS", "SMALLEST_JACOBIAN", "Refinement", "Regularisation", "Settings", "Stage"]

MAX_WORKING_VOXELS = 8_000_000
"""Voxels of the working grid beyond which images are compared at a coarser spacing."""
SMALLEST_JACOBIAN = 0.05
"""Jacobian determinant below which voxels are unfolded."""


@dataclass(frozen=True)
class Stage:
    """One dense search: every control point tries every displacement of a regular set about the one found so far.

    Parameters
    ----------
    shrink : int
        Working voxels per voxel of this stage; larger is coarser and faster.
    cell : int
        Voxels of the stage per control point along each axis; smaller follows finer deformations.
    radius : int
        Displacements along an axis are ``step * (-radius .. radius)``; larger captures more.
    step : int
        Distance of neighbouring displacements in voxels of the stage.
    dilations : tuple of int
        Dilations in voxels of the MIND-SSC features that are compared, joined in one code.
    smoothness : float
        Cost of a difference of one step between neighbouring control points, where costs are fractions of differing
        bits; larger is smoother.
    temperature : float
        Factor of the costs in the softmax over displacements; a larger one averages over fewer of them.
    consistency : int
        Iterations that make the forward and backward field inverse to each other; 0 for a forward field only.
    stride : int
        Every how many slices and rows of a cell are compared (not in 2-D); a larger one is faster and noisier.
    learned : float
        What the bits of the model's learned descriptor count, from 0 to 1, where it has one and images are 3-D; the
        rest is left to those of MIND-SSC. A larger one trusts more in what was learned.
    """

    shrink: int
    cell: int
    radius: int
    step: int
    dilations: tuple[int, ...]
    smoothness: float
    temperature: float = 77.0
    consistency: int = 6
    stride: int = 1
    learned: float = 0.0

    @property
    def reach(self) -> int:
        """Largest displacement of the stage along an axis in working voxels."""
        return self.radius * self.step * self.shrink

    @property
    def share(self) -> int:
        """Displacements per control point along an axis in the field of the stage: 2 where the cell allows it."""
        return 2 if self.cell % 2 == 0 and self.cell > 2 else 1


@dataclass(frozen=True)
class Regularisation:
    """Weights of the smoothness beside the difference of the images, and the windows of the correlation.

    Parameters
    ----------
    diffusion : float
        Weight of the squared gradient of the displacements; larger is smoother.
    volume : float
        Weight of the squared changes of volume (see :mod:`itk_pdd.kernels.volume_change.cpu`); a larger one keeps
        volumes more nearly as they are, and the field smoother.
    radius : int
        Half the width of the windows in which intensities are correlated; larger is less noisy and less local. Class
        probabilities are compared without windows.
    floor : float
        Share of the variance of each image below which that of a window counts as noise; a larger one looks at strong
        contrasts only.
    """

    diffusion: float
    volume: float
    radius: int
    floor: float = 0.001

    def times(self, factor: float) -> Regularisation:
        """Multiply both weights."""
        return replace(self, diffusion=factor * self.diffusion, volume=factor * self.volume)


@dataclass(frozen=True)
class Refinement:
    """Instance optimisation: gradient descent on a control grid.

    Images are compared on the working grid, where this has more than ``max_voxels`` on blocks of its voxels (of 2 along
    each axis, or 3 ...), and class probabilities on their own grid. ``cell`` and ``rate`` are in voxels of that.

    Parameters
    ----------
    iterations : int
        Adam steps; 0 for no refinement.
    cell : int
        Voxels per control point; smaller follows finer deformations.
    voxels, blocks : Regularisation
        For working voxels (and for class probabilities), and for blocks of them: there images are large, of different
        subjects as a rule, and farther apart. Blocks are of 2 voxels up to 8 times ``max_voxels``; larger ones, where a
        finer spacing than the model's was asked for, have the same weights.
    coarse : Regularisation, optional
        Where blocks or class probabilities are compared, the first half of the steps is on blocks twice as large, with
        these weights: structures that lie far apart meet sooner, and more smoothly. None for all steps on the same
        blocks.
    derivatives : bool
        Where working voxels of 3-D images are compared from the start, the last two thirds of the steps are on the
        derivatives along one axis after the other instead of the intensities: less robust and more exact. In 2-D it
        makes no difference.
    rate : float
        First step of Adam; larger gets further and less exactly so.
    features : {"correlation", "classes"}
        Compare intensities by their squared local correlation (1 minus it, a mean over channels), or the class
        probabilities of the model's network where that gives them (a sum of squared differences over classes).
    correlation : float
        Weight of the local correlation of the intensities beside the class probabilities. It registers the structures
        without a label; a larger one follows these more closely, and the classes less. With 0 they only follow their
        neighbours.
    guides : float
        Weight of a user's own features beside the local correlation, where intensities are compared; a larger one
        follows the features more closely.
    max_voxels : int
        The most voxels whose intensities are compared; more is finer and slower.
    finish : int
        Adam steps on the working grid itself that follow where blocks of its voxels were compared.
    label_finish : int
        Adam steps on the working grid that follow where labels guide: thin structures are no thicker than a block.
    """

    iterations: int = 30
    cell: int = 2
    voxels: Regularisation = Regularisation(diffusion=0.2, volume=0.2, radius=3)
    blocks: Regularisation = Regularisation(diffusion=0.02, volume=0.16, radius=5, floor=0.03)
    coarse: Regularisation | None = Regularisation(diffusion=0.005, volume=0.08, radius=1, floor=0.03)
    derivatives: bool = True
    rate: float = 0.25
    features: str = "correlation"
    correlation: float = 0.0
    guides: float = 0.0
    max_voxels: int = 4_000_000
    finish: int = 6
    label_finish: int = 20

    @classmethod
    def of_classes(cls, correlation: float) -> Self:
        """Make the settings of a descent on class probabilities and some of the local correlation."""
        # Intensities make a field rough: the more they count, the smoother it is kept.
        return cls(
            iterations=35,
            rate=0.25,
            coarse=Regularisation(0.0007 + 0.0075 * correlation, 0.001 + 0.125 * correlation, radius=1, floor=0.03),
            voxels=Regularisation(0.0007 + 0.015 * correlation, 0.001 + 0.325 * correlation, radius=5, floor=0.03),
            features="classes",
            correlation=correlation,
        )

    def shrink(self, size: Sequence[int]) -> int:
        """Choose the working voxels along each axis of a block, for a working grid of a size."""
        factor = 1
        while np.prod([-(-n // min(factor, n)) for n in size]) > self.max_voxels:
            factor += 1
        return factor


@dataclass(frozen=True)
class Settings:
    """Settings of a registration by dense searches and a descent.

    Parameters
    ----------
    name : str
        Name of the model.
    stages : tuple of Stage
        From coarse to fine.
    refinement : Refinement
        The descent after the last stage.
    spacing : float, optional
        Working spacing in millimetres; by default that of the fixed image (its geometric mean).
    max_voxels : int
        Upper limit of the working grid; a larger image is registered at a coarser spacing.
    network : str, optional
        Folder of a trained network whose class probabilities are compared beside the MIND-SSC features.
    descriptor : str, optional
        Folder of a learned descriptor, which the stages that say so compare beside the MIND-SSC features.
    class_weight : float
        How much the class probabilities count: the cost of a difference in all classes, beside 1 for one in all
        MIND-SSC features.
    smallest_jacobian : float, optional
        Voxels of a smaller Jacobian determinant are unfolded; a larger one bends less and fits less. None leaves folds
        where they are.
    """

    name: str
    stages: tuple[Stage, ...]
    refinement: Refinement = field(default_factory=Refinement)
    spacing: float | None = None
    max_voxels: int = MAX_WORKING_VOXELS
    network: str | None = None
    descriptor: str | None = None
    class_weight: float = 4.0
    smallest_jacobian: float | None = SMALLEST_JACOBIAN

    @property
    def capture_range(self) -> float:
        """Displacement in working voxels up to which a smooth deformation is found.

        It is half of the farthest displacement that a single stage tries: on synthetic pairs whose largest displacement
        is 80 % of it, the mean error stays below 1.5 voxels (``tests/benchmarks/bench_truth.py``). Translations are
        found beyond it.
        """
        return 0.5 * max(stage.reach for stage in self.stages)

    def smoother(self, factor: float) -> Self:
        """Multiply the regularisation of the refinement, or that of the search where there is none."""
        if not self.refinement.iterations:
            return replace(self, stages=tuple(replace(s, smoothness=factor * s.smoothness) for s in self.stages))
        weights = {
            name: weights.times(factor)
            for name in ("voxels", "blocks", "coarse")
            if (weights := getattr(self.refinement, name)) is not None
        }
        return replace(self, refinement=replace(self.refinement, **weights))
