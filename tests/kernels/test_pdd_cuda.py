"""The Triton kernels against the definitions: on a GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import importlib
import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported

pytest.importorskip("triton", reason="triton is not installed (it exists for Linux only)")

from itk_pdd import kernels
from itk_pdd.kernels.regularisation import cuda as regularisation_cuda

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES = [
    ((2, 3, 4), (3, 1, 5), (6, 5, 7), 3),
    ((1, 1, 1), (1, 1, 1), (1, 1, 1), 1),
    ((1, 2, 1), (11, 11, 11), (9, 8, 7), 2),
    ((3, 4), (5, 2), (6, 9), 4),
]


@pytest.fixture(autouse=True)
def triton_kernels(monkeypatch):
    def backend(operation, *tensors):
        return None if kernels._mode.get() == "torch" else importlib.import_module(f"itk_pdd.kernels.{operation}.cuda")

    monkeypatch.setattr(kernels, "_backend", backend)


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}-{s[1]}".replace(" ", ""))
def test_kernels_are_the_definitions(size):
    points, displacements, shape, channels = size
    dimension = len(points)
    generator = torch.Generator().manual_seed(0)
    lattice = {
        "positions": [torch.rand(n, generator=generator) * s for n, s in zip(points, shape, strict=True)],
        "displacements": [torch.linspace(-2, 2, d) if d > 1 else torch.zeros(1) for d in displacements],
    }
    fixed, moving, labels = (torch.rand(channels, *shape, generator=generator).to(DEVICE) for _ in range(3))

    def everything(fixed, moving, ratio, temperature):
        costs = kernels.displacement_costs(fixed, moving, **lattice)
        smooth = kernels.regularise(costs, ratio, dimension)
        once = kernels.mean_field(kernels.min_convolution(costs, dimension), dimension)
        moments = kernels.displacement_moments(smooth, temperature, lattice["displacements"], second=True)
        return costs, once, smooth, *moments, kernels.expected_values(smooth, temperature, labels, **lattice)

    found = []
    for kind in ("fast", "torch"):
        inputs = [t.clone().requires_grad_() for t in (fixed, moving)]
        inputs += [torch.tensor(v, device=DEVICE, requires_grad=True) for v in (0.6, 5.0)]
        with kernels.use(kind):
            results = everything(*inputs)
        wanted = [torch.rand(r.shape, generator=torch.Generator().manual_seed(1)).to(r) for r in results]
        torch.autograd.backward(results, wanted)
        found.append([*results, *[i.grad for i in inputs]])
        with kernels.use(kind), torch.no_grad():
            found[-1] += everything(*[i.detach() for i in inputs])
    for fast, plain in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)


def test_blocks_of_control_points_change_nothing(monkeypatch):
    costs = torch.rand(2, 3, 4, 3, 5, 2, device=DEVICE)
    smooth = regularisation_cuda.min_convolution(costs, 3)
    back = regularisation_cuda.min_convolution_backward(costs, costs, 3)
    monkeypatch.setattr(regularisation_cuda, "_CHUNK", 100)
    torch.testing.assert_close(regularisation_cuda.min_convolution(costs, 3), smooth)
    torch.testing.assert_close(regularisation_cuda.min_convolution_backward(costs, costs, 3), back)
