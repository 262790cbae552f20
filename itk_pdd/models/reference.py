"""The author's published checkpoints as models of this package."""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from itk_pdd.errors import RegistrationError
from itk_pdd.models.pddmodel import PddModel
from itk_pdd.network.card import PddCard
from itk_pdd.network.pddnet import PddNetwork
from itk_pdd.network.preparation import Intensity
from itk_pdd.network.regularisation import Regularisation
from itk_pdd.network.settings import InstanceOptimisation, PddSettings, Warp
from itk_pdd.network.storage import load_weights

__all__ = ["from_reference"]


def from_reference(
    features: str | os.PathLike[str],
    *,
    alpha: Sequence[float] | str | os.PathLike[str],
    warps: Sequence[Warp] = (Warp(0.4, 15, 32),),
    iterations: int = 50,
    spacing: float | None = None,
    axes: str = "SAL",
    name: str = "reference",
) -> PddModel:
    """Read a checkpoint of the author's program.

    Parameters
    ----------
    features : path-like
        State dict of the feature network as ``torch.save`` wrote it: ``offsets``, ``layer0`` to ``layer3`` and
        ``batch0`` to ``batch2``, of 16 or 24 channels (or any other number). Nothing but tensors is unpickled.
    alpha : sequence of 6 floats or path-like
        Factors of the regularisation, or the file of a state dict that holds them as ``alpha``.
    warps : sequence of Warp
        The searches. The paper's one by default; the author's later program uses
        ``(Warp(0.25, 11, 29), Warp(0.15, 11, 39))``.
    iterations : int
        Steps of the instance optimisation; 0 for the network alone.
    spacing : float, optional
        Working spacing in millimetres; by default that of the fixed image.
    axes : str
        Anatomical directions in which the axes of the author's tensors run, last axis first. By default those of
        NIfTI files whose voxels are stored right to left, back to front, bottom to top, read without reordering, as
        those of Learn2Reg's abdominal CT task.
    name : str
        For the card.

    Returns
    -------
    PddModel
        For ``register(model=...)``; its ``write`` makes a model folder of it. Intensities are CT in HU, divided by 500
        as there.

    Raises
    ------
    RegistrationError
        If a file cannot be read or holds something else, or the factors make no sense.
    """
    state = _tensors(features, "features")
    offsets = state.get("offsets")
    if offsets is None or offsets.ndim != 3 or offsets.shape[::2] != (2, 3):
        found = "nothing" if offsets is None else f"shape {tuple(offsets.shape)}"
        raise RegistrationError(
            f"features: {features} is no checkpoint of the feature network, expected 'offsets' of shape (2, 2 x "
            f"channels, 3), found {found}"
        )
    channels = offsets.shape[1] // 2
    settings = PddSettings(
        features="obelisk", channels=channels, warps=tuple(warps), norm="batch", outside="zero", corners=True,
        optimisation=InstanceOptimisation(iterations),
    )  # fmt: skip
    network = PddNetwork(settings)
    for norm in ("batch0", "batch1", "batch2"):
        # Early versions of torch did not count; the number is not used.
        state.setdefault(f"{norm}.num_batches_tracked", torch.zeros((), dtype=torch.int64))
    assert network.obelisk is not None
    load_weights(network.obelisk, state, name=f"features {features}")
    factors = _factors(alpha)
    for search in network.searches:
        search.regularisation = Regularisation.from_alpha(factors, channels=channels)
    card = PddCard(
        name,
        "Converted from a checkpoint of the author of PDD-net (Heinrich, MICCAI 2019).",
        settings,
        Intensity("linear", -500.0, 500.0),
        spacing,
        axes,
        training={"source": "https://github.com/multimodallearning/pdd_net", "alpha": factors},
    )
    return PddModel(network, card)


def _factors(alpha: Sequence[float] | str | os.PathLike[str]) -> list[float]:
    if not isinstance(alpha, str | os.PathLike):
        return [float(value) for value in alpha]
    found = _tensors(alpha, "alpha").get("alpha")
    if found is None or found.shape != (6,):
        raise RegistrationError(f"alpha: {alpha} holds no tensor 'alpha' of 6 factors")
    return [float(value) for value in found]


def _tensors(path: str | os.PathLike[str], name: str) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise RegistrationError(f"{name}: there is no file {path}")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()
        raise RegistrationError(
            f"{name}: {path} is damaged or holds more than tensors ({reason[0] if reason else 'empty'})"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise RegistrationError(f"{name}: {path} holds {type(content).__name__}, expected a state dict of tensors")
    return dict(content)
