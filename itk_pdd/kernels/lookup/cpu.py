"""The probability of given displacements and its derivative in one pass over the control points (CPU)."""

from __future__ import annotations

import numpy as np

from itk_pdd.kernels.parallel import compiled, run

__all__ = ["probabilities_at"]


@compiled
def _look_up(begin, end, costs, temperature, log_partition, first, step, vectors, found, slope):
    """Items are control points: the probability at a place between eight displacements, and its derivatives."""
    sizes = costs.shape[1:]
    low = np.empty(3, np.int64)
    share = np.empty(3, np.float64)
    inside = np.empty(3, np.float64)
    for point in range(begin, end):
        for axis in range(3):
            index = (vectors[point, 2 - axis] - first[axis]) / step[axis]
            last = sizes[axis] - 1
            # Beyond the outermost displacement nothing changes.
            inside[axis] = 1.0 if 0 <= index <= last else 0.0
            index = min(max(index, 0.0), float(last))
            low[axis] = min(int(np.floor(index)), last - 1)
            share[axis] = index - low[axis]
        value = along_z = along_y = along_x = 0.0
        for i in range(2):
            z = share[0] if i else 1 - share[0]
            for j in range(2):
                y = share[1] if j else 1 - share[1]
                for k in range(2):
                    x = share[2] if k else 1 - share[2]
                    cost = costs[point, low[0] + i, low[1] + j, low[2] + k]
                    probability = np.exp(-temperature * cost - log_partition[point])
                    value += z * y * x * probability
                    along_z += (2 * i - 1) * y * x * probability
                    along_y += (2 * j - 1) * z * x * probability
                    along_x += (2 * k - 1) * z * y * probability
        found[point] = value
        slope[point, 0] = along_x * inside[2] / step[2]
        slope[point, 1] = along_y * inside[1] / step[1]
        slope[point, 2] = along_z * inside[0] / step[0]


def probabilities_at(
    costs: np.ndarray,
    temperature: float,
    log_partition: np.ndarray,
    first: np.ndarray,
    step: np.ndarray,
    vectors: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Probability of one displacement at each control point, and its derivatives.

    Parameters
    ----------
    costs : numpy.ndarray, shape (points, Dz, Dy, Dx)
        Of the displacements.
    temperature : float
        Their factor.
    log_partition : numpy.ndarray, shape (points,)
        Logarithm of the sum of exp(-temperature costs).
    first, step : numpy.ndarray, shape (3,)
        First displacement and distance of neighbouring ones along z, y, x.
    vectors : numpy.ndarray, shape (points, 3)
        Components x, y, z.

    Returns
    -------
    probabilities : numpy.ndarray, shape (points,)
        In the precision of ``costs``.
    derivatives : numpy.ndarray, shape (points, 3)
        With the components x, y, z of the displacement.
    """
    found = np.empty(len(costs), costs.dtype)
    slope = np.empty((len(costs), 3), costs.dtype)
    run(_look_up, len(costs), costs, temperature, log_partition, first, step, vectors, found, slope)
    return found, slope
