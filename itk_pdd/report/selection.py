"""Select the pairs that a report shows, and their resolution, so that they fit into one file."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.evaluation.compare import Run
from itk_pdd.evaluation.datasets import Pair
from itk_pdd.evaluation.methods import INITIAL
from itk_pdd.io.volume import Volume
from itk_pdd.report.assets import Assets
from itk_pdd.report.page import PairPictures
from itk_pdd.views.display import View, fixed_view, load_view

__all__ = ["pictures_of"]

log = logging.getLogger("itk_pdd")

BYTES_PER_VOXEL = 0.6
"""Bytes of a voxel of a CT on the page, compressed and written as text, its labels and maps included."""

PAIR_MEGABYTES, LEAST_MEGABYTES = 14.0, 3.0
"""Largest share of a pair, and the least with which it is shown."""


def pictures_of(
    pairs: Sequence[tuple[str, Pair]],
    results: Sequence[tuple[Run, Mapping[str, Any]]],
    folder: Path,
    assets: Assets,
    megabytes: float,
    ranking: Mapping[str, float],
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Select and pack the pictures for the viewer: as many pairs as fit, at the resolution that fits.

    The arrays go to ``assets`` and take about ``megabytes``; ``ranking`` tells how well each pair went, to choose among
    them. Returns the descriptions of the pairs that are shown, and, by pair, what could not be shown.
    """
    files: dict[str, dict[str, Path]] = {}
    for run, result in results:
        path = folder / "views" / f"{run.key}.npz"
        if run.key and result["status"] == "ok" and path.is_file():
            files.setdefault(run.pair, {})[run.method] = path
    able = [(name, pair) for name, pair in pairs if INITIAL in files.get(name, {})]
    # Images smaller than a pair's least share are shown as they are, however many there are.
    wanted = {}
    for name, pair in able:
        voxels = Volume.from_image(pair.fixed, name="fixed").grid.voxels * (1 + len(files[name]))
        wanted[name] = min(voxels * BYTES_PER_VOXEL / 1e6, PAIR_MEGABYTES)
    chosen = _spread(able, wanted, megabytes, ranking)
    share = min(1.0, megabytes / max(sum(wanted[name] for name, _ in chosen), 1e-9))
    described, unshown = [], {}
    for number, (name, pair) in enumerate(pairs, start=1):
        if name not in {n for n, _ in chosen}:
            continue
        images = 1 + len(files[name])
        voxels = wanted[name] * share * 1e6 / BYTES_PER_VOXEL / images
        views, broken = _load(files[name])
        if broken:
            unshown[name] = f"No pictures of {', '.join(broken)}: the files are damaged; remove them and compare again."
        if INITIAL not in views:
            continue
        fixed = Volume.from_image(pair.fixed, name="fixed")
        labels = pair.fixed_labels and Volume.labels_from_image(pair.fixed_labels, name="fixed_labels")
        others = {method: view for method, view in views.items() if method != INITIAL} or {INITIAL: views[INITIAL]}
        made = PairPictures(f"pair-{number}", fixed.grid, voxels, assets)
        described.append({**made.describe(fixed_view(fixed, labels or None), views[INITIAL], others), "name": name})
    return described, unshown


def _spread(
    able: Sequence[tuple[str, Pair]], wanted: Mapping[str, float], megabytes: float, ranking: Mapping[str, float]
) -> list[tuple[str, Pair]]:
    """Choose all pairs if each gets its least share, otherwise some, evenly from the worst to the best."""
    least = sum(min(wanted[name], LEAST_MEGABYTES) for name, _ in able)
    if least <= megabytes:
        return list(able)
    count = max(1, int(len(able) * megabytes / least))
    ordered = sorted(able, key=lambda pair: ranking.get(pair[0], -np.inf))
    return [ordered[i] for i in sorted({int(i) for i in np.rint(np.linspace(0, len(ordered) - 1, count))})]


def _load(files: Mapping[str, Path]) -> tuple[dict[str, View], list[str]]:
    views, broken = {}, []
    for method, path in files.items():
        try:
            views[method] = load_view(path)
        except RegistrationError as error:
            log.warning("%s", error)
            broken.append(method)
    return views, broken
