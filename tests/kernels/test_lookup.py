"""Probabilities of given displacements: those of the definition, with its gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from itk_pdd import kernels
from itk_pdd.network.distribution import DisplacementDistribution


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_probabilities_and_gradients_are_those_of_the_definition(dtype):
    generator = torch.Generator().manual_seed(0)
    costs = torch.rand(2, 3, 4, 5, 3, 7, generator=generator, dtype=dtype)
    steps = [torch.arange(-r, r + 1, dtype=torch.float64) * s for r, s in ((2, 1.5), (1, 0.7), (3, 2.0))]
    distribution = DisplacementDistribution(
        costs, temperature=4.0, positions=[torch.arange(n, dtype=torch.float64) for n in (2, 3, 4)], displacements=steps
    )
    vectors = 5 * torch.randn(2, 3, 4, 3, generator=generator, dtype=dtype)  # some beyond the set
    vectors[0, 0, 0] = torch.tensor([2.0, 0.7, -1.5])  # a displacement of the set
    results = []
    for kind in ("fast", "torch"):
        wanted = vectors.clone().requires_grad_()
        with kernels.use(kind):
            found = kernels.probabilities_at(
                costs, torch.tensor(4.0, dtype=dtype), distribution.log_partition(), steps, wanted
            )
        (found * torch.arange(24, dtype=dtype)).sum().backward()
        results.append((found.detach(), wanted.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)
    exact = distribution.probabilities()[0, 0, 0, 1, 2, 4]
    assert float(results[0][0][0]) == pytest.approx(float(exact), rel=1e-5)
    assert (results[0][1][vectors.abs() > 6.5] == 0).all() and np.isfinite(results[0][1].numpy()).all()
