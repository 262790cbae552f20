"""
Sliding organs
==============

A lung that slides along the wall of the chest: one mask per side keeps the slip that a smooth field blurs.

Outside a fixed mask costs do not count and the field is carried on smoothly from its surroundings. So each side of
the sliding surface is registered alone, with masks for both images, and the two fields are joined along the surface.
The masks end a little before it: the features of a voxel look at its surroundings, too.
"""

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

import itk_pdd

SPACING, HALF_WIDTH, SLIP = 2.0, 60.0, 16.0  # mm


def make_chest(seed: int = 0):
    """Fixed and moving image, where the lung is, and the true displacement (y, x, 2) in mm, components x, y."""
    rng = np.random.default_rng(seed)
    shape = (112, 112)
    y, x = np.meshgrid(*[np.arange(n) * SPACING for n in shape], indexing="ij")
    lung = np.abs(x - x.mean()) < HALF_WIDTH
    # Vessels and ribs, and the lung moves down, less so near its top: along the wall everywhere, through it nowhere.
    inside, outside = (ndimage.gaussian_filter(rng.normal(size=shape), 2.0) for _ in range(2))
    down = SLIP * (0.5 + 0.5 * y / y.max())
    height = y[:, 0]
    source = np.interp(height, height + down[:, 0], height)  # where what is seen at a height has come from
    rows = np.broadcast_to((source / SPACING)[:, None], shape), np.broadcast_to(np.arange(shape[1]), shape)
    moved = ndimage.map_coordinates(inside, rows, order=1, mode="nearest")
    tissue = [np.where(lung, -700 + 600 * texture, 40 + 600 * outside) for texture in (inside, moved)]
    truth = np.stack([np.zeros(shape), np.where(lung, down, 0)], axis=-1)
    images = [sitk.GetImageFromArray(array.astype(np.float32)) for array in tissue]
    for image in images:
        image.SetSpacing([SPACING] * 2)
    return (*images, lung, truth)


def vectors(transform: sitk.DisplacementFieldTransform) -> np.ndarray:
    """The displacements (y, x, 2) of a transform in mm, components x, y."""
    return sitk.GetArrayFromImage(transform.GetDisplacementField())


def side(region: np.ndarray, reference: sitk.Image) -> sitk.Image:
    """The mask of a region without its outermost three voxels; the border of the image cuts nothing off."""
    mask = sitk.GetImageFromArray(ndimage.binary_erosion(region, iterations=3, border_value=1).astype(np.uint8))
    mask.CopyInformation(reference)
    return mask


def main() -> None:
    fixed, moving, lung, truth = make_chest()
    smooth = vectors(itk_pdd.register(fixed, moving))
    # The lung does not change its place across the wall, so a mask holds for both images.
    masks = [side(region, fixed) for region in (lung, ~lung)]
    sides = [vectors(itk_pdd.register(fixed, moving, fixed_mask=mask, moving_mask=mask)) for mask in masks]
    joined = np.where(lung[..., None], *sides)

    near = ndimage.distance_transform_edt(lung) + ndimage.distance_transform_edt(~lung) <= 3
    first, last = np.flatnonzero(lung[0])[[0, -1]]
    for name, field in (("before", 0 * truth), ("one field", smooth), ("one per side", joined), ("truth", truth)):
        error = np.linalg.norm(field - truth, axis=-1)
        slip = [
            field[10:-10, inner, 1] - field[10:-10, outer, 1] for inner, outer in ((first, first - 1), (last, last + 1))
        ]
        print(
            f"{name}: error {error.mean():.2f} mm, near the wall {error[near].mean():.2f} mm, "
            f"slip at the wall {np.mean(slip):.1f} mm"
        )

    for name, field in (("one field", smooth), ("one field per side: the lines break at the wall", joined)):
        image = sitk.GetImageFromArray(field.astype(float), isVector=True)
        image.CopyInformation(fixed)
        itk_pdd.plot.deformation_grid(sitk.DisplacementFieldTransform(image)).set_title(name)


if __name__ == "__main__":
    main()
