"""What the search tells about its certainty."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from itk_pdd import kernels
from itk_pdd.geometry.blockfield import BlockField, relaid
from itk_pdd.network.distribution import DisplacementDistribution
from itk_pdd.uncertainty.agreement import agreement
from itk_pdd.uncertainty.recorder import Recorder, StageRecord


def recorded(costs: np.ndarray, found: np.ndarray | None = None) -> StageRecord:
    """The record of one stage with these costs, (kz, ky, kx, 5, 5, 5), in rows padded to 8."""
    offsets = [torch.arange(-2.0, 3.0, dtype=torch.float64) * 3 for _ in range(3)]
    distribution = DisplacementDistribution(
        torch.from_numpy(costs), temperature=4.0, positions=[torch.arange(n) for n in costs.shape[:3]],
        displacements=offsets,
    )  # fmt: skip
    moments = kernels.displacement_moments(distribution.costs, 4.0, offsets, second=True)
    padded = np.full((*costs.shape[:5], 8), 1e9, np.float32)
    padded[..., :5] = costs
    recorder = Recorder()
    row = np.pad(offsets[2].numpy(), (0, 3))
    points = costs.shape[:3]
    before = BlockField.zeros(2, tuple(2 * n for n in points), 3)
    before = before if found is None else before.with_vectors(found)
    recorder.begin(before, scale=1, step=3, count=5, temperature=4.0)
    # In parts and out of order, as the blocks of the min-sum are.
    nodes = np.random.default_rng(1).permutation(int(np.prod(points)))
    for part in np.array_split(nodes, 2):
        recorder.marginals(part, padded.reshape(-1, *padded.shape[3:])[part], [*(o.numpy() for o in offsets[:2]), row])
    recorder.end(moments.mean.numpy())
    return recorder.stages[0], distribution


def modes_of(probabilities: np.ndarray) -> list[tuple[np.ndarray, float]]:
    """Displacements of a control point that are more probable than all neighbours, with the probability around them."""
    padded = np.pad(probabilities, 1, constant_values=0.0)
    around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3, 3))
    summits = np.argwhere(probabilities >= around.max(axis=(3, 4, 5)))
    order = sorted(map(tuple, summits), key=lambda index: -probabilities[index])
    return [((np.array(index[::-1]) - 2.0) * 3, float(around[index].sum())) for index in order]


def test_hypotheses_are_the_modes_of_the_distribution() -> None:
    costs = np.random.default_rng(0).uniform(0, 6, (3, 2, 4, 5, 5, 5)).astype(np.float32)
    record, distribution = recorded(costs)
    probabilities = distribution.probabilities().numpy()
    assert len(record.where) > 8, "noise has several modes in many places"
    for where, found, weight in zip(record.where, record.modes, record.weights, strict=True):
        known = ~np.isnan(found[:, 0])
        best = probabilities[tuple(where)].max()
        # Those of at least a fifth of the best one's probability.
        own, weights = map(np.array, zip(*modes_of(probabilities[tuple(where)]), strict=True))
        index = [tuple(np.round(m[::-1] / 3 + 2).astype(int)) for m in own]
        high = [n for n, i in enumerate(index) if probabilities[tuple(where)][i] >= 0.2 * best * (1 - 1e-5)]
        expected = own[high]
        assert {tuple(v) for v in found[known]} == {tuple(v) for v in expected}
        assert 1 < len(high) <= 8
        assert weight[known] == pytest.approx(np.sort(weights[high])[::-1], rel=1e-4)


def test_one_hypothesis_is_no_choice() -> None:
    x = np.arange(-2.0, 3)
    bowl = sum(np.meshgrid(x**2, x**2, x**2, indexing="ij")).astype(np.float32)
    record, _ = recorded(np.broadcast_to(bowl, (2, 2, 2, 5, 5, 5)).copy())
    assert len(record.where) == 0


def test_width_has_the_quantisation_as_its_floor() -> None:
    sure = np.ones((2, 2, 2, 5, 5, 5), np.float32) * 100
    sure[..., 2, 2, 2] = 0
    record, _ = recorded(sure)
    assert record.width == pytest.approx(np.sqrt(3 * 3**2 / 12))


def test_what_was_found_before_is_part_of_the_displacements() -> None:
    costs = np.random.default_rng(1).uniform(0, 0.5, (2, 2, 2, 5, 5, 5)).astype(np.float32)
    before = np.random.default_rng(2).uniform(-9, 9, (2, 2, 2, 3)).astype(np.float32)
    alone, moved = recorded(costs)[0], recorded(costs, before)[0]
    assert moved.mean == pytest.approx(alone.mean + before, abs=1e-4)
    expected = alone.modes + before[tuple(alone.where.T)][:, None]
    assert moved.modes == pytest.approx(expected, abs=1e-4, nan_ok=True)


def test_disagreement_is_where_a_point_ends_after_going_there_and_back() -> None:
    recorder = Recorder()
    recorder.stages.append(SimpleNamespace(block=(4, 4, 4)))
    forward, backward = (np.zeros((4, 4, 4, 3), np.float32) for _ in range(2))
    forward[..., 0], backward[..., 0] = 1.0, -0.5
    recorder.fields(*(BlockField(2 * vectors, 2, (8, 8, 8), 3) for vectors in (forward, backward)))
    assert recorder.stages[0].disagreement == pytest.approx(0.5 * 2), "half a block of two voxels"


def test_values_are_carried_to_another_lattice() -> None:
    shape = (24, 36, 48)

    def plane(block: int) -> np.ndarray:
        z, y, x = np.meshgrid(*[(np.arange(n // block) + 0.5) * block - 0.5 for n in shape], indexing="ij")
        return (x + 2 * y - 3 * z).astype(np.float32)

    inside = slice(1, -1)
    found = relaid(plane(6), (6, 6, 6), (4, 4, 4), shape)
    assert found.shape == (6, 9, 12)
    assert found[inside, inside, inside] == pytest.approx(plane(4)[inside, inside, inside], abs=1e-4)


def test_remaining_displacement_is_seen() -> None:
    z, y, x = np.meshgrid(*[np.arange(n, dtype=np.float32) for n in (24, 28, 32)], indexing="ij")

    def pattern(dx: float, dy: float, dz: float) -> np.ndarray:
        return (np.sin((x - dx) / 3) + np.cos((y - dy) / 4) + np.sin((z - dz) / 3.5))[..., None].astype(np.float32)

    still = np.zeros((6, 7, 8, 3), np.float32)
    sums = agreement(
        pattern(0, 0, 0), pattern(0.4, -0.3, 0.2), still, block=(4, 4, 4), cell=(8, 8, 8), stride=(1, 1, 1), channels=1
    )
    step = np.linalg.solve(sums.normal, sums.slope[..., None])[1, 1, 1, :, 0]
    assert step == pytest.approx([0.4, -0.3, 0.2], abs=0.05)
    # Nothing leaves the image. The last cells along y are cut in half; means over neighbours weigh 1, 2, 1.
    assert sums.count[:, 1, :] == pytest.approx(8**3)
    assert sums.count[:, -1, :] == pytest.approx(8**3 * (1 + 2 / 2 + 1 / 2) / 4)
    assert sums.total == pytest.approx(sums.count)


def test_mask_and_border_leave_samples_out() -> None:
    image = np.random.default_rng(0).normal(size=(8, 8, 8, 1)).astype(np.float32)
    away = np.zeros((8, 8, 8, 3), np.float32)
    away[..., 0] = 4
    options = {"block": (1, 1, 1), "cell": (8, 8, 8), "stride": (1, 1, 1), "channels": 1}
    assert agreement(image, image, away, **options).count == pytest.approx(8 * 8 * 4), "half leaves the image"
    mask = np.zeros((8, 8, 8), bool)
    mask[:2] = True
    assert agreement(image, image, 0 * away, mask=mask, **options).count == pytest.approx(2 * 64)
    assert agreement(image, image, 0 * away, allowed=mask, **options).count == pytest.approx(2 * 64)
