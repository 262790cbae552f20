"""The paper's feature network: samples at learned offsets (Obelisk), then a small convolutional network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from itk_pdd import kernels
from itk_pdd.errors import RegistrationError

__all__ = ["NORMS", "Obelisk", "RunningNorm", "reference_positions", "with_neighbours"]

NORMS = ("group", "batch", "running")
"""Normalisations of :class:`Obelisk`."""
_GROUPS = 8  # of a group normalisation at the most; what divides its channels is used
_STRIDE = 4  # image voxels per voxel of the first map: an average pooling and a convolution, each with a stride of 2


def _map_size(size: Sequence[int]) -> list[int]:
    return [(n + 3) // 4 for n in size]


def reference_positions(size: Sequence[int], *, stride: int = 3) -> tuple[Tensor, ...]:
    """Return the positions of the author's features: ``n // stride`` along each axis, from corner to corner.

    They are image voxel indices, in double precision. Corners are those of the network's first map, whose last voxel is
    not that of the image in general; so the stride, in image voxels, is a little less than it says.
    """
    return tuple(
        torch.linspace(0, _STRIDE * (m - 1), max(1, n // stride), dtype=torch.float64)
        for n, m in zip(size, _map_size(size), strict=True)
    )


def with_neighbours(
    positions: Sequence[Tensor], window: Sequence[slice]
) -> tuple[tuple[Tensor, ...], tuple[slice, ...]]:
    """Take a window of positions and those beside it, which the second convolution sees; and the window among them."""
    wide = [slice(max(0, w.start - 1), min(len(p), w.stop + 1)) for w, p in zip(window, positions, strict=True)]
    inner = tuple(slice(w.start - v.start, w.stop - v.start) for w, v in zip(window, wide, strict=True))
    return tuple(p[v] for p, v in zip(positions, wide, strict=True)), inner


class RunningNorm(nn.BatchNorm3d):
    """Batch normalisation by the statistics of the training so far, in training as in use.

    What a map becomes at a place does not depend on which part of the map is at hand, so that a training can compute
    parts. No gradient flows through the statistics. The weights are those of a batch normalisation.
    """

    _SHARE = 0.05  # of a new step in the statistics, once there have been 20

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self._seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, values: Tensor) -> Tensor:
        """Normalise a map (1, C, ...); while training, its statistics are kept for :meth:`update`."""
        if self.training:
            with torch.no_grad():
                variance, mean = torch.var_mean(values.detach(), dim=[0, *range(2, values.ndim)], correction=0)
            self._seen.append((mean, variance))
            if self.num_batches_tracked == 0:
                self.running_mean.copy_(mean)
                self.running_var.copy_(variance)
        # Copies: the statistics change before the way back.
        mean, variance = self.running_mean.clone(), self.running_var.clone()
        return nn.functional.batch_norm(values, mean, variance, self.weight, self.bias, eps=self.eps)

    @torch.no_grad()
    def update(self) -> None:
        """Let the maps since the last call, those of one step, count in the statistics."""
        if not self._seen:
            return
        share = max(self._SHARE, 1 / (1 + int(self.num_batches_tracked)))
        for running, seen in zip((self.running_mean, self.running_var), zip(*self._seen, strict=True), strict=True):
            running.lerp_(torch.stack(seen).mean(0), share)
        self.num_batches_tracked += 1
        self._seen.clear()


class Obelisk(nn.Module):
    """Features of a single-channel image, from context gathered at learned offsets.

    The image is averaged over 3 voxels (stride 2) and convolved to 4 channels (5 voxels, stride 2). Around each output
    position this map is sampled at two sets of offsets; the differences of the two are the input of three convolutions
    (1, 3 and 1 voxels wide). With batch normalisation it has 120,780 weights for 16 channels, 270,772 for 24, and the
    names and shapes of the author's published weights.

    Parameters
    ----------
    channels : int
        Number of features; 16 in the paper. Twice as many pairs of offsets are learned.
    norm : {"batch", "group", "running"}
        Normalisation. Batch normalisation is the paper's; with single images in training it works better as group
        normalisation, which has no statistics, or with running ones (see :class:`RunningNorm`).
    extent : sequence of float, optional
        Image voxels, z, y, x, from offset -1 to offset 1. By default the extent of each image's first map, as in
        the paper's network: the same weights then look further in a larger image.
    outside : {"zero", "nearest"}
        What is sampled outside the map: zeros, as in the paper's network, or the value at the border.
    generator : torch.Generator, optional
        Source of the random initial offsets and weights.

    References
    ----------
    M. P. Heinrich, O. Oktay, N. Bouteldja, "OBELISK-Net: Fewer Layers to Solve 3D Multi-Organ Segmentation with
    Sparse Deformable Convolutions", Medical Image Analysis 54, 2019.
    """

    def __init__(
        self,
        *,
        channels: int = 16,
        norm: str = "batch",
        extent: Sequence[float] | None = None,
        outside: str = "zero",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if channels < 1:
            raise RegistrationError(f"channels must be at least 1, found {channels}")
        if norm not in NORMS:
            raise RegistrationError(f"norm must be one of {', '.join(NORMS)}, found {norm!r}")
        if outside not in ("zero", "nearest"):
            raise RegistrationError(f"outside must be 'zero' or 'nearest', found {outside!r}")
        if extent is not None and (len(extent) != 3 or any(not e > 0 for e in extent)):
            raise RegistrationError(f"extent must be 3 numbers above 0, found {extent}")
        self.channels, self.outside = channels, outside
        self.extent = None if extent is None else tuple(float(e) for e in extent)

        def normalisation(features: int) -> nn.Module:
            if norm == "running":
                return RunningNorm(features)
            if norm == "batch":
                return nn.BatchNorm3d(features)
            return nn.GroupNorm(max(g for g in range(1, _GROUPS + 1) if features % g == 0), features)

        self.offsets = nn.Parameter(torch.empty(2, 2 * channels, 3))
        self.layer0 = nn.Conv3d(1, 4, 5, stride=2, padding=2, bias=False)
        self.batch0 = normalisation(4)
        self.layer1 = nn.Conv3d(8 * channels, 4 * channels, 1, bias=False)
        self.batch1 = normalisation(4 * channels)
        self.layer2 = nn.Conv3d(4 * channels, 4 * channels, 3, padding=1, bias=False)
        self.batch2 = normalisation(4 * channels)
        self.layer3 = nn.Conv3d(4 * channels, channels, 1)
        # Offsets begin at a twentieth of the half extent.
        nn.init.normal_(self.offsets, 0, 0.05, generator=generator)
        for layer in (self.layer0, self.layer1, self.layer2, self.layer3):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(self.layer3.bias)

    def forward(
        self, image: Tensor, positions: Sequence[Tensor] | None = None, *, window: Sequence[slice] | None = None
    ) -> Tensor:
        """Compute features on a regular grid of an image (1, z, y, x); CT in units of 500 HU in the published models.

        ``positions`` are image voxel indices along z, y, x where features are wanted; by default every third voxel,
        centred. A ``window`` of slices leaves only some of them. With running or batch statistics in use, the features
        are those that all positions together would get; a group normalisation takes the statistics of the window.
        """
        if image.ndim != 4 or image.shape[0] != 1:
            raise RegistrationError(f"image must have one channel and 3 spatial axes, found shape {tuple(image.shape)}")
        size = image.shape[1:]
        if positions is None:
            positions = [
                torch.arange(max(1, n // 3), dtype=torch.float64) * 3 + (n - 1 - 3 * (max(1, n // 3) - 1)) / 2
                for n in size
            ]
        first = torch.relu(
            self.batch0(self.layer0(nn.functional.avg_pool3d(image.unsqueeze(0), 3, stride=2, padding=1)))
        )[0]
        half = [
            (m - 1) / 2 if self.extent is None else self.extent[axis] / (2 * _STRIDE)
            for axis, m in enumerate(first.shape[1:])
        ]
        inner: Sequence[slice] = [slice(None)] * 3
        if window is not None:
            positions, inner = with_neighbours(positions, window)
        centres = [p.to(self.offsets) / _STRIDE for p in positions]
        # Offsets have components x, y, z, the axes are z, y, x.
        shifts = self.offsets.flip(-1) * torch.tensor(half).to(self.offsets)
        gathered = kernels.shifted_differences(first, centres, shifts, outside=self.outside)
        # The channels of the map are outside, the offsets inside, as in the author's layout.
        gathered = gathered.flatten(0, 1).unsqueeze(0)
        if torch.is_grad_enabled():
            # The same with the channels innermost in memory, where the way back through layer2 is faster on a CPU.
            rows = nn.functional.linear(gathered.flatten(2)[0].t(), self.layer1.weight.flatten(1))
            gathered = rows.unflatten(0, gathered.shape[2:]).permute(3, 0, 1, 2).unsqueeze(0)
        else:
            gathered = self.layer1(gathered)
        gathered = torch.relu(self.batch1(gathered))
        gathered = torch.relu(self.batch2(self.layer2(gathered)))
        return self.layer3(gathered[(..., *inner)])[0]

    def update_statistics(self) -> None:
        """Let what was computed since the last call count in running statistics, where there are any."""
        for module in self.modules():
            if isinstance(module, RunningNorm):
                module.update()

    def extra_repr(self) -> str:
        weights = sum(p.numel() for p in self.parameters())
        return f"channels={self.channels}, outside={self.outside!r}, {weights:,} weights"
