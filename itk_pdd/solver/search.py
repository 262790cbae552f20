"""Dense displacement search between two images, coarse to fine and symmetric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from itk_pdd import kernels
from itk_pdd.kernels.control_grid.cpu import per_axis, restrict
from itk_pdd.kernels.hamming.cpu import MaskedCosts
from itk_pdd.kernels.mind.cpu import code_bits, mind_features
from itk_pdd.kernels.tree.blocks import min_sum_means
from itk_pdd.kernels.tree.spanning import spanning_tree
from itk_pdd.network.costs import DisplacementSet
from itk_pdd.solver.capture import edge_share
from itk_pdd.solver.operations import HostOperations
from itk_pdd.solver.semantics import ClassMaps
from itk_pdd.solver.settings import Stage

if TYPE_CHECKING:
    from itk_pdd.uncertainty.recorder import Recorder

__all__ = ["WorkingImage", "enlarged", "search"]


@dataclass(frozen=True)
class WorkingImage:
    """An image on the working grid, as a stack of slices.

    Parameters
    ----------
    channels : tuple of numpy.ndarray
        Intensities of each channel, float32 (z, y, x); a 2-D image has z = 1.
    dimension : int
        2 or 3.
    weights : tuple of float
        How much each channel counts beside the others.
    mask : numpy.ndarray, optional
        Voxels that count, bool (z, y, x).
    classes : ClassMaps, optional
        What a trained network says about the image.
    descriptor : callable, optional
        Gives the learned descriptors of intensities (z, y, x), uint64 (z, y, x).
    factor : int
        Working voxels per voxel along each axis.
    """

    channels: tuple[np.ndarray, ...]
    dimension: int
    weights: tuple[float, ...] = (1.0,)
    mask: np.ndarray | None = None
    classes: ClassMaps | None = None
    descriptor: Callable[[np.ndarray], np.ndarray] | None = None
    factor: int = 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along z, y, x."""
        depth, height, width = self.channels[0].shape
        return depth, height, width

    @property
    def similarities(self) -> int:
        """Number of MIND-SSC features per channel and dilation."""
        return 12 if self.dimension == 3 else 4

    def per_axis(self, value: int) -> tuple[int, int, int]:
        """A number for each axis z, y, x; 1 for the missing axis of a 2-D image."""
        return per_axis(value, self.dimension)

    def features(self, dilation: int, channel: int = 0) -> np.ndarray:
        """MIND-SSC features of a channel, uint8 (z, y, x, 16)."""
        array = self.channels[channel]
        return mind_features(array if self.dimension == 3 else array[0], dilation=dilation)

    def codes(
        self, dilations: Sequence[int], operations: Any, *, learned: float = 0.0
    ) -> tuple[Any, tuple[float, ...]]:
        """Binary codes of the features, 64 bits (words, z, y, x), and what a bit of each word is worth.

        There is a word for each channel, of the MIND-SSC features of several dilations, another for each of its learned
        descriptors, where these count (see :class:`itk_pdd.solver.settings.Stage`), and one for the classes.
        """
        bits = code_bits(self.similarities * len(dilations))
        described = learned > 0 and self.descriptor is not None
        channels = len(self.channels)
        codes = operations.no_codes((channels * (1 + described) + (self.classes is not None), *self.shape))
        for channel, code in zip(self.channels, codes, strict=False):
            array = operations.array(channel if self.dimension == 3 else channel[0])
            for i, dilation in enumerate(dilations):
                operations.add_codes(array, code, bits=bits, shift=i * self.similarities * bits, dilation=dilation)
        total = sum(self.weights) * self.similarities * len(dilations) * bits
        scales = [weight / total for weight in self.weights]
        if described:
            assert self.descriptor is not None
            for i, channel in enumerate(self.channels):
                codes[channels + i] = operations.array(self.descriptor(channel))
            words = [weight / (sum(self.weights) * 64) for weight in self.weights]
            scales = [*((1 - learned) * scale for scale in scales), *(learned * word for word in words)]
        if self.classes is not None:
            codes[-1] = self.classes.codes(self.factor, operations)
            scales.append(self.classes.scale)
        return codes, tuple(scales)

    def guide(self, cell: tuple[int, int, int]) -> np.ndarray:
        """Mean intensity of each cell, over the channels scaled alike."""
        return restrict(self.channels[0], cell) if len(self.channels) == 1 else self.contrasts(cell).sum(axis=0)

    def contrasts(self, cell: tuple[int, int, int]) -> np.ndarray:
        """Mean intensity of each cell in each channel, scaled alike and weighted: (channels, z, y, x)."""
        both = zip(self.weights, self.channels, strict=True)
        return np.stack([weight / (np.std(channel) or 1.0) * restrict(channel, cell) for weight, channel in both])

    def shrunk(self, factor: int) -> WorkingImage:
        """The image averaged over blocks of ``factor`` voxels along each axis."""
        if factor == 1:
            return self
        cell = self.per_axis(factor)
        mask = None if self.mask is None else restrict(self.mask, cell) >= 0.5
        channels = tuple(restrict(c, cell) for c in self.channels)
        return replace(self, channels=channels, mask=mask, factor=self.factor * factor)


def search(
    fixed: WorkingImage,
    moving: WorkingImage,
    stages: Sequence[Stage],
    *,
    operations: Any = HostOperations,
    memory: float | None = None,
    progress: Callable[[float, str], None] = lambda fraction, text: None,
    at_edge: Callable[[float, int], None] = lambda share, reach: None,
    recorder: Recorder | None = None,
) -> tuple[np.ndarray, int]:
    """Displacements from the fixed to the moving image, by dense searches from coarse to fine.

    Every stage adds to what was found so far; costs are those of the displaced positions themselves, the images are
    never resampled in between. Both directions are searched and made inverse to each other where a stage asks for it.

    Parameters
    ----------
    fixed, moving : WorkingImage
        Images on one grid.
    stages : sequence of Stage
        From coarse to fine.
    operations : object
        Those of the device that computes, see :func:`itk_pdd.solver.operations.operations`.
    memory : float, optional
        Bytes that the costs of a stage may take on the CPU (see :func:`itk_pdd.kernels.tree.blocks.min_sum_means`); the
        result does not depend on it.
    progress : callable
        Called with the fraction that is done and what is going on.
    at_edge : callable
        Called after the first stage with the share of the structured points whose displacement lies at the edge of its
        range (see :func:`itk_pdd.solver.capture.edge_share`), and with this range in working voxels.
    recorder : Recorder, optional
        Told the distribution of every stage and both fields before they are made consistent, for the uncertainty.

    Returns
    -------
    numpy.ndarray
        Displacements in working voxels, float32 (z, y, x, 3), components x, y, z, at the centres of blocks of working
        voxels: the last control points are no closer, so that a voxel more would tell nothing more.
    int
        Size of these blocks along each axis.
    """
    forward = backward = None
    lattice = shrink = 0
    for number, stage in enumerate(stages):
        name = f"stage {number + 1} of {len(stages)}"
        progress(number / len(stages), name)
        if stage.shrink != shrink:
            shrink = stage.shrink
            images = fixed.shrunk(shrink), moving.shrunk(shrink)
            # Codes of the last resolution are used no more; those of the last dilations may be.
            codes: dict[tuple[Any, ...], list] = {}
        key = (stage.dilations, stage.learned)
        if key not in codes:
            codes = {key: [image.codes(stage.dilations, operations, learned=stage.learned) for image in images]}
        own, other = codes[key]
        # Two values per control point and axis are enough for the field of a stage.
        share = 2 if stage.cell % 2 == 0 and stage.cell > 2 else 1
        before = lattice
        lattice = share * shrink
        parts = [(images[0], own, other, images[1].mask, forward)]
        if stage.consistency:
            parts.append((images[1], other, own, images[0].mask, backward))
        found = []
        for part, (image, mine, others, allowed, field_) in enumerate(parts):
            progress((number + part / len(parts)) / len(stages), name + (", backward" if part else ""))
            listener = recorder if part == 0 else None
            found.append(
                _one_way(operations, image, mine, others, allowed, stage, field_, before, share, memory, listener)
            )
        if number == 0:
            first, cell = images[0], images[0].per_axis(share)
            counted = None if first.mask is None else restrict(first.mask, cell) >= 0.5
            steps, distance = operations.numpy(found[0] * float(lattice)), stage.step * shrink
            at_edge(edge_share(steps, first.contrasts(cell), stage.reach, distance, mask=counted), stage.reach)
        if recorder is not None:
            recorder.fields([operations.numpy(each) for each in found], lattice)
        forward = found[0]
        if stage.consistency:
            forward, backward = operations.make_consistent(*found, iterations=stage.consistency)
    return operations.numpy(forward * float(lattice)), lattice


def _one_way(
    operations: Any,
    image: WorkingImage,
    own: tuple[Any, tuple[float, ...]],
    other: tuple[Any, tuple[float, ...]],
    allowed: np.ndarray | None,
    stage: Stage,
    base: Any,
    lattice: int,
    share: int,
    memory: float | None,
    recorder: Recorder | None = None,
) -> Any:
    """Field of one direction after one stage, in units of and on a lattice of ``share`` voxels of the stage.

    ``base`` is the field so far, in units of and on a lattice of ``lattice`` working voxels.
    """
    cell, step = image.per_axis(stage.cell), image.per_axis(stage.step)
    # In two dimensions there are few voxels in a cell.
    stride = (stage.stride, stage.stride, 1) if image.dimension == 3 else (1, 1, 1)
    radius = (stage.radius if image.dimension == 3 else 0, stage.radius, stage.radius)
    block, found = (1, 1, 1), None
    if base is not None:
        block = image.per_axis(lattice // stage.shrink)
        if any(c % b for c, b in zip(cell, block, strict=True)):
            base, block = enlarged(base, block, image.shape, operations), (1, 1, 1)
        else:
            base = base * float(block[-1])
        found = operations.restrict(base, tuple(c // b for c, b in zip(cell, block, strict=True)))
    options = {"cell": cell, "radius": radius, "step": step, "stride": stride, "base": base, "block": block}
    options |= {"mask": image.mask, "scales": own[1]}
    points = tuple(-(-n // c) for n, c in zip(image.shape, cell, strict=True))
    mean = partial(_mean, stage, radius, step)
    if recorder is not None:
        recorder.begin(stage, points, None if found is None else operations.numpy(found))
        mean = partial(_mean, stage, radius, step, recorder=recorder)
    if stage.regularisation == "tree" and operations.device == "cpu":
        tree = spanning_tree(image.guide(cell))
        costs = MaskedCosts(own[0], other[0], allowed, **options)
        control = min_sum_means(costs, mean, tree, memory=memory, **_smoothness(stage, found)).reshape(*points, 3)
    else:
        costs = operations.masked_costs(own[0], other[0], allowed, **options)
        if stage.regularisation == "tree":
            costs = operations.min_marginals(costs, spanning_tree(image.guide(cell)), **_smoothness(stage, found))
            tensor = operations.tensor(costs)
        else:
            tensor = kernels.regularise(operations.tensor(costs)[..., : 2 * radius[2] + 1].contiguous(), 1.0, 3)
        everywhere = np.arange(int(np.prod(points)))
        control = operations.from_tensor(mean(everywhere, tensor.flatten(0, 2)).reshape(*points, 3))
    if recorder is not None:
        recorder.end(operations.numpy(control))
    control = (control if found is None else found + control) / float(share)
    blocks = image.per_axis(share)
    shape = tuple(-(-n // b) for n, b in zip(image.shape, blocks, strict=True))
    return operations.upsample(control, tuple(c // b for c, b in zip(cell, blocks, strict=True)), shape)


def _smoothness(stage: Stage, found: Any) -> dict[str, Any]:
    """What the min-sum is told beside costs and tree."""
    steps = None if found is None else found / float(stage.step)
    return {"alpha": stage.smoothness, "taps": min(4, stage.radius), "base": steps}


def _mean(
    stage: Stage,
    radius: tuple[int, int, int],
    step: tuple[int, int, int],
    nodes: np.ndarray,
    costs: Any,
    recorder: Recorder | None = None,
) -> Any:
    """Expected displacement in voxels of control points under the softmax of their costs (n, dz, dy, width): (n, 3)."""
    import torch

    tensor = torch.from_numpy(costs) if isinstance(costs, np.ndarray) else costs
    *others, x = DisplacementSet(radius, step).offsets()
    # Those in the padding of a row have no probability.
    offsets = [*others, torch.nn.functional.pad(x, (0, tensor.shape[-1] - len(x)))]
    mean = kernels.displacement_moments(tensor, stage.temperature, offsets).mean
    if recorder is not None:
        recorder.marginals(nodes, tensor, offsets)
    return mean if tensor is costs else mean.numpy()


def enlarged(field: Any, factor: tuple[int, int, int], shape: tuple[int, ...], operations: Any = HostOperations) -> Any:
    """A field in voxels on a grid that is finer by whole factors."""
    if max(factor) == 1:
        return field
    result = operations.upsample(field, factor, shape, order=1)
    result *= float(factor[-1])
    return result
