"""The fast kernels against the plain torch definitions: same numbers, same gradients, for any size."""

from __future__ import annotations

import concurrent.futures
import multiprocessing

import numpy as np
import pytest
import torch

from itk_pdd import kernels
from itk_pdd.errors import RegistrationError
from itk_pdd.kernels.moments.definition import displacement_moments
from itk_pdd.kernels.regularisation import definition as regularisation
from itk_pdd.network.costs import ControlGrid, DisplacementSet

# Control points, displacements, fixed size, moving size, channels: odd, 1, even, non-cubic, longer than a block, 2-D.
SIZES = [
    ((3, 4, 5), (3, 5, 7), (8, 9, 11), (8, 9, 11), 3),
    ((1, 1, 1), (1, 1, 1), (1, 1, 1), (1, 1, 1), 1),
    ((2, 3, 9), (1, 3, 15), (6, 7, 8), (5, 9, 4), 16),
    ((2, 1, 2), (2, 2, 4), (5, 4, 3), (5, 4, 3), 6),
    ((6, 7), (5, 3), (9, 12), (9, 12), 4),
    ((1, 40), (3, 9), (2, 40), (3, 37), 5),
    ((2, 3), (3, 150), (9, 12), (9, 12), 2),
]
TOLERANCE = {torch.float32: {"rtol": 2e-5, "atol": 2e-5}, torch.float64: {"rtol": 1e-11, "atol": 1e-12}}
sizes = pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}-{s[1]}".replace(" ", ""))
dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


def problem(size, dtype, seed=0):
    points, displacements, fixed, moving, channels = size
    generator = np.random.default_rng(seed)
    lattice = {
        "positions": [torch.from_numpy(generator.uniform(-1, n, k)) for n, k in zip(fixed, points, strict=True)],
        "displacements": [
            torch.from_numpy(np.sort(generator.uniform(-3, 3, d)) if d > 1 else np.zeros(1)) for d in displacements
        ],
    }
    fixed, moving, costs = (
        torch.from_numpy(generator.random(shape)).to(dtype)
        for shape in ((channels, *fixed), (channels, *moving), (*points, *displacements))
    )
    return fixed, moving, costs, lattice


def compare(function, *inputs):
    """Results and gradients of all inputs that want one, by the kernels and by the definition."""
    found = []
    for kind in ("fast", "torch"):
        copies = [i.detach().clone().requires_grad_(i.requires_grad) for i in inputs]
        with kernels.use(kind):
            results = function(*copies)
        results = [r for r in (results if isinstance(results, tuple) else (results,)) if r is not None]
        generator = torch.Generator().manual_seed(1)
        wanted = [torch.rand(r.shape, dtype=r.dtype, generator=generator) for r in results]
        torch.autograd.backward(results, wanted)
        gradients = [torch.zeros_like(c) if c.grad is None else c.grad for c in copies if c.requires_grad]
        found.append([*results, *gradients])
    for fast, plain in zip(*found, strict=True):
        assert fast.dtype == plain.dtype
        torch.testing.assert_close(fast, plain, **TOLERANCE[plain.dtype])


@pytest.mark.parametrize("seed", range(6))
def test_random_sizes(seed):
    """All operations and their gradients, at sizes that nobody chose."""
    rng = np.random.default_rng(seed)
    dimension = 2 + seed % 2
    points, displacements, fixed, moving = (tuple(rng.integers(1, most, dimension)) for most in (5, 7, 9, 9))
    size = (points, displacements, fixed, moving, int(rng.integers(1, 20)))
    fixed, moving, costs, lattice = problem(size, torch.float64, seed)
    compare(lambda f, m: kernels.displacement_costs(f, m, **lattice), fixed.requires_grad_(), moving.requires_grad_())
    compare(lambda c: kernels.regularise(c, 0.6, dimension), costs.requires_grad_())
    compare(lambda c: tuple(kernels.displacement_moments(c, 5.0, lattice["displacements"], second=True)), costs)
    compare(lambda c: kernels.expected_values(c, 5.0, moving.detach(), **lattice), costs)


@sizes
@dtypes
def test_costs(size, dtype):
    fixed, moving, _, lattice = problem(size, dtype)
    weights = torch.linspace(0.5, 1.5, len(fixed), dtype=dtype).requires_grad_()
    compare(
        lambda f, m, w: kernels.displacement_costs(f, m, weights=w, **lattice),
        fixed.requires_grad_(),
        moving.requires_grad_(),
        weights,
    )


@sizes
@dtypes
def test_smoothing(size, dtype):
    costs, dimension = problem(size, dtype)[2].requires_grad_(), len(size[0])
    compare(lambda c: kernels.min_convolution(c, dimension), costs)
    compare(lambda c: kernels.mean_field(c, dimension), costs)


@sizes
@dtypes
@pytest.mark.parametrize(
    "settings", [{}, {"rounds": 3}, {"rounds": 1}, {"convolve": False}, {"average": False}, {"rounds": 0}], ids=str
)
def test_rounds(size, dtype, settings):
    costs, dimension = problem(size, dtype)[2], len(size[0])
    ratio = torch.tensor(0.7, dtype=dtype)
    compare(
        lambda c, r: kernels.regularise(c, r, dimension, **settings), costs.requires_grad_(), ratio.requires_grad_()
    )
    # In place, where no gradients are wanted: the costs stay.
    costs, before = costs.detach(), costs.detach().clone()
    plain = regularisation.regularise(costs, ratio.detach(), dimension, **settings)
    torch.testing.assert_close(kernels.regularise(costs, 0.7, dimension, **settings), plain, **TOLERANCE[dtype])
    assert torch.equal(costs, before)


@sizes
@dtypes
@pytest.mark.parametrize("second", [False, True])
def test_moments(size, dtype, second):
    _, _, costs, lattice = problem(size, dtype)
    temperature = torch.tensor(6.0, dtype=dtype)
    compare(
        lambda c, t: tuple(kernels.displacement_moments(c, t, lattice["displacements"], second=second)),
        costs.requires_grad_(),
        temperature.requires_grad_(),
    )


@sizes
@dtypes
def test_expected_values(size, dtype):
    _, moving, costs, lattice = problem(size, dtype)
    temperature = torch.tensor(6.0, dtype=dtype)
    compare(
        lambda c, t: kernels.expected_values(c, t, moving, **lattice),
        costs.requires_grad_(),
        temperature.requires_grad_(),
    )


@pytest.mark.parametrize("size", [((2, 1, 2), (2, 3, 2), (3, 3, 3), (3, 4, 3), 2), ((2, 2), (3, 2), (4, 3), (4, 3), 2)])
def test_gradients_by_differences(size):
    fixed, moving, _, lattice = problem(size, torch.float64)
    dimension = len(size[0])
    temperature = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)

    def everything(fixed, moving, temperature):
        costs = kernels.displacement_costs(fixed, moving, **lattice)
        smooth = kernels.regularise(costs, 0.4, dimension)
        moments = kernels.displacement_moments(smooth, temperature, lattice["displacements"], second=True)
        return *moments, kernels.expected_values(smooth, temperature, labels, **lattice)

    labels = torch.rand_like(moving)
    assert torch.autograd.gradcheck(everything, (fixed.requires_grad_(), moving.requires_grad_(), temperature))


def test_equal_minima_give_the_gradient_to_the_first():
    generator = torch.Generator().manual_seed(0)
    for shape in ((4, 3, 2, 4, 5, 3), (3, 3, 6, 5)):
        # Few different values: ties everywhere.
        costs = torch.randint(0, 3, shape, generator=generator).double()
        compare(lambda c: kernels.min_convolution(c, c.ndim // 2), costs.requires_grad_())


def test_an_image_costs_nothing_against_itself():
    image = torch.rand(5, 9, 10, 11)
    lattice = {
        "positions": ControlGrid.covering((9, 10, 11), shape=(5, 6, 6)).positions(),
        "displacements": DisplacementSet((2, 3, 1), (1.1, 0.9, 2.0)).offsets(),
    }
    costs = kernels.displacement_costs(image, image, **lattice)
    assert costs[:, :, :, 2, 3, 1].abs().max() < 1e-12
    assert costs.min() >= 0


def test_leading_axes():
    costs = torch.rand(2, 3, 4, 5, 3, 3, dtype=torch.float64)
    for function in (kernels.min_convolution, kernels.mean_field):
        together = function(costs, 2)
        for i in range(2):
            for j in range(3):
                torch.testing.assert_close(together[i, j], function(costs[i, j].clone(), 2))


@pytest.mark.parametrize("step", [0.5, 1.0, 2.6])
def test_steps_that_divide_the_spacing(step):
    # Few different positions: the moving map is sampled there first.
    fixed, moving = (torch.rand(3, 14, 17, 90, dtype=torch.float64) for _ in range(2))
    lattice = {
        "positions": [torch.arange(n, dtype=torch.float64) * 2 * step + 3 * step + 0.3 for n in (2, 3, 5)],
        "displacements": [torch.arange(-r, r + 1, dtype=torch.float64) * step for r in (1, 2, 3)],
    }
    places = kernels._reduced(moving, **lattice)[0].shape
    assert places[3] == 4 * 2 + 2 * 3 + 1 and places[1] <= 5
    compare(lambda f, m: kernels.displacement_costs(f, m, **lattice), fixed.requires_grad_(), moving.requires_grad_())
    costs = torch.rand(2, 3, 5, 3, 5, 7, dtype=torch.float64, requires_grad=True)
    compare(lambda c: kernels.expected_values(c, 3.0, moving.detach(), **lattice), costs)


def test_any_memory_layout():
    fixed, moving, costs, lattice = problem(SIZES[0], torch.float32)
    expected = kernels.displacement_costs(fixed, moving, **lattice)
    strided = [t.movedim(0, -1).contiguous().movedim(-1, 0) for t in (fixed, moving)]
    assert torch.equal(kernels.displacement_costs(*strided, **lattice), expected)
    strided = costs.transpose(0, -1).contiguous().transpose(0, -1)
    assert torch.equal(kernels.min_convolution(strided, 3), kernels.min_convolution(costs, 3))


def test_large_costs_and_low_temperatures_do_not_overflow():
    costs = torch.tensor([[[0.0, 5000.0, 10000.0]]])[None]
    displacements = [torch.zeros(1), torch.tensor([-1.0, 0.0, 1.0])]
    moments = kernels.displacement_moments(costs, 50.0, displacements, second=True)
    assert torch.equal(moments.mean.flatten(), torch.tensor([-1.0, 0.0]))
    assert moments.entropy.item() == 0 and moments.log_partition.item() == 0
    moments = kernels.displacement_moments(costs + 1e6, 1e-3, displacements)
    expected = torch.softmax(torch.tensor([0.0, -5.0, -10.0]), dim=0) @ torch.tensor([-1.0, 0.0, 1.0])
    assert moments.mean.flatten()[0].item() == pytest.approx(expected.item(), abs=1e-6)


def test_moments_accumulate_over_many_displacements_without_drift():
    costs = torch.rand(1, 1, 1, 31, 31, 31, generator=torch.Generator().manual_seed(0))
    displacements = [torch.arange(-15.0, 16.0)] * 3
    fast = kernels.displacement_moments(costs, 1.0, displacements, second=True)
    exact = displacement_moments(costs.double(), 1.0, displacements, second=True)
    for one, other in zip(fast, exact, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-4)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def everything(size=SIZES[2]):
    fixed, moving, _, lattice = problem(size, torch.float32)
    fixed.requires_grad_(), moving.requires_grad_()
    smooth = kernels.regularise(kernels.displacement_costs(fixed, moving, **lattice), 0.5, 3)
    moments = kernels.displacement_moments(smooth, 3.0, lattice["displacements"], second=True)
    labels = kernels.expected_values(smooth, 3.0, moving.detach(), **lattice)
    (moments.mean.square().sum() + moments.covariance.sum() + labels.square().sum()).backward()
    return [t.detach() for t in (smooth, *moments, labels, fixed.grad, moving.grad)]


def test_the_number_of_threads_changes_nothing(two_threads):
    several = everything()
    torch.set_num_threads(1)
    for one, other in zip(everything(), several, strict=True):
        assert torch.equal(one, other)


def test_kernels_run_in_several_threads_at_once(two_threads):
    expected = everything()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: everything(), range(8)):
            assert all(torch.equal(one, other) for one, other in zip(result, expected, strict=True))


def _in_child(queue):
    torch.set_num_threads(2)
    queue.put([t.numpy() for t in everything()])


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
def test_kernels_run_in_a_forked_process(two_threads):
    expected = everything()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue,))
    child.start()
    result = queue.get(timeout=60)
    child.join(timeout=60)
    assert all(np.array_equal(one, other.numpy()) for one, other in zip(result, expected, strict=True))


def test_errors_in_threads_reach_the_caller(two_threads):
    from itk_pdd.kernels.parallel import run

    def fails(first, last):
        raise ValueError(f"item {first}")

    with pytest.raises(ValueError, match="item"):
        run(fails, 10)
    done = []
    run(lambda first, last: done.extend(range(first, last)), 11, grain=3)
    assert sorted(done) == list(range(11))


def test_other_types_use_the_definition():
    fixed, moving, costs, lattice = problem(SIZES[0], torch.float32)
    half = kernels.displacement_costs(fixed.bfloat16(), moving.bfloat16(), **lattice)
    assert half.dtype == torch.bfloat16
    with kernels.use("torch"):
        assert torch.equal(kernels.min_convolution(costs, 3), regularisation.min_convolution(costs, 3))
    with pytest.raises(RegistrationError, match="found 'slow'"), kernels.use("slow"):
        pass
