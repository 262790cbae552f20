"""Features of images by a user's own network: a TorchScript or ONNX file, or a callable.

The conventions are those of itk-impact: a tensor N x C x D x H x W goes in, one tensor of features or a list of them
(one for each layer) comes out, and the network prepares the intensities itself unless the card says how.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from itk_pdd.errors import RegistrationError, counted
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.resampling import resample
from itk_pdd.io.volume import Volume
from itk_pdd.network.feature_card import FeatureCard
from itk_pdd.network.preparation import canonical_volume

__all__ = ["FeatureCard", "FeatureNetwork", "load_features"]

_WHOLE = 2_500_000  # voxels that a network looks at at once where the card names no patch
_NO_MEMORY = re.compile("not enough memory|out of memory|cannot allocate memory|alloc", re.IGNORECASE)  # in errors
_PATCH, _OVERLAP = 128, 0.25  # voxels along an axis of a patch of a larger image, and the share that patches overlap


@dataclass(frozen=True)
class FeatureNetwork:
    """A network of features and its card."""

    # From a float32 tensor N x C x (D x) H x W to a tensor of features or a sequence of them.
    run: Callable[[Tensor], Any]
    card: FeatureCard
    name: str = "features"  # for errors

    def features(self, channels: Sequence[Volume], spacing: float) -> tuple[np.ndarray, Grid]:
        """Compute the features of an image, float32 (z, y, x, features), one slice in 2-D; also return where they lie.

        ``spacing`` is the voxel size in millimetres where the card names none. RegistrationError if the network cannot
        look at such an image, gives something else than features, or NaN.
        """
        volumes = [canonical_volume(channel) for channel in channels]
        grid = volumes[0].grid.with_spacing(self.card.spacing or spacing)
        image = np.stack([self._prepared(resample(volume, grid).array) for volume in volumes])
        if len(image) != self.card.channels:
            if len(image) > 1:
                raise RegistrationError(
                    f"{self.name} takes {self.card.channels} channels, but the images have {len(image)}: see the card"
                )
            image = np.repeat(image, self.card.channels, axis=0)
        dimension = self.card.dimension or grid.dimension
        if dimension > grid.dimension:
            raise RegistrationError(f"{self.name} is for {dimension}-D images, but these are {grid.dimension}-D")
        found, stride = self._answer(torch.from_numpy(image), dimension)
        if not np.isfinite(found).all():
            raise RegistrationError(f"{self.name} gives NaN or infinite features: check the intensities it expects")
        answer = _strided(grid, stride, found.shape[1:])
        return np.ascontiguousarray(np.moveaxis(found if grid.dimension == 3 else found[:, None], 0, -1)), answer

    def _prepared(self, array: np.ndarray) -> np.ndarray:
        card, array = self.card, np.asarray(array, np.float32)
        if card.low is not None and card.high is not None:
            share = np.clip((array - np.float32(card.low)) / np.float32(card.high - card.low), 0, 1)
            array = np.float32(card.to[0]) + share * np.float32(card.to[1] - card.to[0])
        if card.mean is not None:
            array = array - np.float32(array.mean() if card.mean == "image" else card.mean)
        if card.std is not None:
            array = array / np.float32((array.std() or 1.0) if card.std == "image" else card.std)
        return array

    def _answer(self, image: Tensor, dimension: int) -> tuple[np.ndarray, tuple[int, ...]]:
        """Features (features, z, y, x) of an image (channels, z, y, x), and voxels per feature along each axis."""
        if dimension < image.ndim - 1:
            slices = [self._patches(image[:, z], dimension) for z in range(image.shape[1])]
            return np.stack([found for found, _ in slices], axis=1), (1, *slices[0][1])
        return self._patches(image, dimension)

    def _patches(self, image: Tensor, dimension: int) -> tuple[np.ndarray, tuple[int, ...]]:
        """Run the network on an image or on patches of it, whose answers are blended."""
        size = np.asarray(image.shape[1:])
        length = self.card.patch or (_PATCH if size.prod() > _WHOLE else int(size.max()))
        length = -(-length // self.card.multiple) * self.card.multiple
        total, weight, stride = np.zeros(0), np.zeros(0), (1,) * dimension
        for window in _windows(size, length, self.card.multiple):
            found = self._run(_padded(image[(slice(None), *window)], self.card.multiple))
            if not total.size:
                ratio = [w.stop - w.start for w in window]
                ratio = [-(-r // self.card.multiple) * self.card.multiple for r in ratio]
                stride = tuple(max(1, round(r / f)) for r, f in zip(ratio, found.shape[1:], strict=True))
                shape = [-(-int(n) // s) for n, s in zip(size, stride, strict=True)]
                total, weight = np.zeros((len(found), *shape), np.float32), np.zeros(shape, np.float32)
            part = tuple(
                slice(w.start // s, min(w.start // s + f, n))
                for w, s, f, n in zip(window, stride, found.shape[1:], total.shape[1:], strict=True)
            )
            inner = tuple(slice(0, p.stop - p.start) for p in part)
            ramp = _ramp([p.stop - p.start for p in part])
            total[(slice(None), *part)] += ramp * found[(slice(None), *inner)]
            weight[part] += ramp
        return total / np.maximum(weight, 1e-6), stride

    @torch.inference_mode()
    def _run(self, patch: Tensor) -> np.ndarray:
        """Features (features, z, y, x) of a patch; all layers on the grid of the finest."""
        try:
            found = self.run(patch[None])
        except RegistrationError:
            raise
        except Exception as error:
            lines = [line for line in str(error).strip().splitlines() if line.strip()]
            reason = lines[-1].strip() if lines else type(error).__name__
            looked = f"an image of {' x '.join(map(str, patch.shape[1:]))} voxels and {counted(len(patch), 'channel')}"
            if isinstance(error, MemoryError) or _NO_MEMORY.search(reason):
                raise RegistrationError(
                    f"{self.name} needs more memory than is free for {looked}: name a smaller patch in the card"
                ) from None
            raise RegistrationError(
                f"{self.name} cannot look at {looked} ({reason}): check the dimension and the channels in the card"
            ) from None
        layers = list(found) if isinstance(found, list | tuple) else [found]
        tensors = [torch.as_tensor(np.asarray(each) if not isinstance(each, Tensor) else each) for each in layers]
        if self.card.layers:
            if max(self.card.layers) >= len(tensors):
                raise RegistrationError(f"{self.name} gives {len(tensors)} layers, the card names {self.card.layers}")
            tensors = [tensors[i] for i in self.card.layers]
        odd = [tuple(each.shape) for each in tensors if each.ndim != patch.ndim + 1 or len(each) != 1]
        if odd or not tensors:
            raise RegistrationError(
                f"{self.name} gives {f'the shape {odd[0]}' if odd else 'nothing'}, expected features of the shape "
                f"(1, features{', size' * (patch.ndim - 1)}): it may be for images of another dimension"
            )
        size = max((tuple(each.shape[2:]) for each in tensors), key=np.prod)
        mode = "bilinear" if patch.ndim == 3 else "trilinear"
        tensors = [
            each if tuple(each.shape[2:]) == size else functional.interpolate(each.float(), size=size, mode=mode)
            for each in tensors
        ]
        return torch.cat([each.float() for each in tensors], dim=1)[0].cpu().numpy()


def _padded(image: Tensor, multiple: int) -> Tensor:
    ends = [-(-n // multiple) * multiple - n for n in image.shape[1:]]
    padding = [each for end in reversed(ends) for each in (0, end)]
    return functional.pad(image[None].float(), padding, mode="replicate")[0] if any(ends) else image.float()


def _windows(size: np.ndarray, length: int, multiple: int) -> Iterator[tuple[slice, ...]]:
    """Cover an image with windows that overlap, spread evenly, at multiples."""
    axes = []
    for n in size.tolist():
        tile = min(n, length)
        count = 1 if tile == n else 1 + -(-(n - tile) // max(1, int(tile * (1 - _OVERLAP))))
        starts = [math.ceil(i * (n - tile) / max(1, count - 1) / multiple) * multiple for i in range(count)]
        axes.append([slice(start, min(start + tile, n)) for start in starts])
    yield from itertools.product(*axes)


def _ramp(shape: list[int]) -> np.ndarray:
    """Weights of a patch that fall off towards its borders."""
    result = np.ones(1, np.float32)
    for n in shape:
        line = np.minimum(np.arange(n), np.arange(n)[::-1]) + 1.0
        result = np.multiply.outer(result, np.minimum(line, n / 4 + 1).astype(np.float32))
    return result[0]


def _strided(grid: Grid, stride: tuple[int, ...], shape: Sequence[int]) -> Grid:
    """Grid of blocks of ``stride`` (z, y, x) voxels."""
    step = np.asarray(stride[::-1], float)
    first = grid.to_physical((step - 1) / 2)
    return Grid.create(shape[::-1], np.asarray(grid.spacing) * step, first, np.asarray(grid.direction))


def load_features(given: Any, card: Any = None) -> FeatureNetwork:
    """Load a network of features: a TorchScript file (.pt, .pth, .ts), an ONNX file (.onnx), or a callable.

    The card is by default the JSON file of the same name beside the file, if there is one. RegistrationError if the
    file is no such network. Nothing but TorchScript and ONNX is run: no Python of the file.
    """
    if isinstance(given, FeatureNetwork):
        return given if card is None else replace(given, card=FeatureCard.of(card))
    if isinstance(given, str | os.PathLike):
        path = Path(given)
        if not path.is_file():
            raise RegistrationError(f"features: there is no file {path}")
        beside = path.with_suffix(".json")
        found = FeatureCard.of(card if card is not None else beside if beside.is_file() else {})
        layers = 1 + max(found.layers, default=0)
        if path.suffix.lower() != ".onnx":
            return FeatureNetwork(_torchscript(path, layers), found, f"features ({path.name})")
        run, sizes = _onnx(path)
        if sizes:
            found = replace(found, patch=min(*sizes, found.patch or min(sizes)))
        return FeatureNetwork(run, found, f"features ({path.name})")
    if not callable(given):
        raise RegistrationError(f"features is a {type(given).__name__}, expected a file or a callable")
    return FeatureNetwork(given, FeatureCard.of({} if card is None else card), "features")


def _torchscript(path: Path, layers: int) -> Callable[[Tensor], Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch prefers a newer format, but reads this one
            network = torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError, OSError, EOFError) as error:
        raise RegistrationError(
            f"features: {path} is no TorchScript file (a pickled module or weights alone are not loaded): export the "
            "network with torch.jit.script or torch.jit.trace, or as .onnx"
        ) from error
    count = len(network.forward.schema.arguments) - 1

    def run(image: Tensor) -> Any:
        # itk-impact's newer networks take the number of layers, statistics of the image, and its direction as well.
        stats = torch.stack([image.min(), image.max(), image.mean(), image.std()])
        others = (torch.tensor(layers), stats, torch.eye(image.ndim - 2))
        return network(image, *others[: max(0, count - 1)])

    return run


def _onnx(path: Path) -> tuple[Callable[[Tensor], Any], tuple[int, ...]]:
    """Load an ONNX file: what runs it, and the size of the images it takes; empty where that may vary."""
    try:
        import onnxruntime
    except ImportError:
        raise RegistrationError(
            f"features: {path} needs onnxruntime, which is not installed: run pip install onnxruntime"
        ) from None
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise RegistrationError(f"features: {path} is no ONNX file that can be run ({reason})") from None
    taken = session.get_inputs()[0]
    dimension, given = len(taken.shape) - 2, tuple(taken.shape[2:])
    sizes = given if all(isinstance(n, int) for n in given) else ()

    def run(image: Tensor) -> list[np.ndarray]:
        size = image.shape[2:]
        if len(size) != dimension:
            raise RegistrationError(
                f"features ({path.name}) is for {dimension}-D images, but these are {len(size)}-D: see the card"
            )
        # Many files take one size alone: a smaller image is padded, and the answer cut.
        ends = [max(0, n - m) for n, m in zip(sizes, size, strict=True)] if sizes else [0] * dimension
        padding = [each for end in reversed(ends) for each in (0, end)]
        image = functional.pad(image, padding, mode="replicate") if any(ends) else image
        found = session.run(None, {taken.name: image.numpy()})
        return [_cut(each, size, image.shape[2:]) for each in found] if any(ends) else found

    return run, sizes


def _cut(found: np.ndarray, size: Sequence[int], padded: Sequence[int]) -> np.ndarray:
    """Leave out what answers to the padding of an image; what has another dimension stays, and is refused later."""
    if found.ndim != len(size) + 2:
        return found
    ends = [-(-n * f // p) for n, f, p in zip(size, found.shape[2:], padded, strict=True)]
    return found[(slice(None), slice(None), *(slice(end) for end in ends))]
