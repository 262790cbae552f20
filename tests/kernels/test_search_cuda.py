"""The dense search on tensors of a device against that of the CPU: on a GPU where there is one, else in Triton's
interpreter, which is slow: images are tiny."""

from __future__ import annotations

import collections
import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported

pytest.importorskip("triton", minversion="3.2", reason="there is no triton 3.2 or later (it exists for Linux only)")

from itk_pdd import registration
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.volume import Volume
from itk_pdd.kernels import search_cuda
from itk_pdd.kernels.control_grid import cuda as grid_cuda
from itk_pdd.kernels.control_grid.cpu import compose
from itk_pdd.kernels.correlation.cuda import DeviceCorrelation
from itk_pdd.kernels.hamming import cuda as hamming_cuda
from itk_pdd.kernels.mind import cuda as mind_cuda
from itk_pdd.kernels.mind.cpu import add_codes
from itk_pdd.kernels.operations import HOST as host
from itk_pdd.kernels.tree import cuda as tree_cuda
from itk_pdd.kernels.tree.spanning import spanning_tree
from itk_pdd.solver import engine
from itk_pdd.solver.class_maps import ClassMaps
from itk_pdd.solver.devices import check
from itk_pdd.solver.settings import Refinement, Stage

device = search_cuda.DeviceOperations(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(7, 9, 11), (1, 1, 5), (13, 10), (1, 6), (5, 5, 1)])
@pytest.mark.parametrize(("bits", "dilation"), [(5, 1), (2, 3)])
def test_codes_are_those_of_the_cpu(rng, shape, bits, dilation):
    image = rng.random(shape, dtype=np.float32)
    image[: shape[0] // 2] = 0.5  # half of it without any structure
    stack = shape if len(shape) == 3 else (1, *shape)
    expected, found = np.zeros(stack, np.uint64), device.no_codes(stack)
    add_codes(image, expected, bits=bits, shift=1, dilation=dilation)
    device.add_codes(device.array(image), found, bits=bits, shift=1, dilation=dilation)
    different = np.bitwise_count(device.numpy(found).view(np.uint64) ^ expected).sum()
    # Where a distance is a threshold to the last digit, the order of additions decides.
    assert different <= 1e-3 * np.bitwise_count(expected).sum()


def test_codes_of_an_image_in_strange_strides(rng):
    image = torch.from_numpy(rng.random((8, 6, 9), dtype=np.float32)).to(device.device)
    found, expected = device.no_codes((9, 6, 8)), device.no_codes((9, 6, 8))
    mind_cuda.add_codes(image.permute(2, 1, 0), found, bits=2)
    mind_cuda.add_codes(image.permute(2, 1, 0).contiguous(), expected, bits=2)
    assert torch.equal(found, expected)


COSTS = {
    "plain": {"shape": (5, 6, 7), "cell": (3, 2, 4), "radius": (1, 1, 2), "step": (1, 2, 2)},
    "base": {"shape": (4, 5, 6), "cell": (2, 4, 3), "radius": (1, 2, 1), "step": (1, 1, 1), "block": (1, 2, 3)},
    "mask": {"shape": (4, 5, 6), "cell": (2, 4, 3), "radius": (1, 1, 1), "step": (2, 1, 3), "masked": True},
    "allowed": {"shape": (4, 4, 6), "cell": (2, 4, 4), "radius": (1, 1, 2), "step": (2, 1, 1), "allowed": True},
    "everything": {"shape": (3, 5, 4), "cell": (2, 4, 4), "radius": (1, 2, 1), "step": (1, 1, 2), "block": (1, 1, 1),
                   "stride": (2, 2, 1), "masked": True, "allowed": True},
    "2-D": {"shape": (1, 7, 5), "cell": (1, 4, 4), "radius": (0, 3, 3), "step": (1, 2, 2), "allowed": True},
    "one voxel": {"shape": (1, 1, 1), "cell": (4, 4, 4), "radius": (1, 1, 1), "step": (1, 1, 1), "block": (1, 1, 1)},
}  # fmt: skip


@pytest.mark.parametrize("case", COSTS)
def test_costs_are_those_of_the_cpu(rng, case):
    options = {"stride": (1, 1, 1), **COSTS[case]}
    shape, block = options.pop("shape"), options.pop("block", None)
    mask = rng.random(shape) > 0.4 if options.pop("masked", False) else None
    if mask is not None:
        mask[:2, :4, :3] = False  # a cell without any voxel
    allowed = rng.random(shape) > 0.5 if options.pop("allowed", False) else None
    if allowed is not None:
        allowed[:, :, : shape[2] // 2] = False
    codes = [rng.integers(0, 2**64, (2, *shape), dtype=np.uint64) for _ in range(2)]
    base = None
    if block is not None:
        base = rng.normal(0, 2, (*[-(-n // b) for n, b in zip(shape, block, strict=True)], 3)).astype(np.float32)
        base.flat[::5] = np.round(base.flat[::5]) + 0.5  # halves go the same way
    options |= {"block": block or (1, 1, 1), "mask": mask, "scales": (0.01, 0.003)}
    expected = host.masked_costs(*codes, allowed, base=base, **options)
    found = device.masked_costs(
        *map(device.array, codes), allowed, base=None if base is None else device.array(base), **options
    )
    count = 2 * options["radius"][2] + 1
    assert found.shape == (*expected.shape[:5], count)
    np.testing.assert_allclose(device.numpy(found), expected[..., :count], atol=2e-6)


def test_costs_of_many_displacements_take_several_blocks(rng):
    codes = [rng.integers(-(2**63), 2**63, (1, 1, 3, 2)) for _ in range(2)]
    options = {"cell": (1, 3, 2), "radius": (0, 16, 16), "step": (1, 1, 1), "stride": (1, 2, 2)}
    expected = host.masked_costs(*[c.view(np.uint64) for c in codes], None, mask=None, scales=(0.1,), **options)
    found = hamming_cuda.hamming_costs(*map(device.array, codes), scales=(0.1,), **options)
    np.testing.assert_allclose(device.numpy(found), expected[..., :33], atol=2e-6)


def relative(costs):
    """Only differences within a control point mean something."""
    return costs - costs.min(axis=(3, 4, 5), keepdims=True)


@pytest.mark.parametrize(
    ("grid", "counts", "taps", "spread", "lanes"),
    [
        ((3, 2, 4), (3, 5, 7), 2, 1.5, 4096),
        ((3, 2, 4), (3, 5, 7), 2, 1.5, 32),  # more displacements than a block has lanes
        ((1, 4, 3), (1, 5, 5), 4, 0, 4096),
        ((2, 3, 2), (3, 3, 3), 1, 6, 4096),  # neighbours far apart: the window reaches the last displacements
        ((1, 1, 1), (3, 3, 3), 1, 1, 4096),
        ((1, 1, 9), (1, 1, 3), 3, 0.5, 4096),
    ],
)
def test_marginals_are_those_of_the_cpu(rng, monkeypatch, grid, counts, taps, spread, lanes):
    monkeypatch.setattr(tree_cuda, "_LANES", lanes)
    costs = rng.random((*grid, *counts), dtype=np.float32)
    tree = spanning_tree(rng.random(grid))
    base = rng.normal(0, spread, (*grid, 3)).astype(np.float32) if spread else None
    width = -(-counts[2] // 8) * 8
    padded = np.full((*grid, *counts[:2], width), 1e30, np.float32)
    padded[..., : counts[2]] = costs
    expected = host.min_marginals(padded, tree, alpha=0.03, taps=taps, base=base)[..., : counts[2]]
    found = device.array(costs)
    base = None if base is None else device.array(base)
    assert device.min_marginals(found, tree, alpha=0.03, taps=taps, base=base) is found
    np.testing.assert_allclose(relative(device.numpy(found)), relative(expected), atol=1e-5)


def test_control_points_stand_behind_those_they_wait_for(rng):
    tree = spanning_tree(rng.random((4, 5, 6)))
    by_depth, starts, children = np.empty(120, np.int32), np.empty(121, np.int32), np.full(120, -1, np.int32)
    tree_cuda._levels(tree.order, tree.parent, by_depth, starts, children)
    place = np.empty(120, int)
    place[by_depth] = np.arange(120)
    assert sorted(by_depth) == list(range(120))
    for node in range(120):
        assert sorted(children[starts[node] : starts[node + 1]]) == np.flatnonzero(tree.parent == node).tolist()
        assert tree.parent[node] < 0 or place[tree.parent[node]] < place[node]


def test_marginals_say_what_they_expect():
    costs = torch.zeros(1, 1, 2, 3, 3, 3, device=device.device)[..., ::2]
    with pytest.raises(ValueError, match="contiguous float32"):
        device.min_marginals(costs, spanning_tree(np.zeros((1, 1, 2))), alpha=1.0)


@pytest.mark.parametrize(
    ("shape", "cell"),
    [
        ((5, 7, 6), (3, 3, 3)),
        ((1, 4, 9), (1, 3, 3)),
        ((1, 1, 1), (1, 1, 1)),
        ((1, 8, 8), (3, 3, 3)),
        ((2, 8, 1), (3, 3, 3)),
    ],
)
def test_lattices_are_those_of_the_cpu(rng, shape, cell):
    field = rng.normal(0, 2, (*shape, 3)).astype(np.float32)
    other = rng.normal(0, 3, (*shape, 3)).astype(np.float32)
    control = host.restrict(field, cell)
    pairs = [
        (device.restrict(device.array(field), cell), control),
        (grid_cuda.compose(device.array(field), device.array(other)), compose(field, other)),
        *zip(
            device.make_consistent(device.array(field), device.array(other), iterations=3),
            host.make_consistent(field, other, iterations=3),
            strict=True,
        ),
    ]
    for order in (1, 3):
        expected = host.upsample(control, cell, shape, order=order)
        pairs.append((device.upsample(device.array(control), cell, shape, order=order), expected))
    points = control.shape[:3]
    pairs.append((device.spread(device.array(field), cell, points), host.spread(field, cell, points)))
    for found, expected in pairs:
        np.testing.assert_allclose(device.numpy(found), expected, atol=1e-5)


@pytest.mark.parametrize("masked", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("shape", [(6, 9, 7), (1, 12, 10), (2, 3, 8)])
@pytest.mark.parametrize("floor", [0.001, 0.5])
def test_local_correlation_is_that_of_the_cpu(rng, shape, masked, floor):
    images = rng.normal(300, 20, (2, *shape)).astype(np.float32)
    masks = [rng.random(shape) < 0.85 if each else None for each in masked]
    field = rng.normal(0, 2, (*shape, 3)).astype(np.float32)
    if shape[0] == 1:
        field[..., 2] = 0
    options = {"radius": 2, "masks": masks, "floor": floor}
    expected, loss = host.local_correlation(*images, **options).gradient(field)
    found, same = device.local_correlation(*images, **options).gradient(device.array(field))
    np.testing.assert_allclose(device.numpy(found), expected, atol=1e-4 * np.abs(expected).max())
    assert float(same) == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("shape", [(9, 10, 11), (1, 20, 22), (2, 9, 9)])
@pytest.mark.parametrize("scale", [(1.0, 1.0, 1.0), (2.0, 1.0, 1.5)])
def test_unfolding_is_that_of_the_cpu(rng, shape, scale):
    field = np.zeros((*shape, 3), np.float32)
    middle = tuple(slice(n // 3, 2 * n // 3 + 1) for n in shape)
    field[middle] = rng.normal(0, 1.2, field[middle].shape)
    expected, moved, left = host.unfold(field, scale=scale, minimum=0.05)
    found, *counts = device.unfold(device.array(field), scale=scale, minimum=0.05)
    assert moved > 0 and left == 0 and counts == [moved, 0]
    np.testing.assert_allclose(device.numpy(found), expected, atol=1e-5)
    again = device.unfold(found, scale=scale, minimum=0.049)
    assert again[0] is found and again[1:] == (0, 0)


def test_composition_takes_fields_in_strange_strides(rng):
    field = device.array(rng.normal(0, 1, (3, 4, 5, 3)).astype(np.float32)).movedim(2, 0)
    torch.testing.assert_close(
        grid_cuda.compose(field, field), grid_cuda.compose(field.contiguous(), field.contiguous())
    )


def test_class_codes_are_those_of_the_cpu(rng):
    values = rng.random((3, 4, 5, 4), dtype=np.float32)
    values[0, 0, 0] = 0, 1, 1, 1  # all bits of a code, the sign included
    lines = (np.linspace(-1, 3, 6), np.linspace(0, 3, 4), np.array([0.0, 1.2, 4.9]))
    smooth = device.sample_lines(device.array(values), lines)
    np.testing.assert_allclose(device.numpy(smooth), host.sample_lines(values, lines), atol=1e-6)
    bits = (5, 32, 7, 20)
    found = device.numpy(device.thermometer_codes(device.array(values), bits)).view(np.uint64)
    np.testing.assert_array_equal(found, host.thermometer_codes(values, bits))


@pytest.mark.parametrize("mapping", [None, lambda points: points + np.asarray([1.0, 0.5, -2.0])])
def test_class_maps_are_encoded_on_the_device(rng, mapping):
    grid, working = Grid.create((6, 5, 4), 3.0), Grid.create((9, 8, 7), 2.0)
    maps = ClassMaps(rng.random((4, 5, 6, 2), dtype=np.float32), grid, (30, 32), working, 1.0, mapping)
    expected, found = maps.codes(2), maps.codes(2, device)
    assert isinstance(found, torch.Tensor) and found.device.type == device.device.type
    # Rounding may decide a level.
    assert np.bitwise_count(device.numpy(found).view(np.uint64) ^ expected).max() <= 1


def blobs(shape, shift, rng):
    """Smooth random structure that is moved, as float32."""
    from scipy import ndimage

    noise = ndimage.gaussian_filter(rng.standard_normal([n + 8 for n in shape]), 1.2)
    noise = ndimage.shift(noise, shift, order=1, mode="nearest")
    return noise[tuple(slice(4, 4 + n) for n in shape)].astype(np.float32)


OPERATIONS = {
    "add_codes": "codes",
    "thermometer_codes": "codes of classes",
    "masked_costs": "costs with masks",
    "min_marginals": "marginals",
    "from_tensor": "costs of the mean field",
    "moments": "displacements",
    "restrict": "means",
    "upsample": "splines of order 1",
    "make_consistent": "fields",
    "spread": "sums of splines",
    "local_correlation": "gradients of the correlation",
    "add_volume_gradient": "gradients of the volumes",
    "adam_step": "steps of the descent",
    "unfold": "fields without folds",
    "sample_lines": "samples",
}


def test_all_operations_are_named_above():
    others = {"device", "array", "numpy", "no_codes", "tensor"}
    assert set(OPERATIONS) | others == {name for name in dir(host) if not name.startswith("_")}


ANSWERS = {}


def kept(name):
    """An operation that computes its answers in the first check; the checks after it get copies of them."""

    def operation(self, *arguments, **options):
        self.calls[name] += 1
        key = name, self.calls[name]
        if key not in ANSWERS:
            ANSWERS[key] = getattr(device, name)(*arguments, **options)
        return copy.deepcopy(ANSWERS[key])

    return operation


@pytest.mark.parametrize("broken", [None, *OPERATIONS])
def test_a_device_is_checked_before_its_first_use(broken):
    """One number that is wrong by a hundredth is found and named."""

    class Device(search_cuda.DeviceOperations):
        def __init__(self, device):
            super().__init__(device)
            self.calls = collections.Counter()

    for name in OPERATIONS.keys() - {"add_codes", "local_correlation"}:  # these two write into what they are given
        setattr(Device, name, kept(name))
    if broken == "add_codes":
        Device.add_codes = lambda self, *arguments, **options: None
    elif broken == "local_correlation":

        class Correlation(DeviceCorrelation):
            def gradient(self, field):
                slope, loss = super().gradient(field)
                return slope * 1.01, loss

        Device.local_correlation = lambda self, *images, **options: Correlation(*images, device=self.device, **options)
    elif broken:
        right = getattr(Device(device.device), broken)

        def wrong(self, *arguments, **options):
            result = right(*arguments, **options)
            part = result[0] if isinstance(result, tuple) else result
            if part.dtype == torch.int64:
                part[0] ^= 1
            else:
                part[(0,) * part.ndim] += 0.01 * part.abs().max()
            return result

        setattr(Device, broken, wrong)
    if broken is None:
        check(Device(device.device), (4, 4, 4))
        return
    with pytest.raises(RuntimeError, match=f"^{OPERATIONS[broken]} differ by"):
        check(Device(device.device), (4, 4, 4))


STAGE = Stage(shrink=1, cell=4, radius=2, step=1, dilations=(1,), smoothness=0.02, stride=2, consistency=3)
REGISTRATIONS = {
    "2-D, two resolutions, masks": (
        (20, 24), (1.0, -2.0), True,
        (Stage(shrink=2, cell=3, radius=2, step=2, dilations=(1, 2), smoothness=0.02), STAGE),
    ),
    "3-D": ((8, 9, 12), (1.0, 0.0, -1.0), False, (STAGE,)),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", REGISTRATIONS)
def test_a_registration_is_that_of_the_cpu(rng, monkeypatch, case):
    shape, shift, masked, stages = REGISTRATIONS[case]
    state = rng.bit_generator.state
    fixed = blobs(shape, (0,) * len(shape), rng)
    rng.bit_generator.state = state
    moving = blobs(shape, shift, rng)
    grid = Grid.create(shape[::-1], (1.0,) * len(shape), (0.0,) * len(shape), np.eye(len(shape)))
    masks = {}
    if masked:
        inside = np.ones(shape, bool)
        inside[:5] = False
        masks = {"fixed_mask": Volume(inside, grid), "moving_mask": Volume(inside[::-1].copy(), grid)}
    # On blocks first, unfolding on the way, then on the working grid.
    model = engine.DenseModel(
        "small", stages, refinement=Refinement(iterations=12, max_voxels=200, finish=2), spacing=1.0
    )

    def registered():
        return registration.register_volumes(
            Volume(fixed, grid), Volume(moving, grid), model=model, device="cpu", **masks
        )

    expected = registered().field.vectors
    calls = []

    def forced(name, compute):
        calls.append(name)
        return compute(device)

    monkeypatch.setattr(engine, "on_device", forced)
    found = registered().field.vectors
    assert calls == ["cpu"]
    assert np.linalg.norm(expected, axis=-1).mean() > 0.3  # there is something to agree on
    assert np.linalg.norm(found - expected, axis=-1).mean() < 1e-3


@pytest.mark.slow
def test_kernels_compile_for_a_gpu():
    """What the interpreter is blind to (types, loops, constants) the compiler sees, and it needs no GPU."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("compile_for_gpu.py")
    result = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=300)
    if result.returncode == 77:
        pytest.skip(result.stdout.strip())
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_benchmark_says_that_there_is_no_gpu(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    import bench_cuda

    with pytest.raises(SystemExit, match="no CUDA device"):
        bench_cuda.main([])
