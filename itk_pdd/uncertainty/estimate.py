"""The uncertainty of a registration: deviations, covariances, samples, hypotheses, quality."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import ndimage

from itk_pdd.errors import RegistrationError
from itk_pdd.evaluation.verdict import Verdict
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid, slabs
from itk_pdd.geometry.mapping import Mapping
from itk_pdd.geometry.resampling import interpolate
from itk_pdd.io.volume import Volume
from itk_pdd.uncertainty import labels as label_images
from itk_pdd.uncertainty.calibration import Calibration
from itk_pdd.uncertainty.features import Evidence
from itk_pdd.uncertainty.hypotheses import Hypotheses, hypotheses
from itk_pdd.uncertainty.quality import Quality, quality

__all__ = ["Uncertainty"]


class Uncertainty:
    """Estimate the error of a displacement field, voxel by voxel.

    The displacement that was found is the mean of a distribution; its covariance and tails were calibrated on pairs
    with known truth. Nothing is computed before it is asked for.

    Parameters
    ----------
    evidence : Evidence
        From :func:`itk_pdd.uncertainty.features.collect`.
    calibration : Calibration
        Turns evidence into millimetres.
    field : DisplacementField
        The result, in millimetres on the grid of the fixed image.
    initial : callable, optional
        The initial transform: its derivative carries the uncertainty on.
    guided : bool
        Whether labels, landmarks or features guided the search: the calibration knows pairs without them.

    Attributes
    ----------
    verdict : Verdict, optional
        Whether the registration succeeded, where it was judged.
    """

    def __init__(
        self,
        evidence: Evidence,
        calibration: Calibration,
        field: DisplacementField,
        initial: Mapping | None = None,
        *,
        guided: bool = False,
    ) -> None:
        self.evidence, self.calibration, self.field, self.guided = evidence, calibration, field, guided
        self._initial = initial
        self.verdict: Verdict | None = None

    @property
    def grid(self) -> Grid:
        """Grid of the fixed image."""
        return self.field.grid

    @functools.cached_property
    def hypotheses(self) -> tuple[Hypotheses, ...]:
        """Control points where a stage of the search found several displacements, with these."""
        return hypotheses(self.evidence.stages, self.evidence.working)

    @functools.cached_property
    def _control(self) -> np.ndarray:
        """Covariance at the control points in square millimetres, (*control grid, dim, dim), physical components."""
        points, calibration = self.evidence.grid, self.calibration
        scale = np.broadcast_to(calibration.scale(self.evidence.features), points.shape)
        variance = np.square(scale * np.float32(self.evidence.voxel))
        variance *= np.float32(points.dimension * calibration.tail / (calibration.tail - 2))
        turn = np.asarray(points.direction, np.float32)
        if self._initial is not None:
            step = 0.5 * min(points.spacing)
            turn = _derivative(self._initial, self.evidence.moved, step) @ turn
        return variance[..., None, None] * (turn @ calibration.shape(self.evidence.spread) @ np.swapaxes(turn, -1, -2))

    def control_deviation(self) -> np.ndarray:
        """Standard deviation in millimetres at the control points (``evidence.grid``)."""
        return np.sqrt(np.trace(self._control, axis1=-2, axis2=-1))

    def standard_deviation(self) -> Volume:
        """Standard deviation of the displacement in millimetres (root of the trace of its covariance), float32."""
        # Variances are interpolated, so that the deviation is the trace of the covariance at every voxel.
        variance = np.square(self.control_deviation())
        return Volume(np.sqrt(interpolate(variance, self.evidence.grid, self.grid)), self.grid)

    def covariance(self) -> np.ndarray:
        """Covariance of the displacement in square millimetres, float32, shape ``(*grid.shape, dim (dim + 1) / 2)``.

        The components are those of ITK's symmetric tensors: xx, xy, xz, yy, yz, zz; in two dimensions xx, xy, yy.
        """
        first, second = np.triu_indices(self.grid.dimension)
        return interpolate(self._control[..., first, second], self.evidence.grid, self.grid)

    def entropy(self) -> Volume:
        """Differential entropy of the displacement in nats (lengths in mm), float32; larger is less certain."""
        from scipy.stats import multivariate_t

        d, nu = self.grid.dimension, self.calibration.tail
        shape = self._control * np.float32((nu - 2) / nu)
        constant = multivariate_t(shape=np.eye(d), df=nu).entropy()
        control = np.linalg.slogdet(shape)[1] / 2 + constant
        return Volume(interpolate(control, self.evidence.grid, self.grid), self.grid)

    def radius(self, probability: float) -> Volume:
        """Radius in millimetres about the mapped point within which the true one lies with a probability, float32.

        Parameters
        ----------
        probability : float
            Above 0 and below 1; larger gives larger radii.

        Raises
        ------
        RegistrationError
            If it is not between 0 and 1.
        """
        deviation = self.standard_deviation()
        return Volume(deviation.array * np.float32(self.quantile(probability)), self.grid)

    def located(self, share: float) -> float:
        """Radius in millimetres within which a share of the body is located: the headline of the uncertainty.

        The body is where the fixed image shows something, inside its mask. A share of it lies no farther from its true
        place than this radius: ``r`` with the mean over the body of ``F(r^2 / s^2 * nu / (nu - 2)) = share``, where
        ``s`` is the standard deviation and ``F`` the F distribution with the dimension and ``nu``, the degrees of
        freedom of the calibrated distribution.

        Parameters
        ----------
        share : float
            Above 0 and below 1, such as 0.5 or 0.95.

        Raises
        ------
        RegistrationError
            If it is not between 0 and 1.
        """
        from scipy.optimize import brentq
        from scipy.stats import f

        inside, deviation = self.evidence.inside, self.control_deviation()
        s = np.maximum((deviation[inside] if inside.any() else deviation.ravel()).astype(float), 1e-9)
        d, nu = self.grid.dimension, self.calibration.tail
        ends = s.min() * self.quantile(share), s.max() * self.quantile(share)
        if ends[1] - ends[0] < 1e-6 * ends[1]:
            return float(ends[1])
        return float(brentq(lambda r: f.cdf(np.square(r / s) * nu / (nu - 2), d, nu).mean() - share, *ends, rtol=1e-4))

    @property
    def headline(self) -> str:
        """Half of the body and 95 % of it: how far from its true place, in words."""
        half, most = self.located(0.5), self.located(0.95)
        told = f"half of the body is located within {half:.2g} mm, 95 % within {most:.2g} mm"
        return f"{told} (calibrated without guides)" if self.guided else told

    def quantile(self, probability: float) -> float:
        """Return the standard deviations (root of the trace) that the error does not exceed with a probability."""
        from scipy.stats import f

        if not 0 < probability < 1:
            raise RegistrationError(f"probability is {probability}, expected a number between 0 and 1")
        d, nu = self.grid.dimension, self.calibration.tail
        return float(np.sqrt(f.ppf(probability, d, nu) * (nu - 2) / nu))

    def sample(self, count: int, seed: int = 0) -> Iterator[DisplacementField]:
        """Draw plausible deformations, coherent in space, for dose accumulation or shape studies.

        Each is the field plus a Gaussian field with the covariance of every voxel and the calibrated coherence. (The
        tails of the calibrated distribution are heavier: single far outliers are not drawn.)

        Parameters
        ----------
        count : int
            Number of samples, at least 1.
        seed : int
            The same one draws the same samples.

        Yields
        ------
        DisplacementField
            In millimetres on the grid of the fixed image.

        Raises
        ------
        RegistrationError
            If the count is below 1.
        """
        if count < 1:
            raise RegistrationError(f"count is {count}, expected at least 1")
        return self._samples(count, seed)

    def _samples(self, count: int, seed: int) -> Iterator[DisplacementField]:
        control = self.evidence.grid
        root = np.linalg.cholesky(self._control)
        width = self.calibration.coherence * self.evidence.voxel / control.spacing[0]
        gain = _interpolation_gain(control, self.grid, float(np.exp(-1 / (4 * width**2))))
        for generator in np.random.default_rng(seed).spawn(count):
            noise = _coherent_noise(control, width, generator)
            shift = interpolate((root @ noise[..., None])[..., 0], control, self.grid)
            yield DisplacementField(self.field.vectors + shift / gain[..., None], self.grid)

    @functools.cached_property
    def quality(self) -> Quality | None:
        """Overlap of structures to expect; None where the model's calibration has not learned that."""
        return quality(self.calibration.quality, self.evidence.features, self.evidence.inside)

    def _roots(self) -> np.ndarray:
        """Interpolate the Cholesky factors of the covariances: lower triangles, (*grid.shape, dim (dim + 1) / 2)."""
        first, second = np.tril_indices(self.grid.dimension)
        return interpolate(np.linalg.cholesky(self._control)[..., first, second], self.evidence.grid, self.grid)

    def label_probabilities(self, labels: Any) -> tuple[tuple[int, ...], np.ndarray]:
        """Compute the probability of every label of the moving image at every voxel of the fixed image.

        From a Gaussian with the covariance of the voxel, as for :meth:`sample`: 64 evenly spread draws, so that a
        probability is a multiple of 1/64.

        Parameters
        ----------
        labels : itk.Image, SimpleITK.Image, Volume, str or path-like
            Label image in the space of the moving image.

        Returns
        -------
        tuple of int
            The labels, ascending; 0, which also stands for outside the moving image, is always among them.
        numpy.ndarray
            float32, shape ``(*grid, labels)``; they add up to 1.
        """
        volume = Volume.labels_from_image(labels, name="labels")
        return label_images.label_probabilities(volume, self.field, self._roots())

    def label_entropy(self, labels: Any) -> Volume:
        """Compute the entropy of the carried label at every voxel in nats, float32; 0 where it is certain."""
        volume = Volume.labels_from_image(labels, name="labels")
        return Volume(label_images.label_entropy(volume, self.field, self._roots()), self.grid)

    def to_itk(self) -> Any:
        """The standard deviation as an ``itk.Image[itk.F, dim]``."""
        return self.standard_deviation().to_itk()

    def __repr__(self) -> str:
        return f"<Uncertainty of a field on {self.grid}: {self.headline}>"


def _derivative(mapping: Mapping, points: np.ndarray, step: float) -> np.ndarray:
    """Compute the Jacobian matrices of a mapping at points (..., dim) over ``step`` millimetres: (..., dim, dim)."""
    columns = []
    for axis in range(points.shape[-1]):
        shift = np.zeros(points.shape[-1])
        shift[axis] = step
        columns.append((mapping(points + shift) - mapping(points - shift)) / (2 * step))
    return np.stack(columns, axis=-1).astype(np.float32)


def _coherent_noise(grid: Grid, width: float, generator: np.random.Generator) -> np.ndarray:
    """Draw Gaussian noise of unit variance on a grid, (*grid.shape, dim), smooth over ``width`` points."""
    margin = int(np.ceil(4 * width))
    shape = [n + 2 * margin for n in grid.shape]
    inside = tuple(slice(margin, n + margin) for n in grid.shape)
    # The response to a single one tells by how much smoothing lowers the variance.
    impulse = np.zeros(2 * margin + 1)
    impulse[margin] = 1
    gain = np.square(ndimage.gaussian_filter1d(impulse, width, mode="constant")).sum() ** (grid.dimension / 2)
    parts = []
    for _ in range(grid.dimension):
        noise = ndimage.gaussian_filter(generator.standard_normal(shape, np.float32), width, mode="wrap")
        parts.append(noise[inside] / np.float32(gain))
    return np.stack(parts, axis=-1)


def _interpolation_gain(source: Grid, target: Grid, likeness: float) -> np.ndarray:
    """Compute the deviation of unit noise after linear interpolation; neighbours correlate by ``likeness``."""
    out = np.empty(target.shape, np.float32)
    last = np.asarray(source.size) - 1.0
    for slab, points in slabs(target):
        index = np.clip(source.to_index(points), 0, last)
        f = index - np.floor(index)
        out[slab] = np.prod(np.sqrt(1 - 2 * f * (1 - f) * (1 - likeness)), axis=-1)
    return out
