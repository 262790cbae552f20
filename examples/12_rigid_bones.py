"""
Rigid bones
===========

Bones that stay rigid: the strain inside a labelled bone with and without it. The largest organ of a synthetic pair, the
liver, stands for the bone.
"""

import numpy as np
import SimpleITK as sitk

import itk_pdd
from itk_pdd.synthesis import make_pair


def main() -> None:
    pair = make_pair((120, 100), 2.0, seed=5, displacement=16)
    fixed, moving = pair.fixed.to_simpleitk(), pair.moving.to_simpleitk()
    labels = pair.fixed_labels.to_simpleitk()
    bone = int(np.bincount(pair.fixed_labels.array[pair.fixed_labels.array > 0]).argmax())
    inside = sitk.GetArrayFromImage(sitk.BinaryErode(labels == bone, [2, 2])) > 0
    for name, known in (("free", {}), ("rigid", {"fixed_labels": labels, "rigid": bone})):
        transform = itk_pdd.register(fixed, moving, **known)
        jacobian = sitk.DisplacementFieldJacobianDeterminant(transform.GetDisplacementField())
        change = np.abs(sitk.GetArrayFromImage(jacobian) - 1)
        folds = np.count_nonzero(sitk.GetArrayFromImage(jacobian) <= 0)
        print(f"{name}: volume changes by {100 * change[inside].mean():.2f} % in the bone, {folds} voxels fold")
        axes = itk_pdd.plot.deformation_grid(transform, image=fixed)
        axes.set_title(f"{name}: lines that are straight in the moving image")


if __name__ == "__main__":
    main()
