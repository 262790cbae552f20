"""Estimates of memory against what is taken, and what is done where it is short."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from itk_pdd import models, registration
from itk_pdd.errors import RegistrationError, RegistrationWarning
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.volume import Volume
from itk_pdd.solver import engine, memory
from itk_pdd.solver.memory import Needs
from itk_pdd.solver.working import search_grid, working_grid
from itk_pdd.synthesis import make_pair

PROGRAM = """
import json, sys
from dataclasses import replace
import numpy as np
from itk_pdd import models
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.volume import Volume
from itk_pdd.registration import register_volumes
from itk_pdd.solver import memory

def pair(size):
    # Noise, the worst case for the tree.
    grid, rng = Grid.create((size, size, size), 2.0), np.random.default_rng(0)
    return [Volume(rng.random(grid.shape, dtype=np.float32), grid) for _ in range(2)]

register_volumes(*pair(24), device="cpu", threads=2)  # everything loaded and compiled
fixed, moving = pair(int(sys.argv[1]))
before = memory.resident()
grid = fixed.grid
model = models.load("auto")
model = replace(model, refinement=replace(model.refinement, iterations=int(sys.argv[3])))
estimate = memory.needs(grid, grid, grid, model)
limit = float(sys.argv[2]) or None
field = register_volumes(fixed, moving, device="cpu", threads=2, memory=limit, model=model).field
# Not getrusage, which counts what the process that started this one held.
lines = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
peak = 1024 * int(lines["VmHWM"].split()[0])
print(json.dumps([before, peak, estimate.most, estimate.least, float(np.abs(field.vectors).sum(dtype=float))]))
"""


def run(size: int, limit: float = 0, *, steps: int = 0) -> list[float]:
    command = [sys.executable, "-c", PROGRAM, str(size), str(limit), str(steps)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(answer.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux' counts of memory")
def test_estimate_and_limit_are_kept():
    """In a process of its own: the estimate is not far from the peak, and a limit between least and most is kept.

    By the search, that is: the descent has nothing to do in blocks.
    """
    before, peak, most, least, total = run(144)
    assert 0.7 * most < peak - before < 1.2 * most
    limit = before + 0.2 * most + 0.8 * least
    _, lower, _, _, same = run(144, limit / 1e9)
    assert lower < 1.05 * limit
    assert lower < peak - 0.3 * (most - least)
    assert same == total


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux' counts of memory")
def test_estimate_of_the_descent_is_not_far_from_the_peak():
    """With as many steps as bring it to unfold the noise."""
    before, peak, most, _, _ = run(144, steps=11)
    assert 0.7 * most < peak - before < 1.2 * most


def test_guides_take_memory():
    grid, model = Grid.create((100, 100, 100), 2.0), models.DEFAULT
    plain, labels, features = (
        memory.needs(grid, grid, grid, model, guides=guides)
        for guides in (None, memory.Guides(labels=20), memory.Guides(spacing=2.0))
    )
    # Labels of both images as bytes on the working grid, in blocks of 16.
    assert labels.ends >= plain.ends and labels.ends >= 2 * 32 * grid.voxels
    assert features.images >= plain.images + 2 * 32 * 4 * grid.voxels


def test_what_a_gpu_holds_is_not_asked_for_here():
    """Neither costs nor the windows of the descent, which a trained model's classes do without."""
    grid = Grid.create((192, 160, 256), 2.0)
    model = models.load("auto")
    host, there = (memory.needs(grid, grid, grid, model, on_host=on_host) for on_host in (True, False))
    assert there.costs == 0
    assert there.ends < 0.3 * host.ends


@pytest.fixture
def free(monkeypatch):
    """Pretend how many bytes are free."""

    def pretend(count: float) -> None:
        monkeypatch.setattr(memory, "available", lambda: count / memory._SPARE)

    return pretend


def test_blocks_do_not_change_the_result(free, caplog):
    caplog.set_level(logging.INFO, "itk_pdd")
    pair = make_pair((96, 84, 72), 3.0, seed=3, displacement=15)
    # The descent, which takes more than the search here, has no blocks.
    model = replace(models.DEFAULT, refinement=replace(models.DEFAULT.refinement, iterations=0))
    expected = registration.register_volumes(pair.fixed, pair.moving, device="cpu", model=model).field.vectors
    assert "in blocks" not in caplog.text
    grid = pair.fixed.grid
    found = memory.needs(grid, grid, grid, model)
    free(0.5 * (found.least + found.most))
    blocked = registration.register_volumes(pair.fixed, pair.moving, device="cpu", model=model)
    assert "in blocks" in caplog.text and "memory: about" in caplog.text
    assert blocked.working_grid.voxels >= grid.voxels
    np.testing.assert_array_equal(blocked.field.vectors, expected)


def make_grid(model):
    return working_grid(Grid.create((200, 160, 120), 1.0), spacing=model.spacing, max_voxels=model.max_voxels)


def estimate(grid):
    return Needs(images=50 * grid.voxels, costs=100 * grid.voxels, least_costs=20 * grid.voxels, ends=10**6)


def test_coarser_where_blocks_are_not_enough(free):
    model = models.load("auto")
    free(1e8)
    with pytest.warns(
        RegistrationWarning, match=r"takes at least 0\.27 GB .* 0\.1 GB are free: they are compared at 1\.4"
    ):
        grid, costs = memory.fit(make_grid, estimate, model)
    # The finest that fits: 7 % finer does not.
    assert estimate(grid).least <= 1e8 < 1.25 * estimate(grid).least
    assert costs == pytest.approx(1e8 - 50 * grid.voxels)


def test_asked_for_spacing_is_kept_or_refused(free):
    free(1e8)
    told = r"at the given spacing of 1 mm takes at least 0\.27 GB .* 0\.1 GB are free; give a larger spacing or none"
    with pytest.raises(RegistrationError, match=told):
        memory.fit(make_grid, estimate, models.load("auto"), keep_spacing=True)
    free(1e12)
    grid = Grid.create((400, 300, 200), 1.0)
    fine = search_grid(grid, grid, None, models.load("auto"))
    assert fine.voxels < 1.05 * models.load("auto").max_voxels < grid.voxels


def test_spacing_that_is_asked_for_is_not_made_coarser(monkeypatch):
    """The limit of the default working grid is for those who did not ask."""
    seen = []

    def stop(make, _, model, **__):
        seen.append(make(model))
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "fit", stop)
    grid = Grid.create((300, 300, 200), 1.0)
    volume = Volume(np.zeros(grid.shape, np.uint8), grid)
    with pytest.raises(KeyboardInterrupt):
        registration.register_volumes(volume, volume, spacing=1.0)
    assert seen[0].voxels == grid.voxels


def test_nothing_fits(free):
    free(1e4)
    with pytest.raises(RegistrationError, match="not enough memory"):
        memory.fit(make_grid, estimate, models.load("auto"))
    pair = make_pair((40, 40, 40), 3.0, seed=1)
    with pytest.raises(RegistrationError, match=r"0 GB are left of 0\.01 GB; allow more"):
        registration.register_volumes(pair.fixed, pair.moving, memory=0.01, device="cpu")
    with pytest.raises(RegistrationError, match="memory is -1, expected a number of GB above 0"):
        registration.register_volumes(pair.fixed, pair.moving, memory=-1)


def test_limits_of_containers(tmp_path):
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("900000\n")
    (tmp_path / "memory.stat").write_text("anon 5\nactive_file 100000\ninactive_file 200000\n")
    assert memory._cgroups(str(tmp_path)) == [400000]
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._cgroups(str(tmp_path)) == []
    assert memory._cgroups(str(tmp_path / "none")) == []


def test_what_the_system_says():
    assert 1e7 < memory.resident() < 1e12
    assert memory.available() > 0
