"""From label maps to images: tissues get intensities and texture, then an imperfect scanner looks at them.

Random contrasts follow Billot et al., "SynthSeg", Medical Image Analysis 2023, and Hoffmann et al., "SynthMorph", IEEE
TMI 2022: any intensity for any tissue, so that what is learned from such images does not depend on the modality.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.volume import Volume
from itk_pdd.synthesis.abdomen import AbdomenLabel as L
from itk_pdd.synthesis.canvas import TissueMap
from itk_pdd.synthesis.noise import NoiseTile, texture_sigmas

__all__ = [
    "Acquisition", "Contrast", "ct_contrast", "random_acquisition", "random_contrast", "render", "render_labels"
]  # fmt: skip

_LABELS = 256

# Hounsfield units in the portal-venous phase: mean, and standard deviation of fine, middle and coarse texture.
_CT = {
    L.BACKGROUND: (-1000, 0, 0, 0),
    L.SPLEEN: (122, 4, 5, 4),
    L.RIGHT_KIDNEY: (175, 8, 14, 5),
    L.LEFT_KIDNEY: (175, 8, 14, 5),
    L.GALLBLADDER: (10, 2, 2, 2),
    L.OESOPHAGUS: (50, 10, 8, 0),
    L.LIVER: (105, 6, 8, 6),
    L.STOMACH: (45, 10, 18, 14),
    L.AORTA: (160, 3, 4, 3),
    L.INFERIOR_VENA_CAVA: (135, 3, 6, 6),
    L.PORTAL_AND_SPLENIC_VEIN: (155, 3, 5, 4),
    L.PANCREAS: (88, 16, 14, 4),
    L.RIGHT_ADRENAL: (72, 4, 4, 2),
    L.LEFT_ADRENAL: (72, 4, 4, 2),
    L.SKIN: (25, 15, 10, 0),
    L.SUBCUTANEOUS_FAT: (-106, 9, 9, 4),
    L.MUSCLE: (58, 11, 12, 6),
    L.VISCERAL_FAT: (-96, 15, 17, 8),
    L.BONE: (360, 60, 60, 30),
    L.BONE_MARROW: (175, 35, 35, 20),
    L.DISC: (80, 8, 8, 4),
    L.SPINAL_CANAL: (28, 4, 5, 3),
    L.LUNG: (-830, 35, 45, 25),
    L.HEART: (135, 8, 22, 10),
    L.BLADDER: (8, 2, 2, 3),
    L.COLON: (70, 8, 6, 4),
    L.SMALL_BOWEL: (92, 10, 8, 4),
    L.BOWEL_CONTENT: (22, 18, 28, 18),
    L.BOWEL_GAS: (-960, 5, 5, 5),
    L.VESSEL: (145, 4, 4, 4),
    L.HEPATIC_VESSEL: (158, 3, 3, 2),
    L.RENAL_PELVIS: (120, 10, 25, 5),
    L.LYMPH_NODE: (65, 5, 5, 0),
}


@dataclass(frozen=True)
class Contrast:
    """Intensities and textures of the tissues.

    Parameters
    ----------
    mean : numpy.ndarray
        Intensity of each label, shape (256,).
    texture : numpy.ndarray
        Amplitudes of fine, middle and coarse texture of each label, shape (3, 256); a negative one inverts it.
    fresh : float
        Share (0 to 1) of the texture's standard deviation that belongs to the image and does not stick to the tissue.
    scale : float
        Difference in intensity between typical tissues; noise is given relative to it.
    """

    mean: np.ndarray
    texture: np.ndarray
    fresh: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True)
class Acquisition:
    """Blur, noise and artefacts of a scanner.

    Parameters
    ----------
    blur : float
        Standard deviation of the point spread function in voxels.
    noise : float
        Standard deviation of the noise, relative to the contrast's ``scale``.
    noise_grain : float
        Standard deviation, in voxels, of the Gaussian that correlates the noise.
    bias : float
        Standard deviation of the logarithm of a smooth multiplicative bias field.
    gamma : float
        Exponent applied to the intensities, from the darkest to the brightest tissue.
    thickness : float
        Thickness of the slices in voxels along ``axis``: the image is averaged and sampled that coarsely, and
        interpolated back. 1 leaves it alone.
    axis : int
        Index axis (0 is x) of the thick slices.
    """

    blur: float = 0.4
    noise: float = 0.05
    noise_grain: float = 0.4
    bias: float = 0.0
    gamma: float = 1.0
    thickness: float = 1.0
    axis: int = 2

    def __post_init__(self) -> None:
        lowest = {"blur": 0, "noise": 0, "noise_grain": 0, "bias": 0, "gamma": 1e-3, "thickness": 1, "axis": 0}
        for name, least in lowest.items():
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= least):
                raise RegistrationError(f"{name} of the acquisition is {value}; expected a number from {least} up")


def ct_contrast(rng: np.random.Generator) -> Contrast:
    """Hounsfield units of the schematic abdomen after contrast agent, a little different for each patient."""
    table = np.zeros((_LABELS, 4))
    table[[int(label) for label in _CT]] = list(_CT.values())
    known = table[:, 0].copy()
    table[:, 0] += np.where((known > -60) & (known < 250) & (known != 0), rng.normal(0, 6, _LABELS), 0)
    return Contrast(table[:, 0].astype(np.float32), table[:, 1:].T.astype(np.float32), scale=200.0)


def random_contrast(rng: np.random.Generator) -> Contrast:
    """Any intensity for any tissue (0 to 1000), the background mostly dark, and texture of any strength."""
    mean = rng.uniform(0, 1, _LABELS)
    mean[0] = 0.0 if rng.random() < 0.7 else rng.uniform(0, 1)
    strength = rng.uniform(0.0, 0.12) * np.array([[0.6], [0.8], [0.6]])
    texture = strength * rng.uniform(0, 1, (3, _LABELS)) * rng.choice([-1.0, 1.0], (3, 1))
    if mean[0] == 0:
        texture[:, 0] = 0
    fresh = rng.uniform(0, 1) if rng.random() < 0.7 else 0.0
    return Contrast((1000 * mean).astype(np.float32), (1000 * texture).astype(np.float32), fresh, 500.0)


def random_acquisition(rng: np.random.Generator, dimension: int) -> Acquisition:
    """Draw a scanner of any modality: blur, noise, bias field, gamma and, for every third one, thick slices."""
    return Acquisition(
        blur=rng.uniform(0.3, 1.0),
        noise=rng.uniform(0.005, 0.12),
        noise_grain=rng.uniform(0.0, 0.7),
        bias=rng.uniform(0.0, 0.3),
        gamma=float(np.exp(rng.uniform(-0.4, 0.4))),
        thickness=rng.uniform(1.5, 4.0) if rng.random() < 0.33 else 1.0,
        axis=int(rng.integers(dimension)),
    )


def render(
    tissues: TissueMap, grid: Grid, contrast: Contrast, acquisition: Acquisition, rng: np.random.Generator
) -> Volume:
    """Make an image of a tissue map.

    Parameters
    ----------
    tissues : TissueMap
        Arrays (z,) y, x on ``grid``.
    grid : Grid
        Where the voxels lie.
    contrast : Contrast
        Intensities and texture of the labels.
    acquisition : Acquisition
        Blur, noise and the like.
    rng : numpy.random.Generator
        Draws noise, bias field and the texture that does not stick to the tissue.

    Returns
    -------
    Volume
        float32 image.

    Raises
    ------
    RegistrationError
        If the tissue map does not lie on the grid, or the axis of the slices does not exist.
    """
    if tissues.labels.shape != grid.shape:
        raise RegistrationError(
            f"tissues have shape {tissues.labels.shape} (z, y, x); expected the shape of the grid, {grid.shape}"
        )
    if acquisition.thickness > 1 and acquisition.axis >= grid.dimension:
        raise RegistrationError(
            f"axis of the acquisition is {acquisition.axis}; expected 0 to {grid.dimension - 1} for {grid}"
        )
    image = contrast.mean[tissues.labels]
    image += tissues.share * (contrast.mean[tissues.second] - image)
    _add_texture(image, tissues, contrast, grid, rng)
    if acquisition.gamma != 1:
        low, high = float(contrast.mean[np.unique(tissues.labels)].min()), float(image.max())
        span = max(high - low, 1e-6)
        image = low + span * np.clip((image - low) / span, 0, None) ** np.float32(acquisition.gamma)
    if acquisition.bias:
        image *= np.exp(np.float32(acquisition.bias) * _smooth_noise(grid, 0.25 * float(grid.extent.max()), rng))
    return Volume(_acquire(image, acquisition, contrast.scale, grid, rng), grid)


def render_labels(
    labels: Volume,
    *,
    seed: int | np.random.Generator,
    contrast: Contrast | None = None,
    acquisition: Acquisition | None = None,
) -> Volume:
    """Make an image of any label map, of a real scan for example, with random contrast.

    Parameters
    ----------
    labels : Volume
        Integer labels from 0 to 255.
    seed : int or numpy.random.Generator
        Determines the result entirely.
    contrast : Contrast, optional
        Intensities of the labels; drawn at random by default.
    acquisition : Acquisition, optional
        Blur, noise and the like; drawn at random by default.

    Returns
    -------
    Volume
        float32 image on the same grid.

    Raises
    ------
    RegistrationError
        If the labels are no integers from 0 to 255.
    """
    array = labels.array
    if not np.issubdtype(array.dtype, np.integer) or array.min() < 0 or array.max() >= _LABELS:
        raise RegistrationError(
            f"labels are {array.dtype} from {array.min()} to {array.max()}; expected integers from 0 to {_LABELS - 1}"
        )
    rng = np.random.default_rng(seed)
    contrast = contrast or random_contrast(rng)
    acquisition = acquisition or random_acquisition(rng, labels.grid.dimension)
    # A raster of labels has hard edges; no scanner resolves them.
    acquisition = replace(acquisition, blur=float(np.hypot(acquisition.blur, 0.4)))
    return render(TissueMap.from_labels(array.astype(np.uint8)), labels.grid, contrast, acquisition, rng)


def _add_texture(
    image: np.ndarray, tissues: TissueMap, contrast: Contrast, grid: Grid, rng: np.random.Generator
) -> None:
    fresh = 1.0 if tissues.texture is None else contrast.fresh
    for scale, amplitudes in enumerate(contrast.texture):
        if not amplitudes.any():
            continue
        pattern = 0.0
        if fresh < 1:
            pattern = np.float32(np.sqrt(1 - fresh**2)) * tissues.texture[scale]
        if fresh > 0:
            pattern = pattern + np.float32(fresh) * _smooth_noise(grid, texture_sigmas(grid)[scale], rng)
        amplitude = amplitudes[tissues.labels]
        amplitude *= 1 - tissues.share
        image += amplitude * pattern


def _smooth_noise(grid: Grid, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Noise of unit variance on a grid, smoothed by ``sigma`` in millimetres."""
    tile = NoiseTile.draw(rng, grid.dimension, sigma, 1.3 * float(grid.extent.max()) + 4 * sigma, 96)
    axes = [np.arange(n, dtype=np.float32) * np.float32(s) for n, s in zip(grid.size, grid.spacing, strict=True)]
    mesh = np.meshgrid(*axes[::-1], indexing="ij")
    return tile.sample(mesh[::-1], rng.uniform(0, 1000, grid.dimension))


def _acquire(
    image: np.ndarray, acquisition: Acquisition, scale: float, grid: Grid, rng: np.random.Generator
) -> np.ndarray:
    from scipy import ndimage

    if acquisition.blur:
        image = ndimage.gaussian_filter(image, acquisition.blur, mode="nearest", truncate=3.0)
    array_axis = grid.dimension - 1 - acquisition.axis
    thickness = min(acquisition.thickness, image.shape[array_axis] / 2)
    thick = thickness > 1
    if thick:
        # A slice profile of full width ``thickness`` at half maximum.
        image = ndimage.gaussian_filter1d(image, thickness / 2.355, axis=array_axis, mode="nearest")
        count = max(2, round(image.shape[array_axis] / thickness))
        there = (np.arange(count) + 0.5) * image.shape[array_axis] / count - 0.5
        image = _interpolate_axis(image, there, array_axis)
    if acquisition.noise:
        noise = rng.standard_normal(image.shape, dtype=np.float32)
        if acquisition.noise_grain:
            noise = ndimage.gaussian_filter(noise, acquisition.noise_grain, mode="wrap", truncate=3.0)
            noise /= noise.std()
        image = image + np.float32(acquisition.noise * scale) * noise
    if thick:
        size = grid.shape[array_axis]
        image = _interpolate_axis(image, (np.arange(size) + 0.5) * count / size - 0.5, array_axis)
    return np.ascontiguousarray(image, dtype=np.float32)


def _interpolate_axis(image: np.ndarray, positions: np.ndarray, axis: int) -> np.ndarray:
    """Interpolate linearly at fractional indices along one axis, the ends replicated."""
    last = image.shape[axis] - 1
    positions = np.clip(positions, 0, last)
    low = np.minimum(positions.astype(int), max(last - 1, 0))
    weight = (positions - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(image.ndim)])
    first = np.take(image, low, axis=axis)
    return first + weight * (np.take(image, np.minimum(low + 1, last), axis=axis) - first)
