"""
Labels as guides
================

Labels of both images as guides: an organ that the images hardly show goes where its labels say.
"""

import numpy as np
import SimpleITK as sitk

import itk_pdd
from itk_pdd.synthesis import make_pair


def dice(fixed: sitk.Image, moving: sitk.Image, label: int) -> float:
    """Overlap of a label."""
    a, b = (sitk.GetArrayViewFromImage(image) == label for image in (fixed, moving))
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def main() -> None:
    pair = make_pair((120, 100), 2.0, seed=2, displacement=20)
    fixed, moving = pair.fixed.to_simpleitk(), pair.moving.to_simpleitk()
    labels = pair.fixed_labels.to_simpleitk(), pair.moving_labels.to_simpleitk()
    known = sorted(set(np.unique(pair.fixed_labels.array)) & set(np.unique(pair.moving_labels.array)) - {0})

    def mean(transform: sitk.Transform) -> float:
        warped = sitk.Resample(labels[1], fixed, transform, sitk.sitkNearestNeighbor)
        return float(np.mean([dice(labels[0], warped, int(label)) for label in known]))

    print(f"before: Dice {mean(sitk.Transform()):.3f}")
    print(f"images alone: Dice {mean(itk_pdd.register(fixed, moving)):.3f}")
    guided = itk_pdd.register(fixed, moving, fixed_labels=labels[0], moving_labels=labels[1])
    print(f"guided by labels: Dice {mean(guided):.3f}")

    itk_pdd.plot.overlay(fixed, moving)  # before: fixed green, moving magenta, grey where they agree
    itk_pdd.plot.overlay(fixed, itk_pdd.warp_image(moving, guided))


if __name__ == "__main__":
    main()
