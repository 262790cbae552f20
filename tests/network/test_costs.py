"""Displacement costs against loops over every control point, displacement and channel."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from itk_pdd.errors import RegistrationError
from itk_pdd.kernels.costs.definition import displacement_costs
from itk_pdd.kernels.interpolation.definition import interpolate, sample
from itk_pdd.network.costs import ControlGrid, DisplacementSet


@pytest.mark.parametrize(
    ("points", "displacements", "size", "moving_size"),
    [
        ((2, 3, 2), (3, 1, 2), (5, 4, 6), (5, 4, 6)),
        ((3, 2), (2, 3), (6, 5), (4, 8)),
        ((1, 1, 1), (1, 1, 1), (1, 1, 1), (2, 1, 1)),
    ],
)
def test_costs_are_mean_squared_differences(linear, points, displacements, size, moving_size):
    generator = np.random.default_rng(1)
    fixed, moving = generator.random((3, *size)), generator.random((3, *moving_size))
    weights = generator.uniform(0.5, 2, 3)
    positions = [generator.uniform(-0.5, n, k) for n, k in zip(size, points, strict=True)]
    offsets = [generator.uniform(-3, 3, d) for d in displacements]
    costs = displacement_costs(
        torch.from_numpy(fixed),
        torch.from_numpy(moving),
        positions=[torch.from_numpy(p) for p in positions],
        displacements=[torch.from_numpy(d) for d in offsets],
        weights=torch.from_numpy(weights),
    )
    assert costs.shape == (*points, *displacements)
    for k in itertools.product(*[range(n) for n in points]):
        for d in itertools.product(*[range(n) for n in displacements]):
            at = [p[i] for p, i in zip(positions, k, strict=True)]
            there = [a + o[i] for a, o, i in zip(at, offsets, d, strict=True)]
            difference = linear(fixed, at) - linear(moving, there)
            assert costs[(*k, *d)].item() == pytest.approx((weights * difference**2).mean(), abs=1e-12)


def test_a_shifted_image_costs_nothing_at_its_shift():
    image = torch.rand(2, 14, 15, 16, generator=torch.Generator().manual_seed(0))
    moving = torch.roll(image, (1, -2, 2), dims=(1, 2, 3))
    positions = [torch.arange(4.0, 11.0, 2)] * 3
    costs = displacement_costs(image, moving, positions=positions, displacements=[torch.arange(-2.0, 3.0)] * 3)
    best = costs.flatten(3).argmin(dim=-1)
    assert torch.all(best == (1 + 2) * 25 + (-2 + 2) * 5 + (2 + 2))
    assert torch.all(costs.flatten(3).amin(dim=-1) < 1e-12)


@pytest.mark.parametrize("size", [(4, 3), (3, 4, 3)])
def test_gradients(size):
    generator = torch.Generator().manual_seed(0)
    fixed, moving = (
        torch.rand(2, *size, dtype=torch.float64, generator=generator, requires_grad=True) for _ in range(2)
    )
    weights = torch.tensor([0.7, 1.4], dtype=torch.float64, requires_grad=True)
    positions = [torch.tensor([0.3, 1.9])] * len(size)
    displacements = [torch.tensor([-0.8, 0.7])] * len(size)

    def costs(fixed, moving, weights):
        return displacement_costs(fixed, moving, positions=positions, displacements=displacements, weights=weights)

    assert torch.autograd.gradcheck(costs, (fixed, moving, weights))


def test_interpolation_beyond_the_ends():
    values = torch.tensor([1.0, 2.0, 4.0])
    coordinates = torch.tensor([-2.0, -0.5, 0.0, 1.5, 2.0, 2.5, 3.0])
    nearest = interpolate(values, coordinates, 0)
    zero = interpolate(values, coordinates, 0, outside="zero")
    torch.testing.assert_close(nearest, torch.tensor([1.0, 1.0, 1.0, 3.0, 4.0, 4.0, 4.0]))
    torch.testing.assert_close(zero, torch.tensor([0.0, 0.5, 1.0, 3.0, 4.0, 2.0, 0.0]))


def test_sampling_agrees_with_grid_sample():
    values = torch.rand(3, 5, 6, 7, dtype=torch.float64)
    axes = [torch.linspace(-1.5, n + 0.5, 6, dtype=torch.float64) for n in values.shape[1:]]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)
    grid = 2 * grid / (torch.tensor([7, 6, 5]) - 1) - 1
    for outside, padding in (("nearest", "border"), ("zero", "zeros")):
        expected = torch.nn.functional.grid_sample(
            values[None], grid[None], mode="bilinear", padding_mode=padding, align_corners=True
        )[0]
        torch.testing.assert_close(sample(values, axes, outside=outside), expected)


def test_displacement_sets_are_symmetric():
    displacements = DisplacementSet((1, 2, 3), (0.7,) * 3)
    assert displacements.shape == (3, 5, 7)
    assert displacements.reach == pytest.approx((0.7, 1.4, 2.1))
    for offsets in displacements.offsets():
        assert torch.equal(offsets, -offsets.flip(0))
        assert offsets[len(offsets) // 2] == 0
    assert DisplacementSet((2, 2), (1.0, 1.0)).shape == (5, 5)


@pytest.mark.parametrize("size", [(20, 31), (9, 20, 31)])
def test_control_grids_are_centred(size):
    grid = ControlGrid.covering(size, shape=(4, 5, 6)[: len(size)])
    for positions, n in zip(grid.positions(), size, strict=True):
        assert positions[0] >= 0
        assert float(positions[0]) == pytest.approx(n - 1 - float(positions[-1]))
        assert len(positions) == 1 or torch.allclose(positions.diff(), positions.diff()[0])


def test_bad_input_is_named():
    good, lattice = torch.rand(2, 4, 4), {"positions": [torch.zeros(1)] * 2, "displacements": [torch.zeros(1)] * 2}
    for fixed, moving, changes, message in (
        (torch.rand(3, 4, 4), good, {}, "same number of channels, found 3 and 2"),
        (torch.rand(2, 4, 4, 4), good, {}, "same dimension"),
        (good, good, {"positions": [torch.zeros(1)]}, "positions must be"),
        (good, good, {"displacements": [torch.zeros(1), torch.zeros(0)]}, "displacements must be"),
        (good, good, {"weights": torch.tensor([1.0, 0.0])}, "weights must be"),
    ):
        with pytest.raises(RegistrationError, match=message):
            displacement_costs(fixed, moving, **{**lattice, **changes})
    with pytest.raises(RegistrationError, match="steps above 0"):
        DisplacementSet((1, 1), (1.0, 0.0))
    with pytest.raises(RegistrationError, match="at least 1 point"):
        ControlGrid.covering((4, 4), shape=(0, 3))
