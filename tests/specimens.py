"""Small valid files of every kind the commands read, as bytes by file name: what the fuzz run damages."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from conftest import blobs, rotation, wave

from itk_pdd.geometry.grid import Grid
from itk_pdd.io.files import write_image
from itk_pdd.io.volume import Volume

GRID = Grid.create((13, 12, 10), (1.5, 2.0, 2.5), (-5.0, 8.0, 3.0), rotation(10, 5, -20))
FLAT = Grid.create((20, 16), (1.0, 1.5))

Files = dict[str, bytes]

IMAGES = ("x.nii", "x.nii.gz", "x.hdr", "x.mha", "packed.mha", "x.mhd", "x.nrrd", "packed.nrrd", "x.nhdr", "x.vtk",
          "x.tif", "x.png", "short.nii.gz", "rgb.mha", "two.nii", "x.mgh", "x.mgz")  # fmt: skip
TRANSFORMS = ("affine.tfm", "affine.h5", "affine.mat", "elastix.txt", "bspline.txt", "field.nii.gz", "field.mha",
              "field.h5", "bspline.tfm", "composite.h5")  # fmt: skip
POINTS = ("p.csv", "p.fcsv", "p.mrk.json", "p.vtk", "binary.vtk")


def build(folder: Path) -> dict[str, Files]:
    """All specimens by kind; ``folder`` is used for what only libraries can write."""
    made: dict[str, Files] = {}
    for name in IMAGES:
        made[f"image {name}"] = _collected(
            folder / name.replace(".", "-"), lambda place, name=name: _image(place / name)
        )
    made["dicom"] = _collected(folder / "dicom", _dicom)
    for name in TRANSFORMS:
        made[f"transform {name}"] = _collected(
            folder / ("t-" + name.replace(".", "-")), lambda place, name=name: _transform(place / name)
        )
    for name in POINTS:
        made[f"points {name}"] = {name: _points(name)}
    made["model"] = _collected(folder / "model", _model)
    made["checkpoint"] = _collected(folder / "checkpoint", _checkpoint)
    made["list data.csv"] = {
        "data.csv": b"image,labels,split,name\nfixed.nii,mask.nii,train,a\nmoving.nii,mask.nii,validation,b\n"
    }
    made["list data.json"] = {
        "data.json": b'{"name": "t", "training": [{"image": "./fixed.nii", "label": "mask.nii"}, '
        b'{"image": "moving.nii", '
        b'"label": "mask.nii"}], "registration_val": [{"fixed": "moving.nii", "moving": "fixed.nii"}]}'
    }
    return made


def _collected(folder: Path, write: Callable[[Path], None]) -> Files:
    folder.mkdir(parents=True, exist_ok=True)
    write(folder)
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def _image(path: Path) -> None:
    import SimpleITK

    if path.name == "two.nii":
        header = bytearray(544)
        struct.pack_into("<i8s2h8q", header, 0, 540, b"n+2\0\r\n\x1a\n", 16, 32, 3, *GRID.size, 1, 1, 1, 1)
        struct.pack_into("<8d", header, 104, 1, *GRID.spacing, 0, 0, 0, 0)
        struct.pack_into("<q", header, 168, 544)
        path.write_bytes(bytes(header) + blobs(GRID, seed=3).array.tobytes())
        return

    flat = path.suffix in (".png", ".tif")
    dtype = np.uint8 if flat or path.stem == "rgb" else np.int16 if path.stem == "short.nii" else np.float32
    volume = blobs(FLAT if flat else GRID, seed=3, dtype=dtype)
    image = volume.to_simpleitk()
    if path.stem == "rgb":
        image = SimpleITK.Compose([image, image, image])
    if path.suffix in (".mgh", ".mgz"):
        write_image(image, path)
    else:
        SimpleITK.WriteImage(image, str(path), path.stem == "packed")


def _dicom(folder: Path) -> None:
    import SimpleITK

    grid = Grid.create(GRID.size, GRID.spacing, GRID.origin)
    image = Volume(blobs(GRID, seed=3).array.astype(np.int16), grid).to_simpleitk()
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(6):
        part = image[:, :, k]
        tags = {
            "0008|0060": "CT", "0020|000d": "1.2.3.1", "0020|000e": "1.2.3.2", "0008|0018": f"1.2.3.3.{k}",
            "0020|0013": str(k), "0020|0032": "\\".join(f"{v:.6f}" for v in grid.to_physical(np.array([0, 0, k]))),
            "0020|0037": "1\\0\\0\\0\\1\\0",
        }  # fmt: skip
        for tag, value in tags.items():
            part.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{k}.dcm"))
        writer.Execute(part)


def _affine():
    import SimpleITK

    affine = SimpleITK.AffineTransform(3)
    affine.SetMatrix((rotation(2, 3, -4) * 1.02).ravel().tolist())
    affine.SetTranslation((1.0, -0.5, 0.25))
    return affine


def _spline():
    import SimpleITK

    spline = SimpleITK.BSplineTransformInitializer(Volume(np.zeros(GRID.shape), GRID).to_simpleitk(), [2, 2, 2])
    spline.SetParameters(np.random.default_rng(0).normal(0, 0.5, len(spline.GetParameters())).tolist())
    return spline


def _transform(path: Path) -> None:
    import SimpleITK

    from itk_pdd.io.fields import field_to_simpleitk, write_field

    if path.stem.startswith("field"):
        write_field(wave(GRID), path)
    elif path.name == "elastix.txt":
        path.write_text(
            '(Transform "AffineTransform")\n(NumberOfParameters 12)\n'
            "(TransformParameters 1.02 0 0 0 1 0 0 0 0.98 1 2 3)\n"
            '(InitialTransformParameterFileName "NoInitialTransform")\n(HowToCombineTransforms "Compose")\n'
            '(FixedImageDimension 3)\n(MovingImageDimension 3)\n(UseDirectionCosines "true")\n'
            "(CenterOfRotationPoint 1 2 3)\n"
        )
    elif path.name == "bspline.txt":
        numbers = " ".join(f"{v:.4f}" for v in np.random.default_rng(1).normal(0, 0.5, 3 * 125))
        path.write_text(
            '(Transform "BSplineTransform")\n(NumberOfParameters 375)\n(TransformParameters ' + numbers + ")\n"
            '(InitialTransformParameterFileName "NoInitialTransform")\n(FixedImageDimension 3)\n(GridSize 5 5 5)\n'
            "(GridIndex 0 0 0)\n(GridSpacing 15 15 15)\n(GridOrigin -20 -10 -10)\n(GridDirection 1 0 0 0 1 0 0 0 1)\n"
            '(BSplineTransformSplineOrder 3)\n(UseCyclicTransform "false")\n(UseDirectionCosines "true")\n'
        )
    elif path.name == "bspline.tfm":
        SimpleITK.WriteTransform(_spline(), str(path))
    elif path.stem == "composite":
        SimpleITK.WriteTransform(SimpleITK.CompositeTransform([_affine(), field_to_simpleitk(wave(GRID))]), str(path))
    else:
        SimpleITK.WriteTransform(_affine(), str(path))


def _points(name: str) -> bytes:
    points = GRID.to_physical(np.random.default_rng(2).uniform(2, 7, (5, 3)))
    if name == "p.csv":
        return b"x,y,z,label\n" + "".join(f"{x:.3f},{y:.3f},{z:.3f},a\n" for x, y, z in points).encode()
    if name == "p.fcsv":
        head = (
            "# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n# columns = id,x,y,z,ow,ox,oy,oz,vis\n"
        )
        return (
            head + "".join(f"{i},{x:.3f},{y:.3f},{z:.3f},0,0,0,1,1\n" for i, (x, y, z) in enumerate(points))
        ).encode()
    if name == "p.mrk.json":
        listed = ",".join(f'{{"id": "{i}", "position": {point.tolist()}}}' for i, point in enumerate(points))
        return (
            f'{{"markups": [{{"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": [{listed}]}}]}}'.encode()
        )
    binary = name == "binary.vtk"
    lines = "\n".join(" ".join(f"{v:.3f}" for v in p) for p in points).encode()
    body = points.astype(">f4").tobytes() if binary else lines
    head = f"# vtk DataFile Version 3.0\npoints\n{'BINARY' if binary else 'ASCII'}\nDATASET POLYDATA\nPOINTS 5 float\n"
    return head.encode() + body + b"\n"


def _model(folder: Path) -> None:
    import torch

    from itk_pdd.network.card import LabelClass, ModelCard
    from itk_pdd.network.export import write_model
    from itk_pdd.network.preparation import Intensity
    from itk_pdd.network.settings import UNetSettings
    from itk_pdd.network.unet import UNet

    torch.manual_seed(0)
    settings = UNetSettings(classes=3, widths=(4, 4), fold=1)
    classes = tuple(LabelClass(name, i, 100.0 * i) for i, name in enumerate(("background", "one", "two")))
    write_model(folder, UNet(settings), ModelCard("tiny", "for tests", settings, 2.0, Intensity(), classes))


def _checkpoint(folder: Path) -> None:
    import torch

    from itk_pdd.training.checkpoint import write_checkpoint

    tensors = {"a": torch.arange(6.0).reshape(2, 3), "optimizer.0.step": torch.tensor(3.0)}
    write_checkpoint(folder, tensors, {"iteration": 3, "best": [0.5, None], "settings": {"rate": 0.1}})
