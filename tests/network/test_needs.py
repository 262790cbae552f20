"""What a registration with a PDD network takes is near the estimate."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# Not getrusage, which counts what the process that started this one held.
PROGRAM = """
import json, sys
import numpy as np
from itk_pdd import registration
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.volume import Volume
from itk_pdd.models.pddmodel import PddModel
from itk_pdd.network.card import PddCard
from itk_pdd.network.pddnet import PddNetwork
from itk_pdd.network.preparation import Intensity
from itk_pdd.network.settings import PddSettings, Warp
from itk_pdd.registration import register_volumes
from itk_pdd.solver import memory

def register(size, features, points, displacements):
    settings = PddSettings(features=features, warps=(Warp(0.4, displacements, points),))
    model = PddModel(PddNetwork(settings), PddCard("model", "", settings, Intensity(), 1.0))
    grid, rng = Grid.create(size, 1.0), np.random.default_rng(0)
    images = [Volume(rng.random(grid.shape, dtype=np.float32), grid) for _ in range(2)]
    before = memory.resident()
    register_volumes(*images, model=model, device="cpu", threads=2)
    lines = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
    return before, 1024 * int(lines["VmHWM"].split()[0]), model.needs(grid, grid).most

features, points, displacements = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
register((24, 24, 24), features, 4, 3)  # everything loaded and compiled
print(json.dumps(register((96, 88, 128), features, points, displacements)))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux' counts of memory")
@pytest.mark.parametrize(("features", "points", "displacements"), [
    ("obelisk", 24, 15), ("obelisk", 8, 5), ("mind-ssc", 8, 5),
])  # fmt: skip
def test_the_estimate_is_near_the_peak(features, points, displacements):
    """Where the costs are most of it, where features are, and where hand-made ones are."""
    command = [sys.executable, "-c", PROGRAM, features, str(points), str(displacements)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    before, peak, estimate = json.loads(answer.stdout.splitlines()[-1])
    assert 0.7 * estimate < peak - before < 1.2 * estimate
