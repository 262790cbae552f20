"""Compare images with what a trained network is for: by its card before it looks at them, by its certainty after."""

from __future__ import annotations

import numpy as np

from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.volume import Volume
from itk_pdd.network.card import ModelCard

__all__ = ["certainty", "unlike_training", "unsure"]

_EXTENT_FACTOR = 10.0
"""How many times larger or smaller than a training scan, by volume, an image may be."""
_SPACING_FACTOR = 4.0
"""How many times coarser than what the network looks at the voxels of an image may be, by their mean edge."""
_LEAST_IN_RANGE = 0.03
"""Share of the image that must lie within the calibrated range of intensities."""
_ORGANS = 0.02
"""Volume of all classes that must be found, relative to that in the training scans: a part of an organ will do."""
_CERTAINTY_FACTOR = 0.91
"""Share of the certainty on scans like those of the training that must be reached."""


def unlike_training(card: ModelCard, volume: Volume) -> str | None:
    """Compare an image with the scans that a network was trained on, by its card alone.

    The mean volume of its training scans is the sum over its classes. Returns what is wrong with the image, in words
    that follow "the fixed image"; None if nothing is.
    """
    extent, expected = float(np.prod(volume.grid.extent)), sum(entry.volume for entry in card.classes)
    if not 1 / _EXTENT_FACTOR <= extent / expected <= _EXTENT_FACTOR:
        return f"covers {_litres(extent)}, and the scans it was trained on covered {_litres(expected)}"
    spacing = float(np.prod(volume.grid.spacing) ** (1 / volume.grid.dimension))
    if spacing > _SPACING_FACTOR * card.image_spacing:
        return f"has voxels of {spacing:.2g} mm, and the model looks at voxels of {card.image_spacing:.2g} mm"
    if card.intensity.kind != "percentiles":
        low, high = card.intensity.low, card.intensity.high
        inside = float(np.mean((volume.array > low) & (volume.array < high)))
        if inside < _LEAST_IN_RANGE:
            return f"has {inside:.1%} of its intensities between {low:g} and {high:g}, the range it was trained on"
    return None


def certainty(probabilities: np.ndarray) -> float:
    """Average the largest of probabilities (classes, z, y, x) where a class wins against the background, the first."""
    best = probabilities[1:].max(axis=0)
    won = best > probabilities[0]
    return float(best[won].mean()) if won.any() else 0.0


def unsure(card: ModelCard, probabilities: np.ndarray, grid: Grid) -> str | None:
    """Tell, as :func:`unlike_training`, if a network does not recognise an image, by its probabilities on a grid."""
    found = float((1 - probabilities[0]).sum()) * float(np.prod(grid.spacing))
    expected = sum(entry.volume for entry in card.classes[1:])
    if found < _ORGANS * expected:
        return f"shows {found / expected:.1%} of the volume of {_named(card)} that a training scan shows"
    usual, reached = card.purpose.get("certainty"), certainty(probabilities)
    if usual and reached < _CERTAINTY_FACTOR * usual:
        return (
            f"is not recognised: the model is {reached:.0%} certain where it sees {_named(card)}, usually {usual:.0%}"
        )
    return None


def _named(card: ModelCard) -> str:
    names = [entry.name for entry in card.classes[1:]]
    return " and ".join(names) if len(names) < 3 else f"{names[0]}, {names[1]} and so on"


def _litres(cubic_millimetres: float) -> str:
    litres = cubic_millimetres / 1e6
    return f"{litres:.3g} litres" if litres >= 0.1 else f"{1000 * litres:.3g} ml"
