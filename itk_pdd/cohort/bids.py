"""Cohorts in BIDS folders: which images there are, and the names of derivatives."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from itk_pdd._version import __version__
from itk_pdd.cohort.listing import Item
from itk_pdd.errors import RegistrationError
from itk_pdd.evaluation.datasets import stem
from itk_pdd.io.outputs import whole_file, write_bytes

__all__ = ["describe", "items_of_bids"]

_ENDING = re.compile(r"\.nii(\.gz)?$")


def items_of_bids(
    folder: str | os.PathLike[str], *, fixed: str | os.PathLike[str] | None = None, suffix: str = "T1w"
) -> list[Item]:
    """List the pairs of a BIDS folder: ``sub-X/[ses-Y/]anat/sub-X_..._T1w.nii.gz``, or another folder of a modality.

    All images of the kind ``suffix`` are registered to ``fixed``; by default to the image of the first session of the
    same subject.
    """
    root = Path(os.path.abspath(folder))
    images = [path for path in sorted(root.glob("sub-*/**/*_" + suffix + ".nii*")) if _ENDING.search(path.name)]
    if not images:
        raise RegistrationError(f"bids: {folder} has no images sub-*/**/*_{suffix}.nii.gz")
    if fixed is not None:
        space = re.sub(r"[^0-9A-Za-z]", "", stem(Path(fixed))) or "fixed"  # what BIDS allows in a label
        items = [_item(Path(os.path.abspath(fixed)), each, root, space, suffix) for each in images]
    else:
        items = []
        for subject in sorted({each.relative_to(root).parts[0] for each in images}):
            own = [each for each in images if each.relative_to(root).parts[0] == subject]
            space = dict(part.split("-", 1) for part in own[0].name.split("_")[:-1] if "-" in part).get("ses", "first")
            items += [_item(own[0], each, root, f"ses{space}", suffix) for each in own[1:]]
        if not items:
            raise RegistrationError(f"bids: no subject of {folder} has a second {suffix} image: give the fixed one")
    return items


def _item(fixed: Path, moving: Path, root: Path, space: str, suffix: str) -> Item:
    """Name the results of a pair as derivatives, beside each other as the source is in the dataset."""
    place, prefix = moving.relative_to(root).parent, stem(moving).removesuffix(f"_{suffix}")
    names = {
        "field": f"{prefix}_from-{suffix}_to-{space}_mode-image_desc-field_xfm.nii.gz",
        "transform": f"{prefix}_from-{suffix}_to-{space}_mode-image_xfm.h5",
        "inverse": f"{prefix}_from-{space}_to-{suffix}_mode-image_desc-field_xfm.nii.gz",
        "warped": f"{prefix}_space-{space}_{suffix}.nii.gz",
        "labels": f"{prefix}_space-{space}_dseg.nii.gz",
        "uncertainty": f"{prefix}_space-{space}_desc-uncertainty_{suffix}.nii.gz",
        "report": f"{prefix}_space-{space}_{suffix}.html",
    }
    targets = {output: (place / name).as_posix() for output, name in names.items()}
    files = {"fixed": str(fixed), "moving": str(moving)}
    labels = moving.with_name(f"{prefix}_dseg{moving.name[len(stem(moving)) :]}")
    if labels.is_file():
        files["moving_labels"] = str(labels)
    return Item(f"{prefix}_to-{space}", files, targets=targets)


def describe(folder: Path, source: Path) -> None:
    """Write ``dataset_description.json`` of a folder of derivatives."""
    content: dict[str, Any] = {
        "Name": "Registrations by itk_pdd",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "itk_pdd", "Version": __version__}],
        "SourceDatasets": [{"URL": os.path.relpath(source.resolve(), folder.resolve())}],
    }
    with whole_file(folder / "dataset_description.json") as temporary:
        write_bytes(temporary, (json.dumps(content, indent=1) + "\n").encode())
