"""
Your own features
=================

A network of your own as features: scripted by torch, written to a file, and read without its Python.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

import itk_pdd
from itk_pdd.synthesis import make_pair


class Edges(torch.nn.Module):
    """Differences of the intensities from their surroundings, at two scales."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        near = functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        far = functional.avg_pool2d(x, 9, 1, 4, count_include_pad=False)
        return [x - near, near - far, far]


def main() -> None:
    pair = make_pair((120, 100), 2.0, seed=3, displacement=20)
    fixed, moving = pair.fixed.to_simpleitk(), pair.moving.to_simpleitk()
    path = Path(tempfile.mkdtemp()) / "edges.pt"
    torch.jit.script(Edges()).save(str(path))
    card = {"low": -200, "high": 300}
    start = np.linalg.norm(pair.truth.vectors, axis=-1)[pair.body].mean()
    print(f"before: error {start:.2f} mm")
    for name, known in (("images alone", {}), ("with features", {"features": path, "feature_card": card})):
        transform = itk_pdd.register(fixed, moving, **known)
        found = itk_pdd.warp_points(pair.fixed.grid.points()[pair.body], transform, to="moving")
        truth = pair.fixed.grid.points()[pair.body] + pair.truth.vectors[pair.body]
        print(f"{name}: error {np.linalg.norm(found - truth, axis=-1).mean():.2f} mm")

    itk_pdd.plot.overlay(fixed, moving)  # before: fixed green, moving magenta, grey where they agree
    itk_pdd.plot.overlay(fixed, itk_pdd.warp_image(moving, transform))


if __name__ == "__main__":
    main()
