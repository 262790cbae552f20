"""Keep the prepared data of a training for the next ones."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from itk_pdd.errors import RegistrationError
from itk_pdd.io.outputs import OutputError, whole_file, write_bytes
from itk_pdd.network.storage import read_tensors

__all__ = ["kept"]

log = logging.getLogger("itk_pdd")


def kept(path: Path | None, make: Callable[[], dict[str, Tensor]], names: tuple[str, ...]) -> dict[str, Tensor]:
    """Tensors of some names from a safetensors file of the cache, or made and kept there; None for no cache.

    A damaged file is made again, one that cannot be written costs time the next time and nothing else: both with a
    warning.
    """
    if path is None:
        return make()
    if path.is_file():
        try:
            tensors = read_tensors(path, name="cache")
            return {name: tensors[name] for name in names}
        except (RegistrationError, KeyError):
            log.warning("%s is damaged and is made again", path)
    tensors = make()
    _write(path, tensors)
    return tensors


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            write_bytes(temporary, save(tensors))
    except (OSError, OutputError) as error:
        log.warning("%s cannot be written (%s): it will be made again the next time", path, error)
