"""3D Slicer's segmentations (.seg.nrrd): layers of labels, and what is known of their segments."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from itk_pdd.errors import RegistrationError, warn
from itk_pdd.io import files
from itk_pdd.io.outputs import extension

if TYPE_CHECKING:
    import SimpleITK

__all__ = ["carry_segments", "labels_writer", "layers_of", "segment_names"]

_SEGMENT = re.compile(r"Segment(\d+)_(\w+)")
_EMPTY = "0 -1 0 -1 0 -1"
_NRRD = (".nrrd", ".nhdr")


def layers_of(image: Any) -> list[Any]:
    """Split a segmentation into its layers, images of one component; any other image is its only layer."""
    if not _segments(image) or image.GetNumberOfComponentsPerPixel() == 1:
        return [image]
    import SimpleITK

    return [SimpleITK.VectorIndexSelectionCast(image, i) for i in range(image.GetNumberOfComponentsPerPixel())]


def segment_names(image: Any) -> dict[int, str]:
    """Return the names of the segments of an image by their label values; nothing of other images."""
    found = {int(float(known.get("LabelValue", 1))): known.get("Name", "") for known in _segments(image).values()}
    return {value: name for value, name in found.items() if name}


def carry_segments(source: Any, target: SimpleITK.Image) -> None:
    """Give an image the segments of another one: names, colours, label values and layers; extents are computed."""
    segments = _segments(source)
    if not segments:
        return
    import SimpleITK

    array = SimpleITK.GetArrayViewFromImage(target)
    layers = np.moveaxis(array, -1, 0) if array.ndim > target.GetDimension() else array[None]
    for key in source.GetMetaDataKeys():
        if key.startswith("Segment"):
            target.SetMetaData(key, source.GetMetaData(key))
    for number, known in segments.items():
        # Older files hold one segment a layer, as 1.
        layer = int(known.get("Layer", number if len(layers) > 1 else 0))
        if "Extent" in known and layer < len(layers):
            extent = _extent(layers[layer] == float(known.get("LabelValue", 1)))
            target.SetMetaData(f"Segment{number}_Extent", extent)
    if "Segmentation_ReferenceImageExtentOffset" in source.GetMetaDataKeys():
        target.SetMetaData("Segmentation_ReferenceImageExtentOffset", "0 0 0")
    if "Segmentation_ConversionParameters" in source.GetMetaDataKeys():
        # One of them is the geometry of the image before.
        parameters = source.GetMetaData("Segmentation_ConversionParameters").split("&")
        kept = [each for each in parameters if not each.startswith("Reference image geometry|")]
        target.SetMetaData("Segmentation_ConversionParameters", "&".join(kept))


def labels_writer(labels: SimpleITK.Image, output: Any) -> Callable[[Path], None]:
    """Give a function that writes labels; names of segments are kept in NRRD alone, which a warning says.

    Several layers in a format that knows none are refused.
    """
    layers, nrrd = labels.GetNumberOfComponentsPerPixel() > 1, extension(output) in _NRRD
    if layers and not nrrd:
        raise RegistrationError(f"labels overlap in several layers, which {output} cannot hold: write a .seg.nrrd file")
    if _segments(labels) and not nrrd:
        warn(f"{output} cannot hold the names and colours of the segments: write a .seg.nrrd file to keep them")

    def write(path: Path) -> None:
        files.write_image(labels, path)
        if layers:
            # ITK calls the axis of layers a vector, 3D Slicer a list.
            head, separator, voxels = path.read_bytes().partition(b"\n\n")
            path.write_bytes(head.replace(b"kinds: vector", b"kinds: list", 1) + separator + voxels)

    return write


def _segments(image: Any) -> dict[int, dict[str, str]]:
    """Return what is known of each segment of an image of SimpleITK; nothing of other images."""
    found: dict[int, dict[str, str]] = {}
    for key in image.GetMetaDataKeys() if hasattr(image, "GetMetaDataKeys") else ():
        match = _SEGMENT.fullmatch(key)
        if match:
            found.setdefault(int(match[1]), {})[match[2]] = image.GetMetaData(key)
    return found


def _extent(inside: np.ndarray) -> str:
    """First and last index along x, y and z."""
    from scipy import ndimage

    box = ndimage.find_objects(inside.astype(np.uint8))
    return " ".join(f"{part.start} {part.stop - 1}" for part in box[0][::-1]) if box else _EMPTY
