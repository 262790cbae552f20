"""The distribution over displacements: moments and labels against sums over all displacements."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from itk_pdd import kernels
from itk_pdd.errors import RegistrationError
from itk_pdd.kernels.interpolation.definition import interpolate
from itk_pdd.network.costs import ControlGrid, DisplacementSet
from itk_pdd.network.distribution import DisplacementDistribution

LATTICES = {
    "2-D": (ControlGrid.covering((7, 9), shape=(2, 3)), DisplacementSet((1, 2), (1.3, 0.6))),
    "3-D": (ControlGrid.covering((5, 7, 6), shape=(1, 3, 2)), DisplacementSet((1, 2, 1), (0.5, 0.9, 1.7))),
}


@pytest.fixture(params=LATTICES)
def distribution(request: pytest.FixtureRequest) -> DisplacementDistribution:
    control, displacements = LATTICES[request.param]
    costs = torch.rand(
        *control.shape, *displacements.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    return DisplacementDistribution(
        costs, temperature=4.0, positions=control.positions(), displacements=displacements.offsets()
    )


def points_of(distribution):
    return list(itertools.product(*[range(n) for n in distribution.shape]))


def moments_of(distribution):
    given = distribution.costs, distribution.temperature, distribution.displacements
    return kernels.displacement_moments(*given, second=True)


def vectors_of(distribution):
    """All displacements in memory order, components x, y(, z)."""
    return np.array([d[::-1] for d in itertools.product(*[o.tolist() for o in distribution.displacements])])


def test_moments_are_sums_over_all_displacements(distribution):
    vectors, moments = vectors_of(distribution), moments_of(distribution)
    for k in points_of(distribution):
        p = np.exp(-4 * distribution.costs[k].numpy().ravel())
        log_partition = np.log(p.sum())
        p /= p.sum()
        mean = p @ vectors
        centred = vectors - mean
        np.testing.assert_allclose(distribution.probabilities()[k].ravel(), p)
        np.testing.assert_allclose(moments.mean[k], mean, atol=1e-12)
        np.testing.assert_allclose(distribution.mean()[k], mean, atol=1e-12)
        np.testing.assert_allclose(moments.covariance[k], (centred.T * p) @ centred, atol=1e-12)
        assert moments.entropy[k].item() == pytest.approx(-(p * np.log(p)).sum())
        assert moments.log_partition[k].item() == pytest.approx(log_partition)


def test_expected_labels_are_labels_at_displaced_positions(distribution, linear):
    size = (7, 9) if distribution.dimension == 2 else (5, 7, 6)
    classes = torch.randint(0, 3, size, generator=torch.Generator().manual_seed(0))
    labels = torch.nn.functional.one_hot(classes, 3).movedim(-1, 0).double()
    expected = distribution.expected_labels(labels)
    vectors, probabilities = vectors_of(distribution), distribution.probabilities()
    for k in points_of(distribution):
        at = np.array([p[i].item() for p, i in zip(distribution.positions, k, strict=True)])
        values = np.array([linear(labels.numpy(), at + d[::-1]) for d in vectors])
        np.testing.assert_allclose(expected[(slice(None), *k)], probabilities[k].numpy().ravel() @ values, atol=1e-12)
    torch.testing.assert_close(expected.sum(dim=0), torch.ones(distribution.shape, dtype=torch.float64))


def test_labels_on_another_grid(distribution):
    # A label map twice as fine, with voxel i of the features at 2 i: the same labels, interpolated.
    size = (7, 9) if distribution.dimension == 2 else (5, 7, 6)
    labels = torch.rand(2, *size, dtype=torch.float64)
    fine = interpolate(labels, torch.arange(2 * size[-1] - 1) / 2, len(size))
    for axis in range(1, len(size)):
        fine = interpolate(fine, torch.arange(2 * size[axis - 1] - 1) / 2, axis)
    torch.testing.assert_close(
        distribution.expected_labels(
            fine,
            positions=[2 * p for p in distribution.positions],
            displacements=[2 * d for d in distribution.displacements],
        ),
        distribution.expected_labels(labels),
    )


def test_a_sharp_distribution_is_its_mode(distribution):
    sharp = DisplacementDistribution(
        distribution.costs, temperature=1e5, positions=distribution.positions, displacements=distribution.displacements
    )
    best = distribution.costs.flatten(distribution.dimension).argmin(dim=-1)
    mode = torch.from_numpy(vectors_of(distribution))[best]
    torch.testing.assert_close(sharp.mean(), mode, atol=1e-6, rtol=0)
    moments = moments_of(sharp)
    assert moments.entropy.abs().max() < 1e-3
    assert moments.covariance.abs().max() < 1e-3


def test_a_flat_distribution_is_centred():
    control, displacements = LATTICES["3-D"]
    flat = DisplacementDistribution(
        torch.zeros(*control.shape, *displacements.shape),
        temperature=10.0,
        positions=control.positions(),
        displacements=displacements.offsets(),
    )
    moments = moments_of(flat)
    assert moments.mean.abs().max() < 1e-6
    torch.testing.assert_close(moments.entropy, torch.full(control.shape, np.log(45.0), dtype=torch.float32))
    # The variance of a uniform set of 2 r + 1 steps is step^2 r (r + 1) / 3.
    variance = torch.tensor([1.7**2 * 2 / 3, 0.9**2 * 2, 0.5**2 * 2 / 3])
    torch.testing.assert_close(
        moments.covariance, torch.diag(variance).expand_as(moments.covariance), atol=1e-5, rtol=0
    )


def test_log_probability(distribution):
    vectors = torch.from_numpy(vectors_of(distribution))
    for index, vector in enumerate(vectors):
        wanted = vector.expand(*distribution.shape, -1)
        expected = distribution.probabilities().flatten(distribution.dimension)[..., index].log()
        torch.testing.assert_close(distribution.log_probability(wanted), expected)
        # Beyond the set its border holds.
        if (vector == vectors.max(dim=0).values).all():
            torch.testing.assert_close(distribution.log_probability(wanted + 3), expected)
    # Between two displacements, half of either cost.
    step = torch.zeros(distribution.dimension, dtype=torch.float64)
    step[0] = (vectors[1] - vectors[0])[0]
    both = [distribution.log_probability((vectors[0] + s * step).expand(*distribution.shape, -1)) for s in (0, 0.5, 1)]
    torch.testing.assert_close(both[1], (both[0] + both[2]) / 2)


def test_bad_input_is_named(distribution):
    lattice = {"positions": distribution.positions, "displacements": distribution.displacements}
    with pytest.raises(RegistrationError, match="costs must have the shape"):
        DisplacementDistribution(distribution.costs[1:], temperature=1.0, **lattice)
    with pytest.raises(RegistrationError, match="temperature must be above 0"):
        DisplacementDistribution(distribution.costs, temperature=0.0, **lattice)
    with pytest.raises(RegistrationError, match="vectors must have the shape"):
        distribution.log_probability(torch.zeros(3))
    assert "control points" in repr(distribution)
