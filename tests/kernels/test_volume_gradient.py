"""The penalty of changes of volume: its gradient is that of the definition, and it knows what a volume is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from itk_pdd.kernels.volume_change import cuda
from itk_pdd.kernels.volume_change.cpu import add_volume_gradient


def penalty(field, scale):
    """By definition, from the determinants of all nodes, once with the edges ahead and once with those behind."""
    axes = [axis for axis in (2, 1, 0) if field.shape[axis] > 1]
    components = [2 - axis for axis in axes]
    total = 0
    for side in (0, 1):
        columns = []
        for axis in axes:
            edge = field.diff(dim=axis)
            for other in axes:
                if other != axis:
                    edge = edge.narrow(other, side, field.shape[other] - 1)
            columns.append(edge[..., components] / scale[2 - axis])
        determinant = torch.linalg.det(torch.stack(columns, dim=-1) + torch.eye(len(axes)))
        total = total + 0.5 * 16 * ((determinant + 3) / 4).log().square().sum()
    return total


def gradients(field, **options):
    """Of both implementations, the compiled one in one thread and in several."""
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(np.zeros_like(field))
            add_volume_gradient(field, results[-1], **options)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*results)
    tensor = torch.zeros(field.shape)
    cuda.add_volume_gradient(torch.from_numpy(field), tensor, **options)
    return results[0], tensor.numpy()


@pytest.mark.parametrize("shape", [(5, 6, 7), (1, 6, 7), (6, 1, 7), (7, 6, 1), (2, 3, 2), (6, 2, 9)])
def test_the_gradient_is_that_of_the_definition(shape):
    field = np.random.default_rng(0).normal(0, 0.15, (*shape, 3)).astype(np.float32)
    scale = (1.0, 2.0, 1.5)
    exact = torch.from_numpy(field).double().requires_grad_(True)
    penalty(exact, scale).backward()
    for found in gradients(field, weight=0.7, scale=scale):
        np.testing.assert_allclose(found, 0.7 * exact.grad.numpy(), atol=1e-5)


def test_what_keeps_volumes_costs_nothing():
    z, y, x = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in (6, 7, 8)), indexing="ij")
    sheared = np.stack([0.4 * y + 0.2 * z, 0.3 * z, 0 * z], axis=-1)
    squeezed = np.stack([x, (2**-0.5 - 1) * y, (2**-0.5 - 1) * z], axis=-1)
    for field in (sheared, squeezed, 0 * sheared + 3):
        for found in gradients(np.ascontiguousarray(field, np.float32), weight=1.0):
            np.testing.assert_allclose(found, 0, atol=1e-5)


@pytest.mark.parametrize("growth", [-0.3, 0.2, 0.5])
def test_a_step_against_the_gradient_makes_sizes_more_alike(growth):
    axes = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in (6, 7, 8)), indexing="ij")
    field = np.ascontiguousarray(np.stack(axes[::-1], axis=-1) * np.float32(growth))
    for found in gradients(field, weight=1.0):
        width = (field - 0.01 * found)[3, 3, :, 0]
        assert abs(width[-1] - width[0]) < abs(growth) * 7


def test_the_gradient_of_folds_is_finite():
    field = np.zeros((4, 4, 4, 3), np.float32)
    field[2, 2, 2] = -50
    for found in gradients(field, weight=1.0):
        assert np.isfinite(found).all()
        assert np.abs(found).max() > 0
