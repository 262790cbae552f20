"""Tensors in safetensors files: read with plain errors, nothing is unpickled."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from itk_pdd.errors import RegistrationError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["check_weights", "load_weights", "read_tensors"]


def read_tensors(path: str | os.PathLike[str], *, name: str = "weights") -> dict[str, Tensor]:
    """Tensors of a safetensors file; RegistrationError, with a name, if there is no such file, or it is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise RegistrationError(f"{name}: there is no file {path}")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise RegistrationError(f"{name}: {path} is damaged ({error}): copy or train it again") from error


def load_weights(network: nn.Module, tensors: Mapping[str, Tensor], *, name: str = "weights") -> None:
    """Put weights into a network, in its own precision, after :func:`check_weights`."""
    check_weights(network, tensors, name=name)
    expected = network.state_dict()
    network.load_state_dict({key: tensor.to(expected[key].dtype) for key, tensor in tensors.items()})


def check_weights(network: nn.Module, tensors: Mapping[str, Tensor], *, name: str = "weights") -> None:
    """Raise RegistrationError, with a name, if a tensor is missing, not known, of another shape or not finite.

    Only the shapes of the network count: it may be on torch's device "meta".
    """
    expected = network.state_dict()
    missing, unknown = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or unknown:
        what = f"lacks {missing[0]}" if missing else f"holds {unknown[0]}, which the network does not have"
        raise RegistrationError(
            f"{name} {what} ({len(missing)} tensors missing, {len(unknown)} not known): card and weights do not belong "
            "together"
        )
    for key, tensor in tensors.items():
        if tensor.shape != expected[key].shape:
            raise RegistrationError(
                f"{name}: {key} has shape {tuple(tensor.shape)}, expected {tuple(expected[key].shape)}: card and "
                "weights do not belong together"
            )
        if not bool(tensor.isfinite().all()):
            raise RegistrationError(f"{name}: {key} holds NaN or infinite numbers: train again with a smaller rate")
