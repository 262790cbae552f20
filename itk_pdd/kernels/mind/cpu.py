"""MIND-SSC on the CPU: shifted rows and running sums instead of convolutions.

The features are those of :func:`itk_pdd.kernels.mind.definition.mind_ssc`, rounded to 8 bits. Two-dimensional images
are treated as a single slice.
"""

from __future__ import annotations

import numpy as np

from itk_pdd.kernels.mind.pairs import VARIANCE_RANGE, VARIANCE_STRIDE, self_similarity_pairs
from itk_pdd.kernels.parallel import compiled, inlined, run

__all__ = ["CHANNELS", "add_codes", "code_bits", "mind_features"]

CHANNELS = 16  # channels are padded with zeros to this number, one SIMD register of floats
_ROWS, _SLICES = 24, 16  # size of a tile: its buffers fit the second-level cache


@compiled
def _variance(first, last, padded, pairs, radius_z, radius, dilation_z, dilation, stride, shape, sums):
    """Per slice of a sub-lattice: sum over its voxels of the mean patch distance less the smallest one."""
    channels = pairs.shape[0]
    margin_z, margin = radius_z + dilation_z, radius + dilation
    for i in range(first, last):
        z = i * stride + margin_z
        for y in range(margin, shape[1] + margin, stride):
            for x in range(margin, shape[2] + margin, stride):
                total, smallest = np.float32(0), np.float32(np.inf)
                for c in range(channels):
                    az, ay, ax = pairs[c, 0, 0], pairs[c, 0, 1], pairs[c, 0, 2]
                    bz, by, bx = pairs[c, 1, 0], pairs[c, 1, 1], pairs[c, 1, 2]
                    s = np.float32(0)
                    for dz in range(-radius_z, radius_z + 1):
                        for dy in range(-radius, radius + 1):
                            for dx in range(-radius, radius + 1):
                                d = (
                                    padded[z + dz + az, y + dy + ay, x + dx + ax]
                                    - padded[z + dz + bz, y + dy + by, x + dx + bx]
                                )
                                s += d * d
                    total += s
                    smallest = min(smallest, s)
                sums[i] += total / channels - smallest


@inlined
def _features(distance, smallest, variance, out):
    """exp(-(distance - smallest) / variance) of a row of voxels as bytes, channels innermost."""
    channels, width = distance.shape
    one = np.float32(1)
    for x in range(width):
        # exp(-x) below is taken as exp(-x / 8) ^ 8.
        variance[x] = np.float32(0.125) / variance[x] if variance[x] > 0 else np.float32(0)
    for c in range(channels):
        row = distance[c]
        for x in range(width):
            # A rational function vectorises where a call of exp does not; it is right to 3e-4.
            v = (row[x] - smallest[x]) * variance[x]
            e = one / (one + v * (one + v * (np.float32(0.5) + v * np.float32(1 / 6))))
            e *= e
            e *= e
            e *= e
            row[x] = e * np.float32(255) + np.float32(0.5)
    for x in range(width):
        for c in range(channels):
            out[x, c] = np.uint8(distance[c, x])


@inlined
def _bits(distance, smallest, variance, limits, shift, word, codes):
    """Thermometer bits of a row of voxels: comparing distances takes no exponential."""
    channels, width = distance.shape
    bits = limits.shape[0]
    together = 31 // bits  # channels whose bits fit a word of 32, sign excluded
    for first in range(0, channels, together):
        word[:] = 0
        for c in range(first, min(first + together, channels)):
            row = distance[c]
            for j in range(bits):
                bit = np.int32(1 << ((c - first) * bits + j))
                limit = limits[j]
                for x in range(width):
                    word[x] |= bit if row[x] - smallest[x] <= limit * variance[x] else np.int32(0)
        place = np.uint64(shift + first * bits)
        for x in range(width):
            codes[x] |= np.uint64(word[x]) << place


@compiled
def _mind(
    first_tile,
    last_tile,
    padded,
    pairs,
    radius_z,
    radius,
    dilation_z,
    dilation,
    lower,
    upper,
    shape,
    out,
    limits,
    shift,
    codes,
):
    """Bytes of the features to ``out``; where that is empty, their thermometer bits from ``shift`` on to ``codes``."""
    depth, height, width = shape
    channels = pairs.shape[0]
    tiles_y = (height + _ROWS - 1) // _ROWS
    span_z, span = 2 * radius_z + 1, 2 * radius + 1
    for tile in range(first_tile, last_tile):
        z0, y0 = (tile // tiles_y) * _SLICES, (tile % tiles_y) * _ROWS
        z1, y1 = min(depth, z0 + _SLICES), min(height, y0 + _ROWS)
        rows = y1 - y0
        # The sums over x and y of the last few slices, from which the sum over z is made.
        ring = np.empty((span_z, channels, rows, width), np.float32)
        squares = np.empty(width + 2 * radius, np.float32)
        summed_x = np.empty((rows + 2 * radius, width), np.float32)
        distance = np.empty((channels, width), np.float32)
        smallest = np.empty(width, np.float32)
        variance = np.empty(width, np.float32)
        word = np.empty(width, np.int32)
        for z in range(z0, z1 + 2 * radius_z):
            slot = (z - z0) % span_z
            for c in range(channels):
                az, bz = z + dilation_z + pairs[c, 0, 0], z + dilation_z + pairs[c, 1, 0]
                ax, bx = dilation + pairs[c, 0, 2], dilation + pairs[c, 1, 2]
                for y in range(rows + 2 * radius):
                    a = padded[az, y0 + y + dilation + pairs[c, 0, 1], ax : ax + width + 2 * radius]
                    b = padded[bz, y0 + y + dilation + pairs[c, 1, 1], bx : bx + width + 2 * radius]
                    for x in range(width + 2 * radius):
                        d = a[x] - b[x]
                        squares[x] = d * d
                    row = summed_x[y]
                    for x in range(width):
                        row[x] = squares[x]
                    for k in range(1, span):
                        for x in range(width):
                            row[x] += squares[x + k]
                for y in range(rows):
                    row = ring[slot, c, y]
                    for x in range(width):
                        row[x] = summed_x[y, x]
                    for k in range(1, span):
                        for x in range(width):
                            row[x] += summed_x[y + k, x]
            slice_ = z - 2 * radius_z
            if slice_ < z0:
                continue
            for y in range(rows):
                smallest[:] = np.inf
                variance[:] = 0
                for c in range(channels):
                    row = distance[c]
                    row[:] = ring[0, c, y]
                    for k in range(1, span_z):
                        more = ring[k, c, y]
                        for x in range(width):
                            row[x] += more[x]
                    for x in range(width):
                        variance[x] += row[x]
                        smallest[x] = row[x] if row[x] < smallest[x] else smallest[x]
                for x in range(width):
                    variance[x] = min(max(variance[x] / channels - smallest[x], lower), upper)
                if out.shape[0] > 0:
                    _features(distance, smallest, variance, out[slice_, y0 + y])
                else:
                    _bits(distance, smallest, variance, limits, shift, word, codes[slice_, y0 + y])


def mind_features(image: np.ndarray, *, radius: int = 1, dilation: int = 2) -> np.ndarray:
    """MIND-SSC features as bytes, channels innermost.

    Parameters
    ----------
    image : numpy.ndarray
        Intensities, axes (z,) y, x.
    radius, dilation : int
        See :func:`itk_pdd.kernels.mind.definition.mind_ssc`.

    Returns
    -------
    numpy.ndarray
        uint8, shape (z, y, x, 16) (z = 1 for a 2-D image): 255 times the feature, rounded; channels beyond the 12
        (2-D: 4) of the descriptor are zero.
    """
    out = np.zeros((*_stack(image).shape, CHANNELS), np.uint8)
    _run(image, radius, dilation, out, np.empty(0, np.float32), 0, np.empty((0, 0, 0), np.uint64))
    return out


def add_codes(image: np.ndarray, codes: np.ndarray, *, bits: int, shift: int = 0, radius: int = 1, dilation: int = 2):
    """Write MIND-SSC features into 64-bit codes whose Hamming distance is the L1 distance of the quantised features.

    Each channel takes ``bits`` bits, of which as many are set as its value, times ``bits`` and rounded, says.

    Parameters
    ----------
    image : numpy.ndarray
        Intensities, axes (z,) y, x.
    codes : numpy.ndarray
        uint64, shape (z, y, x) (z = 1 for a 2-D image): where the bits, zero so far, are set.
    bits : int
        Bits per channel; more distinguish more finely.
    shift : int
        First bit of the code that is used.
    radius, dilation : int
        See :func:`itk_pdd.kernels.mind.definition.mind_ssc`.
    """
    # e bits >= j + 1/2 for e = exp(-x) is x <= log(bits / (j + 1/2)).
    limits = np.log(bits / (np.arange(bits) + 0.5)).astype(np.float32)
    _run(image, radius, dilation, np.empty((0, 0, 0, CHANNELS), np.uint8), limits, shift, codes)


def _stack(image):
    volume = np.asarray(image, dtype=np.float32)
    return volume if volume.ndim == 3 else volume[None]


def _run(image, radius, dilation, out, limits, shift, codes):
    dimension = image.ndim
    deep = dimension == 3
    pairs = dilation * self_similarity_pairs(dimension)
    if not deep:
        pairs = np.concatenate([np.zeros_like(pairs[..., :1]), pairs], axis=-1)
    volume = _stack(image)
    margins = [((radius + dilation) * deep,) * 2, *((radius + dilation,) * 2,) * 2]
    padded = np.pad(volume, margins, mode="edge")
    arguments = (padded, pairs, radius * deep, radius, dilation * deep, dilation)
    sampled = [-(-size // VARIANCE_STRIDE) for size in volume.shape]
    sums = np.zeros(sampled[0])
    run(_variance, sampled[0], *arguments, VARIANCE_STRIDE, volume.shape, sums)
    mean = sums.sum() / np.prod(sampled)
    lower, upper = (np.float32(factor * mean) for factor in VARIANCE_RANGE)
    tiles = -(-volume.shape[0] // _SLICES) * -(-volume.shape[1] // _ROWS)
    run(_mind, tiles, *arguments, lower, upper, volume.shape, out, limits, shift, codes)


def code_bits(channels: int) -> int:
    """Bits per channel where a code holds so many channels."""
    return min(64 // channels, 16)
