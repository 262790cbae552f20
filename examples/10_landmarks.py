"""
Landmarks as guides
===================

Landmarks as guides: a few right pairs, one of them wrong, and the error at points that were not given.
"""

import warnings

import numpy as np
import SimpleITK as sitk

import itk_pdd
from itk_pdd.synthesis import make_pair


def main() -> None:
    pair = make_pair((120, 100), 2.0, seed=4, displacement=20)
    fixed, moving = pair.fixed.to_simpleitk(), pair.moving.to_simpleitk()
    inside = np.argwhere(pair.body)
    chosen = inside[np.random.default_rng(0).permutation(len(inside))[:60]]
    points = pair.fixed.grid.to_physical(chosen[:, ::-1])
    there = points + pair.truth.at(points)

    def error(transform: sitk.Transform, which: slice) -> float:
        moved = np.array([transform.TransformPoint(point.tolist()) for point in points[which]])
        return float(np.linalg.norm(moved - there[which], axis=1).mean())

    given, others = slice(0, 10), slice(10, None)
    marks = there[given].copy()
    marks[3] += (30.0, -25.0)  # a pair that was mixed up
    right = [i for i in range(10) if i != 3]
    transforms = {"images alone": itk_pdd.register(fixed, moving)}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        transforms["guided by landmarks"] = itk_pdd.register(
            fixed, moving, fixed_points=points[given], moving_points=marks, point_uncertainty=0.5
        )
    for name, transform in transforms.items():
        near, far = error(transform, right), error(transform, others)
        print(f"{name}: error {near:.2f} mm at the landmarks, {far:.2f} mm elsewhere")
    (named,) = [str(each.message) for each in told if "not obeyed" in str(each.message)]
    print(f"not obeyed: landmark {named.split('not obeyed: ')[1].split(' ')[0]}")

    axes = itk_pdd.plot.overlay(fixed, moving)  # before: fixed green, moving magenta, grey where they agree
    for start, end in zip(points[given], marks, strict=True):  # from the fixed landmark to the moving one
        axes.annotate("", xytext=start, xy=end, arrowprops={"arrowstyle": "->", "color": "orange"})
    itk_pdd.plot.overlay(fixed, itk_pdd.warp_image(moving, transforms["guided by landmarks"]))


if __name__ == "__main__":
    main()
