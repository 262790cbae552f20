"""Checkpoints: one safetensors file with tensors and, as text in its header, the state. Nothing is unpickled."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from itk_pdd.errors import RegistrationError
from itk_pdd.io.outputs import Output, write_all, write_bytes
from itk_pdd.network.storage import read_tensors

__all__ = ["CHECKPOINT", "optimizer_tensors", "read_checkpoint", "restore_optimizer", "write_checkpoint"]

CHECKPOINT = "checkpoint.safetensors"
"""Name of the file in the folder of a training."""


def write_checkpoint(folder: str | os.PathLike[str], tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write a checkpoint into a folder: tensors, and a state that JSON can hold.

    OutputError if that fails, for instance on a full disk; the one before is still there.
    """
    from safetensors.torch import save

    content = save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        metadata={"state": json.dumps(dict(state))},
    )
    # One file, so that no interruption can leave tensors of one iteration beside the state of another.
    output = Output(Path(folder) / CHECKPOINT, "checkpoint", (".safetensors",))
    write_all([(output, lambda path: write_bytes(path, content))])


def read_checkpoint(folder: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The checkpoint in a folder, None if there is none; RegistrationError if it is damaged or cannot be read."""
    from safetensors import SafetensorError, safe_open

    path = Path(folder) / CHECKPOINT
    try:
        if not path.exists():
            return None
        tensors = read_tensors(path, name="checkpoint")
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("state")
    except (RegistrationError, SafetensorError, OSError) as error:
        reason = str(error) if isinstance(error, RegistrationError) else f"checkpoint: {path} cannot be read ({error})"
        raise RegistrationError(f"{reason}, or remove it to start anew") from error
    try:
        state = json.loads(text or "")
    except (ValueError, RecursionError):
        state = None
    if not isinstance(state, dict):
        raise RegistrationError(f"checkpoint: {path} holds no state of a training: remove it to start anew")
    return tensors, state


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Moments and step counts of an optimizer by the number of their parameter."""
    return {
        f"optimizer.{number}.{key}": torch.as_tensor(value)
        for number, entries in optimizer.state_dict()["state"].items()
        for key, value in entries.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put the moments of :func:`optimizer_tensors` back; raises ValueError where some are missing."""
    content = optimizer.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".", 2)
            state.setdefault(int(number), {})[key] = value
    if len({frozenset(entries) for entries in state.values()}) > 1:
        raise ValueError("some moments are missing")
    content["state"] = state
    optimizer.load_state_dict(content)
