"""The compiled sampling of shifted grids against its definition."""

from __future__ import annotations

import pytest
import torch

from itk_pdd import kernels
from itk_pdd.kernels.shifted import definition


def problem(dtype):
    generator = torch.Generator().manual_seed(1)
    size = (7, 9, 8)
    source = torch.randn(3, *size, dtype=dtype, generator=generator).requires_grad_()
    centres = [torch.linspace(0.3, n - 1, n - 2, dtype=torch.float64) for n in size]
    # Some leave the map altogether.
    shifts = (4 * torch.randn(2, 5, 3, dtype=dtype, generator=generator)).requires_grad_()
    return source, centres, shifts


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("outside", ["zero", "nearest"])
def test_values_and_gradients(outside, dtype):
    source, centres, shifts = problem(dtype)
    found = kernels.shifted_differences(source, centres, shifts, outside=outside)
    expected = definition.shifted_differences(source, centres, shifts, outside=outside)
    assert found.shape == (3, 5, *[len(c) for c in centres])
    torch.testing.assert_close(found, expected)
    weight = torch.randn(found.shape, dtype=dtype, generator=torch.Generator().manual_seed(2))
    one, other = (torch.autograd.grad((r * weight).sum(), (source, shifts)) for r in (found, expected))
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 if dtype == torch.float32 else 1e-10)


def test_the_number_of_threads_makes_no_difference():
    source, centres, shifts = problem(torch.float32)
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            result = kernels.shifted_differences(source, centres, shifts, outside="nearest")
            results.append((result, *torch.autograd.grad(result.square().sum(), (source, shifts))))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
