"""Dense displacement search between two images, coarse to fine and symmetric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from itk_pdd.geometry.blockfield import BlockField
from itk_pdd.kernels.hamming.cpu import MaskedCosts
from itk_pdd.kernels.operations import HOST, Array, Operations
from itk_pdd.kernels.tree.blocks import min_sum_means
from itk_pdd.kernels.tree.spanning import spanning_tree
from itk_pdd.solver.capture import edge_share
from itk_pdd.solver.landmarks import PulledCosts, Pulls
from itk_pdd.solver.settings import Stage
from itk_pdd.solver.working import WorkingImage

__all__ = ["Listener", "search"]


class Listener(Protocol):
    """Hears the distributions and fields of the search from the fixed to the moving image, stage by stage."""

    def begin(self, before: BlockField, *, scale: int, step: int, count: int, temperature: float) -> None:
        """Hear that a stage begins: ``before`` are the displacements of its control points, on the host.

        There are ``count`` displacements along each axis, ``step`` of the stage's voxels apart, which are ``scale``
        working voxels each; ``temperature`` is the factor of the costs in the softmax over them.
        """

    def marginals(self, nodes: np.ndarray, costs: Any, offsets: Sequence[Any]) -> None:
        """Hear the regularised costs (n, dz, dy, width) of control points (n,), counted through; each is told once.

        ``offsets`` are the displacements along z, y, x in voxels of the stage, padded with zeros along x.
        """

    def end(self, increment: np.ndarray) -> None:
        """Hear the displacements (kz, ky, kx, 3) that the stage adds, in its voxels."""

    def fields(self, forward: BlockField, backward: BlockField) -> None:
        """Hear the fields of both directions of a stage before they are made consistent, on the host."""


@dataclass(frozen=True)
class _Side:
    """One of the two images as a stage compares it: its codes, the worth of a bit of each word, and its full shape."""

    image: WorkingImage
    shape: tuple[int, int, int]
    codes: Array
    scales: tuple[float, ...]


def search(
    fixed: WorkingImage,
    moving: WorkingImage,
    stages: Sequence[Stage],
    *,
    operations: Operations = HOST,
    memory: float | None = None,
    progress: Callable[[float, str], None] = lambda fraction, text: None,
    at_edge: Callable[[float, int], None] = lambda share, reach: None,
    listener: Listener | None = None,
    pulls: Pulls | None = None,
) -> BlockField:
    """Find the displacements from the fixed to the moving image by dense searches from coarse to fine.

    Every stage adds to the field found so far; costs are those of the displaced positions themselves, the images are
    never resampled in between. Both directions are searched and made inverse to each other where a stage asks for it.
    The result is on the host; its blocks are no smaller than the last control points need.

    ``memory`` are bytes that the costs of a stage may take on the CPU (see
    :func:`itk_pdd.kernels.tree.blocks.min_sum_means`), on which the result does not depend. ``at_edge`` is called after
    the first stage with the share of the structured points at the edge of its range (see
    :func:`itk_pdd.solver.capture.edge_share`), and with this range in working voxels. ``listener`` hears the
    distribution of every stage and both fields before they are made consistent, for the uncertainty. ``pulls`` are
    landmarks: displacements near theirs cost less.
    """
    forward: BlockField | None = None
    backward: BlockField | None = None
    images: tuple[WorkingImage, ...] = ()
    sides: list[_Side] = []
    compared: tuple[Any, ...] = ()

    def encoded(image: WorkingImage, stage: Stage) -> Callable[[], tuple[Array, tuple[float, ...]]]:
        return partial(image.codes, stage.dilations, operations, learned=stage.learned)

    for number, stage in enumerate(stages):
        name = f"stage {number + 1} of {len(stages)}"
        progress(number / len(stages), name)
        if (stage.shrink, stage.dilations, stage.learned) != compared:
            if not compared or stage.shrink != compared[0]:
                images = fixed.shrunk(stage.shrink), moving.shrunk(stage.shrink)
            compared, sides = (stage.shrink, stage.dilations, stage.learned), []
            sides = [
                _Side(image, fixed.shape, *image.once(("codes", *compared), encoded(image, stage), operations))
                for image in images
            ]
        ways = [(sides[0], sides[1], forward)]
        if stage.consistency:
            ways.append((sides[1], sides[0], backward))
        found = []
        for part, (own, other, before) in enumerate(ways):
            progress((number + part / len(ways)) / len(stages), name + (", backward" if part else ""))
            hears = listener if part == 0 else None
            near = pulls.reversed if part and pulls is not None else pulls
            options: dict[str, Any] = {"operations": operations, "memory": memory, "listener": hears}
            found.append(_one_way(own, other, stage, before, near, **options))
        if number == 0:
            at_edge(_share_at_edge(images[0], found[0], stage), stage.reach)
        forward = found[0]
        if stage.consistency:
            if listener is not None:
                listener.fields(*(field.on(HOST) for field in found))
            # Composed in units of their blocks.
            there, back = (field.vectors / float(field.size) for field in found)
            both = operations.make_consistent(there, back, iterations=stage.consistency)
            forward, backward = (f.with_vectors(v * float(f.size)) for f, v in zip(found, both, strict=True))
    assert forward is not None
    return forward.on(HOST)


def _one_way(
    own: _Side,
    other: _Side,
    stage: Stage,
    before: BlockField | None,
    pulls: Pulls | None,
    *,
    operations: Operations,
    memory: float | None,
    listener: Listener | None = None,
) -> BlockField:
    """Search from one image to the other, and add the displacements to the field before."""
    image, size = own.image, stage.cell * stage.shrink
    cell, step = image.per_axis(stage.cell), image.per_axis(stage.step)
    # In two dimensions there are few voxels in a cell.
    stride = (stage.stride, stage.stride, 1) if image.dimension == 3 else (1, 1, 1)
    radius = (stage.radius if image.dimension == 3 else 0, stage.radius, stage.radius)
    found = BlockField.zeros(size, own.shape, image.dimension, operations)
    # In voxels of the stage: the displacements before it at their blocks, and at its control points.
    base, block, start = None, (1, 1, 1), None
    if before is not None:
        if size % before.size or before.size % stage.shrink:
            before = before.resized(stage.shrink)
        base, block = before.vectors / float(stage.shrink), image.per_axis(before.size // stage.shrink)
        found = before.restricted(size)
        start = found.vectors / float(stage.shrink)
    if listener is not None:
        listener.begin(
            found.on(HOST), scale=stage.shrink, step=stage.step, count=2 * stage.radius + 1,
            temperature=stage.temperature,
        )  # fmt: skip
    options: dict[str, Any] = {
        "cell": cell,
        "radius": radius,
        "step": step,
        "stride": stride,
        "base": base,
        "block": block,
    }
    options |= {"mask": image.mask, "scales": own.scales}
    mean = partial(_mean, stage, radius, step, operations=operations, listener=listener)
    tree = image.once(("tree", cell), lambda: spanning_tree(image.guide(cell)))
    # Differences of neighbours are counted in steps.
    smooth: dict[str, Any] = {"alpha": stage.smoothness, "taps": min(4, stage.radius)}
    smooth["base"] = None if start is None else start / float(stage.step)
    if operations.device == "cpu":
        costs: Any = MaskedCosts(own.codes, other.codes, other.image.mask, **options)
        if pulls is not None:
            costs = PulledCosts(costs, pulls.costs(stage, found), _offsets(radius, step, costs.displacements[2]))
        increment = min_sum_means(costs, mean, tree, memory=memory, **smooth).reshape(*found.nodes, 3)
    else:
        costs = operations.masked_costs(own.codes, other.codes, other.image.mask, **options)
        if pulls is not None:
            # Landmarks are few: their costs are added by the CPU.
            every = operations.numpy(costs).reshape(-1, *costs.shape[-3:])
            offsets = _offsets(radius, step, costs.shape[-1])
            pulls.costs(stage, found.on(HOST)).add(every, np.arange(len(every)), offsets)
            costs = operations.array(every).reshape(costs.shape)
        marginals = operations.min_marginals(costs, tree, **smooth).flatten(0, 2)
        increment = mean(np.arange(len(marginals)), marginals).reshape(*found.nodes, 3)
    if listener is not None:
        listener.end(operations.numpy(increment))
    control = (increment if start is None else start + increment) * float(stage.shrink)
    # Two displacements per control point and axis are enough for the field of a stage.
    fine = BlockField.zeros(stage.shrink * stage.share, own.shape, image.dimension, operations)
    return fine.with_vectors(operations.upsample(control, image.per_axis(stage.cell // stage.share), fine.nodes))


def _mean(
    stage: Stage,
    radius: tuple[int, int, int],
    step: tuple[int, int, int],
    nodes: np.ndarray,
    costs: Array,
    *,
    operations: Operations,
    listener: Listener | None,
) -> Array:
    """Average the displacements of control points under the softmax of their costs (n, dz, dy, width): (n, 3)."""
    offsets = _offsets(radius, step, costs.shape[-1])
    mean = operations.moments(costs, stage.temperature, offsets)[0]
    if listener is not None:
        listener.marginals(nodes, costs, offsets)
    return mean


def _offsets(radius: tuple[int, int, int], step: tuple[int, int, int], width: int) -> list[np.ndarray]:
    """List the displacements along z, y and x; those in the padding of a row have no probability."""
    offsets = [np.arange(-r, r + 1.0) * s for r, s in zip(radius, step, strict=True)]
    offsets[2] = np.pad(offsets[2], (0, width - len(offsets[2])))
    return offsets


def _share_at_edge(image: WorkingImage, found: BlockField, stage: Stage) -> float:
    """Measure the share of the structured points whose displacement lies at the edge of the range of a stage."""
    cell = image.per_axis(stage.share)
    vectors = found.operations.numpy(found.vectors)
    step = stage.step * stage.shrink
    return edge_share(vectors, image.contrasts(cell), stage.reach, step, mask=image.counted(cell))
