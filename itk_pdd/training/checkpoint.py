"""Checkpoints: tensors in safetensors, numbers in JSON, written whole or not at all. Nothing is unpickled."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from itk_pdd.errors import RegistrationError
from itk_pdd.network.storage import read_tensors
from itk_pdd.outputs import Output, OutputError, write_all

__all__ = ["optimizer_tensors", "read_checkpoint", "restore_optimizer", "write_bytes", "write_checkpoint"]

_TENSORS, _STATE = "checkpoint.safetensors", "checkpoint.json"


def write_checkpoint(folder: str | os.PathLike[str], tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write a checkpoint; if that fails, the one before is still there.

    Parameters
    ----------
    folder : path-like
        An existing folder.
    tensors : mapping of str to Tensor
        Weights, moments of the optimizer.
    state : mapping
        What JSON can hold.

    Raises
    ------
    OutputError
        If it cannot be written, for instance on a full disk.
    """
    from safetensors.torch import save

    folder = Path(folder)
    content = save({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()})
    text = json.dumps(dict(state), indent=1) + "\n"
    write_all(
        [
            (Output(folder / _TENSORS, "checkpoint", (".safetensors",)), lambda path: write_bytes(path, content)),
            (Output(folder / _STATE, "checkpoint", (".json",)), lambda path: write_bytes(path, text.encode())),
        ]
    )


def read_checkpoint(folder: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The checkpoint in a folder, None if there is none.

    Raises
    ------
    RegistrationError
        If it is damaged.
    """
    folder = Path(folder)
    if not (folder / _STATE).exists() and not (folder / _TENSORS).exists():
        return None
    tensors = read_tensors(folder / _TENSORS, name="checkpoint")
    try:
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RegistrationError(
            f"checkpoint: {folder / _STATE} cannot be read ({error}); remove it to start afresh"
        ) from error
    return tensors, state


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Moments and step counts of an optimizer by the number of their parameter."""
    result: dict[str, Tensor] = {}
    for number, entries in optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            result[f"optimizer.{number}.{key}"] = torch.as_tensor(value)
    return result


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put the moments of :func:`optimizer_tensors` back."""
    content = optimizer.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".", 2)
            state.setdefault(int(number), {})[key] = value
    content["state"] = state
    optimizer.load_state_dict(content)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file and see it through to the disk."""
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    if path.stat().st_size != len(content):
        raise OutputError("it was cut short; is the disk full?")
