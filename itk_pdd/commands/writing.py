"""Check and write the outputs of a command, and log what was written."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from itk_pdd.io import outputs

__all__ = ["COMPOSITE_EXTENSIONS", "check", "elastix_field", "write"]

log = logging.getLogger("itk_pdd")

COMPOSITE_EXTENSIONS = (".h5", ".hdf5", ".tfm", ".txt")
"""ITK's transform files that can hold several transforms."""


def check(targets: Sequence[outputs.Output], *inputs: Any) -> None:
    """Check that outputs can be written and overwrite no input; inputs that are None are ignored."""
    outputs.check_outputs(targets, inputs=[path for path in inputs if path is not None])


def write(writers: Sequence[tuple[outputs.Output, Callable[[Path], None]]]) -> None:
    """Write all outputs or none of them, and log their names."""
    replaced = {target for target, _ in writers if Path(target.path).exists()}
    outputs.write_all(writers)
    for target, _ in writers:
        old = target in replaced
        log.info("wrote %s%s", target.path, " over the old file" * old, extra={"announce": old})


def elastix_field(path: str | os.PathLike[str], name: str) -> outputs.Output:
    """Describe the field that an elastix parameter file names, beside it."""
    path = Path(path)
    return outputs.Output(path.with_name(f"{path.stem}.field.nii.gz"), f"{name} (its field)", (".nii.gz",))
