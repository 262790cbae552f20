"""A step of Adam on control points: that of torch's optimiser on the same loss, and alike on every device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from itk_pdd.kernels import threads
from itk_pdd.kernels.adam import cpu, cuda

SHAPES = [(5, 6, 7), (1, 6, 7), (1, 1, 9), (6, 1, 3), (2, 2, 2), (1, 1, 1)]
OPTIONS = {"rate": 0.3, "diffusion": 0.2, "volume": 0.0}


def cell_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(1 if size == 1 else along for size, along in zip(shape, (2, 2, 3), strict=True))


def steps(shape: tuple[int, ...], *, count: int, tensors: bool = False, **options: float) -> np.ndarray:
    """The coefficients after some steps along random derivatives."""
    rng = np.random.default_rng(0)
    start = rng.normal(0, 0.3, (*shape, 3)).astype(np.float32)
    state = [np.zeros_like(start) for _ in range(3)]
    adam_step = cuda.adam_step if tensors else cpu.adam_step
    if tensors:
        start, state = torch.from_numpy(start), [torch.from_numpy(each) for each in state]
    for step in range(1, count + 1):
        derivative = rng.normal(0, 1, (*shape, 3)).astype(np.float32)
        derivative = torch.from_numpy(derivative) if tensors else derivative
        found = adam_step(*state, derivative, start, step=step, cell=cell_of(shape), **{**OPTIONS, **options})
        assert found is state[0]
    return np.asarray(found)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_steps_are_those_of_torch_on_the_same_loss(shape):
    rng = np.random.default_rng(0)
    start = torch.from_numpy(rng.normal(0, 0.3, (*shape, 3)))
    coefficients = torch.zeros_like(start, requires_grad=True)
    cell = cell_of(shape)
    # The optimiser's epsilon is the same, in the same place.
    optimiser = torch.optim.Adam([coefficients], lr=OPTIONS["rate"])
    for _ in range(7):
        derivative = torch.from_numpy(rng.normal(0, 1, (*shape, 3)))
        whole = start + coefficients
        loss = (derivative * coefficients).sum() / np.prod(cell)
        for axis, size in enumerate(cell):
            loss = loss + OPTIONS["diffusion"] * (whole.diff(dim=axis) / size).square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    np.testing.assert_allclose(steps(shape, count=7), coefficients.detach().numpy(), atol=2e-5)


@pytest.mark.parametrize("volume", [0.0, 0.4])
@pytest.mark.parametrize("shape", SHAPES)
def test_all_devices_and_numbers_of_threads_agree(shape, volume):
    found = []
    for count in (1, 3):
        with threads.chosen(count):
            found.append(steps(shape, count=12, volume=volume))
    np.testing.assert_array_equal(*found)
    np.testing.assert_allclose(found[0], steps(shape, count=12, volume=volume, tensors=True), atol=2e-5)
