"""Pairs of images in two contrasts, for the comparison of methods between modalities.

Real scans: the CT of one patient with the CT of another turned into something like a T2-weighted MR image. Fat is
bright, muscle dark, what took up contrast agent is bright again, bone and air are dark: no monotonous function of the
CT takes one to the other, the texture inside the organs follows its slope, and noise and a bias field come on top.

Synthetic ones: the schematic abdomen of :mod:`itk_pdd.synthesis`, with a random contrast and a random scanner for each
of the two images, deformed by up to 22 mm.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from itk_pdd.evaluation import datasets
from itk_pdd.io.files import read_image, write_image
from itk_pdd.io.volume import Volume
from itk_pdd.synthesis import make_pair

# Hounsfield units and signal (0 to 1000). The data ends at -125 and 275.
_HOUNSFIELD = (-125.0, -110.0, -80.0, -20.0, 50.0, 120.0, 180.0, 240.0)
_SIGNAL = (0.0, 750.0, 750.0, 350.0, 200.0, 600.0, 650.0, 30.0)
_NOISE = 30.0
_BIAS = 0.2  # standard deviation of its logarithm
_BIAS_MM = 80.0
_BLUR = 0.6  # voxels: half a slice of MR is thicker than one of CT


def mr_like(ct: Volume, *, seed: int) -> Volume:
    """A CT in the contrast described above, float32 on the same grid."""
    rng = np.random.default_rng(seed)
    image = np.interp(ct.array, _HOUNSFIELD, _SIGNAL)
    image = ndimage.gaussian_filter(image, _BLUR)
    sigma = [_BIAS_MM / s for s in reversed(ct.grid.spacing)]
    # Smooth noise is drawn on a coarse lattice: it has no details.
    coarse = rng.standard_normal([max(2, round(n / s) + 1) for n, s in zip(image.shape, sigma, strict=True)])
    zoom = [n / c for n, c in zip(image.shape, coarse.shape, strict=True)]
    bias = ndimage.zoom(coarse, zoom, order=3, mode="nearest", grid_mode=True)
    image = image * np.exp(_BIAS * bias / bias.std())
    # Noise of magnitude images (Rice).
    real, imaginary = _NOISE * rng.standard_normal((2, *image.shape))
    return Volume(np.hypot(image + real, imaginary).astype(np.float32), ct.grid)


def ct_mr_pairs(folder: Path) -> list[datasets.Pair]:
    """Each of the four validation patients as fixed CT and once as moving MR of another; writes the MR images."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [pair for i, pair in enumerate(datasets.abdomen_pairs("validation")) if i % 3 == (i // 3) % 3]
    pairs = []
    for number, pair in enumerate(chosen):
        path = folder / f"mr_{pair.moving.name}"
        if not path.exists():
            ct = Volume.from_image(read_image(pair.moving))
            write_image(mr_like(ct, seed=number).to_simpleitk(), path)
        pairs.append(datasets.Pair(pair.fixed, path, fixed_labels=pair.fixed_labels, moving_labels=pair.moving_labels))
    return pairs


def synthetic_pairs(folder: Path, count: int = 6) -> list[datasets.Pair]:
    """Schematic abdomens of two random contrasts; writes images and labels."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = []
    for seed in range(count):
        names = ("fixed", "moving", "fixed_labels", "moving_labels")
        paths = {name: folder / f"{name}_{seed}.nii.gz" for name in names}
        if not all(path.exists() for path in paths.values()):
            made = make_pair((112, 96, 80), 3.0, seed=100 + seed, modality="random")
            for name, path in paths.items():
                write_image(getattr(made, name).to_simpleitk(), path)
        pairs.append(datasets.Pair(**paths))
    return pairs
