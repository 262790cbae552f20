"""Registrations for the rates of the verdict: listed before any of them was made, and looked at once.

The split "clean new" has people and seeds that are in no other split: 48 hippocampi and 40 synthetic pairs. The split
"clean known" has pairs that were never registered, of people who are in another split: slices of brains from both
halves of the development, abdomens of one person of the development and one of the held-out set, heads painted in
another contrast, phases of livers, abdomens without alignment. All noise and all other contrasts have new seeds.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path

from verdict_cases import (
    SPLITS,
    Case,
    abdomens,
    expanded,
    hippocampi,
    mixed,
    read,
    slices,
    synthetic,
    without,
)  # fmt: skip
from verdict_few import liver_phases, native_pairs
from verdict_untouched import heads

NEW, KNOWN = SPLITS[3:4], SPLITS[4:5]
SEED = 700
"""Added to the numbers that seed noise and contrasts, so that they are those of no other split."""


def clean_cases(data: Path) -> list[Case]:
    """List them: about as many of each kind of images as in the other splits."""
    # Every slice of one half with two of the other one, in both directions.
    across = [(a, 6 + (a + k) % 5, KNOWN[0]) for a in range(1, 6) for k in (0, 1)]
    return mixed(
        hippocampi(data, 152, 48, NEW, ("liver_mr_4d/subject_19/exhMaster.mha", "abdomen_ct/image_0025.nii.gz"), SEED),
        synthetic(120, 40, NEW, SEED),
        slices(data, [way for a, b, split in across for way in ((a, b, split), (b, a, split))], SEED),
        heads(data, [(0, 3), (1, 4), (2, 5), (6, 8), (7, 9)], KNOWN, 1, SEED),
        abdomens(data, (21, 3, 22, 33, 23, 6, 24, 38), 8, KNOWN, SEED),
        phases(data),
        native_pairs(data, [(0, 3), (3, 0), (2, 5), (5, 2)], KNOWN),
    )


def phases(data: Path) -> Iterator[Case]:
    """Two phases of a liver, neither of them the end of exhalation."""
    pairs = []
    for subject in sorted(p for p in (data / "liver_mr_4d").iterdir() if p.is_dir()):
        for fixed, moving in itertools.permutations(sorted(subject.glob("cyc*.mha")), 2):
            name = f"liver {subject.name} {fixed.name[:8]} {moving.name[:8]}"
            pairs.append((name, KNOWN[0], functools.partial(liver_phases, fixed, moving, 1)))
    kinds = without("label map as image", "wrong model")
    return expanded("few", pairs, lambda n: read(data / "abdomen_ct/image_0024.nii.gz"), kinds, 2, SEED)
