"""Min-convolution and mean field against torch's pooling layers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from itk_pdd.errors import RegistrationError
from itk_pdd.kernels.regularisation.definition import mean_field, min_convolution, regularise
from itk_pdd.network.regularisation import Regularisation

SHAPES = [(3, 4, 2, 5, 3, 4), (1, 2, 1, 1, 2, 1), (4, 3, 5, 2), (1, 6, 1, 1)]


def random(shape, seed=0):
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def layers(costs: torch.Tensor, *, convolve: bool) -> torch.Tensor:
    """What the paper says, with pooling layers."""
    dimension = costs.ndim // 2
    pool, average = ((F.max_pool2d, F.avg_pool2d), (F.max_pool3d, F.avg_pool3d))[dimension - 2]
    points, displacements = costs.shape[:dimension], costs.shape[dimension:]
    if convolve:
        x = F.pad(costs.reshape(-1, 1, *displacements), [3, 3] * dimension, mode="replicate")
        x = average(average(-pool(-x, 3, stride=1), 3, stride=1), 3, stride=1)
        return x.reshape(costs.shape)
    x = costs.reshape(*points, -1).movedim(-1, 0).unsqueeze(1)
    x = F.pad(x, [2, 2] * dimension, mode="replicate")
    return average(average(x, 3, stride=1), 3, stride=1).squeeze(1).movedim(0, -1).reshape(costs.shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_operations_are_those_of_pooling_layers(shape):
    costs, dimension = random(shape), len(shape) // 2
    torch.testing.assert_close(min_convolution(costs, dimension), layers(costs, convolve=True))
    torch.testing.assert_close(mean_field(costs, dimension), layers(costs, convolve=False))


@pytest.mark.parametrize("shape", [(2, 3, 2, 3, 2, 3), (3, 2, 4, 3)])
def test_gradients(shape):
    costs, dimension = random(shape).requires_grad_(), len(shape) // 2
    ratio = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c: min_convolution(c, dimension), costs)
    assert torch.autograd.gradcheck(lambda c: mean_field(c, dimension), costs)
    assert torch.autograd.gradcheck(lambda c, r: regularise(c, r, dimension), (costs, ratio))


def test_the_first_of_equal_minima_gets_the_gradient():
    costs = torch.ones(1, 1, 1, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    min_convolution(costs, 3)[0, 0, 0, 1, 1, 1].backward()
    # Along each axis the result in the middle averages five windows, with 1 2 3 2 1 ninths. The first of their three
    # entries, the ends replicated, are 0, 0, 0, 1 and 2.
    share = torch.tensor([6.0, 2.0, 1.0], dtype=torch.float64) / 9
    expected = share[:, None, None] * share[:, None] * share
    torch.testing.assert_close(costs.grad[0, 0, 0], expected)


def test_two_rounds():
    costs = random((3, 3, 2, 4, 3, 5))
    once = mean_field(min_convolution(costs, 3), 3)
    torch.testing.assert_close(regularise(costs, 0.4, 3), mean_field(min_convolution(costs + 0.4 * once, 3), 3))
    torch.testing.assert_close(regularise(costs, 0.4, 3, rounds=1), once)
    torch.testing.assert_close(regularise(costs, 0.4, 3, average=False, rounds=1), min_convolution(costs, 3))
    torch.testing.assert_close(regularise(costs, 0.4, 3, convolve=False, rounds=1), mean_field(costs, 3))
    assert regularise(costs, 0.4, 3, rounds=0) is costs


@pytest.mark.parametrize("fourth", [2.1, -0.75])  # the author's published models have either sign
def test_author_factors_give_the_same_probabilities(fourth):
    alpha, channels = (1.3, -0.7, 0.9, fourth, 0.4, 5.2), 16
    summed = random((3, 2, 3, 3, 4, 3)) * channels
    a1, a2, a3, a4, a5, a6 = alpha
    first = a1 * summed + a2
    smoothed = mean_field(min_convolution(first, 3), 3)
    second = mean_field(min_convolution(a3 * first + a4 * smoothed + a5, 3), 3)
    expected = torch.softmax(-a6 * second.flatten(3), dim=-1)

    network = Regularisation.from_alpha(alpha, channels=channels).double()
    result = network(summed / channels, 3)
    torch.testing.assert_close(
        torch.softmax(-network.temperature * result.flatten(3), dim=-1), expected, rtol=1e-5, atol=1e-8
    )


def test_factors_are_parameters():
    network = Regularisation(temperature=50.0, ratio=1e-3)
    assert network.temperature.item() == pytest.approx(50, rel=1e-5)
    assert network.ratio.item() == pytest.approx(1e-3, rel=1e-4)
    costs = random((2, 2, 3, 3)).float()
    (network.temperature * network(costs, 2)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs() > 0 for p in network.parameters())


def test_bad_input_is_named():
    costs = torch.rand(2, 2, 3, 3)
    with pytest.raises(RegistrationError, match="axes of control points"):
        min_convolution(costs, 3)
    with pytest.raises(RegistrationError, match="dimension must be 2 or 3"):
        mean_field(costs, 4)
    with pytest.raises(RegistrationError, match="temperature must be above 0"):
        Regularisation(temperature=0.0)
    with pytest.raises(RegistrationError, match="ratio must be a finite number"):
        Regularisation(ratio=float("nan"))
    with pytest.raises(RegistrationError, match="6 factors, found 5"):
        Regularisation.from_alpha([1.0] * 5, channels=16)
    with pytest.raises(RegistrationError, match="positive 1st, 3rd"):
        Regularisation.from_alpha([1.0, 0, -1, 1, 0, 1], channels=16)
