"""Trained networks written as model folders."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from itk_pdd.io.outputs import Output, OutputError, write_all, write_bytes
from itk_pdd.network.card import CARD, WEIGHTS, Card
from itk_pdd.network.storage import load_weights

__all__ = ["as_kept", "made_folder", "rounded", "write_card", "write_model"]

N = TypeVar("N", bound=nn.Module)


def made_folder(path: str | os.PathLike[str]) -> Path:
    """A folder, made if it is not there; OutputError where that is not possible."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder {folder} cannot be made ({(error.strerror or str(error)).lower()})") from error
    return folder


def rounded(network: nn.Module) -> dict[str, Tensor]:
    """Weights as they are kept: convolutions in half precision, the few numbers of the norms as they are."""
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    return {name: value.half() if value.ndim > 1 else value for name, value in state.items()}


def as_kept(network: N) -> N:
    """The network on the CPU with rounded weights, so that what is measured is what is written."""
    network = network.cpu()
    load_weights(network, rounded(network))
    return network


def write_model(folder: str | os.PathLike[str], network: nn.Module, card: Card) -> None:
    """Write card and weights (see :func:`rounded`) into a folder, which is made if it is not there, both or none.

    OutputError if they cannot be written; a model that was there is kept.
    """
    from safetensors.torch import save

    folder = made_folder(folder)
    weights = save(rounded(network))
    written = Output(folder / WEIGHTS, "weights", (".safetensors",)), lambda path: write_bytes(path, weights)
    write_all([written, _card(folder, card)])


def write_card(folder: str | os.PathLike[str], card: Card) -> None:
    """Write the card of a model without weights of its own into a folder; errors as :func:`write_model`."""
    write_all([_card(made_folder(folder), card)])


def _card(folder: Path, card: Card) -> tuple[Output, Callable[[Path], None]]:
    text = card.to_json().encode()
    return Output(folder / CARD, "card", (".json",)), lambda path: write_bytes(path, text)
