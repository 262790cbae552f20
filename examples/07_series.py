"""
A series made still
===================

A 4-D series (breathing) is registered phase by phase to its first one, and put together again as a 4-D image.
"""

import numpy as np
import SimpleITK as sitk

import itk_pdd
from itk_pdd.synthesis import make_pair, random_deformation

PHASES = (0.0, 0.5, 1.0, 0.5)  # of the way from breathing out to breathing in


def main() -> None:
    series, truth, body = make_series()
    first = phase_of(series, 0)
    moved, fields = [first], []
    for number in range(1, series.GetSize()[3]):
        phase = phase_of(series, number)
        transform = itk_pdd.register(first, phase)
        moved.append(sitk.Resample(phase, first, transform, sitk.sitkLinear, -1000.0))
        fields.append(sitk.GetArrayFromImage(transform.GetDisplacementField()))
    still = sitk.JoinSeries(moved, series.GetOrigin()[3], series.GetSpacing()[3])

    for name, image in (("before", series), ("after", still)):
        spread = sitk.GetArrayViewFromImage(image).std(axis=0)[body].mean()
        lengths = np.linalg.norm(truth - (0 if image is series else np.stack(fields)), axis=-1)
        print(f"{name}: error {lengths[:, body].mean():.2f} mm, deviation over time {spread:.1f} HU")
    print(f"motion-free series of {' x '.join(map(str, still.GetSize()))} voxels")

    itk_pdd.plot.overlay(first, phase_of(series, 2))  # before: first green, third phase magenta, grey where they agree
    itk_pdd.plot.overlay(first, moved[2])


def phase_of(series: sitk.Image, number: int) -> sitk.Image:
    """One 3-D image of a 4-D one."""
    return sitk.Extract(series, [*series.GetSize()[:3], 0], [0, 0, 0, number])


def make_series() -> tuple[sitk.Image, np.ndarray, np.ndarray]:
    """A synthetic series, the true fields (phase, z, y, x, 3) from the first phase in mm, and where the body is."""
    grid = itk_pdd.Grid.create((48, 40, 32), 6.0)
    phases, truth = [], []
    for part in PHASES:
        # One motion, more or less of it.
        motion = random_deformation(grid, seed=7, magnitude=24.0 * part)
        pair = make_pair(grid.size, grid.spacing, seed=2, deformation=motion)
        phases.append(pair.moving.to_simpleitk())
        truth.append(pair.truth.vectors)
    return sitk.JoinSeries(phases, 0.0, 1.0), np.stack(truth[1:]), pair.body


if __name__ == "__main__":
    main()
