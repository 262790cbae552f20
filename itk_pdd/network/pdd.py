"""One stage of the network: from the features of two images to a distribution over displacements."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from itk_pdd import kernels
from itk_pdd.errors import RegistrationError
from itk_pdd.network.costs import ControlGrid, DisplacementSet
from itk_pdd.network.distribution import DisplacementDistribution
from itk_pdd.network.masking import Masks, masked
from itk_pdd.network.regularisation import Regularisation

__all__ = ["ProbabilisticDenseDisplacements"]


class ProbabilisticDenseDisplacements(nn.Module):
    """Dense displacement costs, regularised, as a probability distribution (PDD).

    Parameters
    ----------
    regularisation : Regularisation, optional
        Smoothing of the costs and temperature of the softmax; the paper's two rounds by default.

    References
    ----------
    M. P. Heinrich, "Closing the Gap between Deep and Conventional Image Registration using Probabilistic Dense
    Displacement Networks", MICCAI 2019.
    """

    def __init__(self, regularisation: Regularisation | None = None) -> None:
        super().__init__()
        self.regularisation = Regularisation() if regularisation is None else regularisation

    def forward(
        self,
        fixed: Tensor,
        moving: Tensor,
        *,
        control: ControlGrid,
        displacements: DisplacementSet,
        weights: Tensor | None = None,
        firsts: Sequence[Sequence[int]] | None = None,
        masks: Masks = (None, None),
    ) -> DisplacementDistribution:
        """Match the features (C, *spatial), axes (z,) y, x, of two images in the same voxel coordinates.

        Parameters
        ----------
        control, displacements
            Control points on the fixed features, and what to try at each of them.
        weights : Tensor, shape (C,), optional
            Positive factors of the channels in the costs.
        firsts : two sequences of int, optional
            Where maps that are parts of larger ones begin in those, first the fixed one, axes (z,) y, x; control
            points count in voxels of the larger ones. The parts must hold all that control points and displacements
            reach within the larger maps.
        masks : tuple of Tensor
            Which parts of the images count, for whole maps; see :data:`itk_pdd.network.masking.Masks`.
        """
        dimension = fixed.ndim - 1
        if not dimension == control.dimension == displacements.dimension:
            raise RegistrationError(
                "fixed must be a feature map (channels, (z,) y, x) of the dimension of control grid and displacements, "
                f"found {dimension}, {control.dimension} and {displacements.dimension}"
            )
        positions, offsets = control.positions(), displacements.offsets()
        here, there = firsts or ([0] * dimension,) * 2
        costs = kernels.displacement_costs(
            fixed, moving, weights=weights, positions=[p - f for p, f in zip(positions, here, strict=True)],
            displacements=[d + f - m for d, f, m in zip(offsets, here, there, strict=True)],
        )  # fmt: skip
        if any(mask is not None for mask in masks):
            costs = masked(costs, masks, positions, offsets)
        return DisplacementDistribution(
            self.regularisation(costs, dimension),
            temperature=self.regularisation.temperature,
            positions=positions,
            displacements=offsets,
        )
