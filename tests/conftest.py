"""Small images in every geometry, and a stand-in for the engine where only what surrounds it is tested."""

from __future__ import annotations

import functools
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.volume import Volume


def pytest_configure(config: pytest.Config) -> None:
    """Silence what itk's wrapping says on every import; tell an installed package where the data beside this lie.

    Programs that tests start shall find the package as installed, not the folder of this name in the checkout, which
    lacks the commands.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    beside = Path(__file__).parents[1].parent / "shared" / "data"
    if beside.is_dir():
        os.environ.setdefault("ITK_PDD_DATA", str(beside))
    # Workers that each use all processors wait for each other's threads.
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    for name in ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS") if workers > 1 else ():
        os.environ.setdefault(name, str(max(1, (os.cpu_count() or 1) // workers)))
    config.addinivalue_line("filterwarnings", "ignore:builtin type .* has no __module__ attribute:DeprecationWarning")
    # The same once more when the process ends, and pytest's own filters are gone.
    warnings.filterwarnings("ignore", "builtin type .* has no __module__ attribute", DeprecationWarning)


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of the benchmark data; tests that need it are skipped without it."""
    folder = Path(os.environ.get("ITK_PDD_DATA", Path(__file__).parents[1].parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no benchmark data at {folder} (set ITK_PDD_DATA)")
    return folder


@pytest.fixture
def one_thread():
    """Sums in the same order whatever the machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@functools.cache
def made_pair(*arguments, **options):
    """A synthetic pair that several tests look at and none changes: drawing it takes longer than registering it."""
    from itk_pdd.synthesis import make_pair

    return make_pair(*arguments, **options)


def rotation(*degrees: float) -> np.ndarray:
    """A rotation matrix: by one angle in 2-D, by three angles about x, y and z in 3-D."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    if len(degrees) == 1:
        return np.array([[c[0], -s[0]], [s[0], c[0]]])
    x = np.array([[1, 0, 0], [0, c[0], -s[0]], [0, s[0], c[0]]])
    y = np.array([[c[1], 0, s[1]], [0, 1, 0], [-s[1], 0, c[1]]])
    z = np.array([[c[2], -s[2], 0], [s[2], c[2], 0], [0, 0, 1]])
    return z @ y @ x


GEOMETRIES = {
    "plain 3-D": Grid.create((17, 14, 12), (2.0, 2.0, 2.0)),
    "oblique": Grid.create((17, 14, 12), (1.5, 2.0, 3.1), (-13.0, 40.0, 7.5), rotation(20, -15, 40)),
    "left-handed": Grid.create((17, 14, 12), (1.5, 2.0, 3.1), (10.0, 20.0, -5.0), np.diag([1.0, 1.0, -1.0])),
    "flipped and permuted": Grid.create(
        (17, 14, 12), (1.5, 2.0, 2.5), (30.0, -20.0, 5.0), np.array([[0.0, -1, 0], [0, 0, 1], [-1, 0, 0]])
    ),
    "anisotropic": Grid.create((31, 28, 7), (1.0, 1.0, 5.0), (0.0, 0.0, 100.0)),
    "plain 2-D": Grid.create((23, 18), (1.0, 1.0)),
    "oblique 2-D": Grid.create((23, 18), (1.0, 1.7), (5.0, -9.0), rotation(30)),
    "left-handed 2-D": Grid.create((23, 18), (1.0, 1.7), (5.0, -9.0), np.diag([1.0, -1.0])),
}


@pytest.fixture(params=GEOMETRIES, ids=lambda name: name.replace(" ", "-"))
def grid(request: pytest.FixtureRequest) -> Grid:
    """A small grid, in turn of every geometry."""
    return GEOMETRIES[request.param]


def blobs(grid: Grid, *, seed: int = 0, dtype: type = np.float32) -> Volume:
    """An image of smooth blobs at physical places: the same patient on any grid with the same centre."""
    generator = np.random.default_rng(seed)
    points = grid.points() - grid.centre
    reach = 0.35 * grid.extent.min()
    array = np.zeros(grid.shape)
    for _ in range(8):
        place = generator.uniform(-reach, reach, grid.dimension)
        width = generator.uniform(0.12, 0.3) * grid.extent.min()
        array += generator.uniform(40, 100) * np.exp(-((points - place) ** 2).sum(axis=-1) / (2 * width**2))
    return Volume(array.astype(dtype), grid)


def wave(grid: Grid, *, amplitude: float = 1.5) -> DisplacementField:
    """A smooth field in physical millimetres that differs in every component, zero at no special place."""
    points = (grid.points() - grid.centre) / grid.extent.max()
    parts = [amplitude * (0.4 + np.sin(3 * points @ np.roll([1.0, 2.0, -1.0][: grid.dimension], i) + i)) for i in
             range(grid.dimension)]  # fmt: skip
    return DisplacementField(np.stack(parts, axis=-1).astype(np.float32), grid)


def to_itk(volume: Volume, *, start: int = 0):
    """A volume as an itk image, with its first voxel at the index ``start`` along each axis."""
    import itk

    image = itk.image_from_array(np.ascontiguousarray(volume.array))
    grid = volume.grid
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.to_physical(np.full(grid.dimension, -start)).tolist())
    image.SetDirection(itk.matrix_from_array(np.asarray(grid.direction)))
    if start:
        region = image.GetLargestPossibleRegion()
        region.SetIndex([start] * grid.dimension)
        image.SetRegions(region)
    return image


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stand-in for the engine that answers with a known field after the initial mapping, and notes its calls."""
    note = SimpleNamespace(calls=[], field=wave, error=None)

    def run(problem, *, progress=None, **options):
        single = len(problem.fixed_channels) == 1
        images = (problem.fixed, problem.moving) if single else (problem.fixed_channels, problem.moving_channels)
        rest = {name: getattr(problem, name) for name in ("initial", "fixed_mask", "moving_mask")}
        note.calls.append(
            SimpleNamespace(fixed=images[0], moving=images[1], channel_weights=problem.weights, **rest, **options)
        )
        initial, fixed = problem.initial, problem.fixed
        if progress is not None:
            for step in range(4):
                progress(step / 4, "working")
        if note.error is not None:
            raise note.error
        field = note.field(fixed.grid)
        if initial is not None:
            points = fixed.grid.points()
            field = DisplacementField((initial(points + field.vectors) - points).astype(np.float32), fixed.grid)
        if progress is not None:
            progress(1.0, "done")
        return SimpleNamespace(
            field=field, capture_range_mm=10.0, stages=(), uncertainty=None, overlap=None, landmarks=(), warnings=()
        )

    monkeypatch.setattr("itk_pdd.registration.run", run)
    return note


# Index axes that run to the head, to the patient's right and to the front.
TURNED = Grid.create((18, 28, 24), (2.0, 1.0, 1.5), (30.0, -20.0, 5.0), np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]]))
SHIFT = np.array([4.0, 0.0, 0.0])


@dataclass(frozen=True)
class Scene:
    """A ball at the patient's left front in the fixed image; in the moving image it lies ``SHIFT`` away."""

    fixed: Volume
    moving: Volume
    fixed_labels: Volume
    moving_labels: Volume
    truth: DisplacementField


@pytest.fixture(scope="session")
def scene() -> Scene:
    """The images, their labels and the true field."""
    centre = TURNED.centre + np.array([4.0, -4.0, 3.0])
    volumes = []
    for seed, offset in enumerate((np.zeros(3), SHIFT)):
        distance = np.linalg.norm(TURNED.points() - centre - offset, axis=-1)
        inside = distance < 5.5
        noise = np.random.default_rng(seed).normal(0, 1, TURNED.shape)
        volumes.append(Volume((100 * np.exp(-((distance / 8) ** 2)) + noise).astype(np.float32), TURNED))
        volumes.append(Volume(inside.astype(np.uint8), TURNED))
    truth = DisplacementField(np.broadcast_to(SHIFT, (*TURNED.shape, 3)).astype(np.float32), TURNED)
    return Scene(volumes[0], volumes[2], volumes[1], volumes[3], truth)
