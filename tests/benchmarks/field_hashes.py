"""Hashes of the fields of a fixed list of registrations, to show that a change of the code changes no result.

    python -P tests/benchmarks/field_hashes.py before.json --keep before/
    python -P tests/benchmarks/field_hashes.py after.json --keep after/ --compare before.json

The first call stands for the code as it was, the second for the code as it is. A hash is the SHA-256 of the bytes of a
field: float32 millimetres, shape (z, y, x, dim) or (y, x, dim), components x, y, z. Everything goes through
``itk_pdd.register`` and the command ``pdd-register --demo``, on the CPU, so the script runs with any version of the
package. What is in the file already is not computed again. The data are in the folder that ITK_PDD_DATA names; without
it only the synthetic pair is registered. Hashes agree on one machine with the same versions of the libraries and the
same number of threads: the default model gives the same bits with any number, but the sums of a trained network do not,
nor do those of another processor.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import SimpleITK

import itk_pdd

_CLASSIC = (
    ("BrainProtonDensitySliceBorder20.png", "BrainProtonDensitySliceR10X13Y17S12.png"),
    ("BrainProtonDensitySlice256x256.png", "BrainProtonDensitySliceBSplined10.png"),
    ("BrainT1SliceBorder20.png", "BrainProtonDensitySliceBorder20.png"),
    ("CT_2D_head_fixed.mha", "CT_2D_head_moving.mha"),
)
_LIBRARIES = ("itk", "llvmlite", "numba", "numpy", "scipy", "SimpleITK", "torch")


@dataclass(frozen=True)
class Case:
    """One registration: the files, and the options of :func:`itk_pdd.register`."""

    name: str
    fixed: Path
    moving: Path
    masks: tuple[Path, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """The field of a case, or another image that a registration gives, and the grid that it lies on."""

    array: np.ndarray
    spacing: tuple[float, ...]
    direction: tuple[float, ...]

    @classmethod
    def from_image(cls, image: SimpleITK.Image) -> Result:
        """The numbers of an image in float32."""
        array = np.ascontiguousarray(SimpleITK.GetArrayFromImage(image), dtype="<f4")
        return cls(array, image.GetSpacing(), image.GetDirection())

    @property
    def sha256(self) -> str:
        """Of the bytes."""
        return hashlib.sha256(self.array.tobytes()).hexdigest()


def cases(data: Path | None, demo: Path) -> Iterator[Case]:
    """All cases but the demo's own; ``demo`` is the folder of its images."""
    yield Case("demo/general", demo / "fixed.nii.gz", demo / "moving.nii.gz", options={"model": "general"})
    if data is None:
        return
    splits = json.loads((data / "splits.json").read_text())
    for kind, members, model in (
        ("abdomen", [f"abdomen_ct/image_{n}" for n in splits["abdomen_ct"]["validation"]], "abdomen-ct"),
        (
            "hippocampus",
            [f"hippocampus_mr/images/{n}" for n in splits["hippocampus_mr"]["validation"]],
            "hippocampus-mr",
        ),
    ):
        files = [data / f"{name}.nii.gz" for name in members[:4]]
        for number, pair in enumerate(itertools.pairwise(files), start=1):
            yield Case(f"{kind}-{number}/auto", *pair)
            yield Case(f"{kind}-{number}/{model}", *pair, options={"model": model})
            if number == 1:
                yield Case(f"{kind}-{number}/general", *pair, options={"model": "general"})
    # The smallest images tell what else there is besides the default.
    for name, options in {
        "affine": {"initialise": "affine"},
        "smooth": {"initialise": "center", "smoothness": 2.0},
        "uncertainty": {"return_uncertainty": True},
    }.items():
        yield Case(f"hippocampus-1/auto-{name}", *files[:2], options=options)
    lung = [data / f"lung_ct/3DCT_lung_{name}.mha" for name in ("baseline", "followup")]
    masks = tuple(path.with_name(f"{path.stem}_mask.mha") for path in lung)
    yield Case("lung/auto", *lung)
    yield Case("lung/auto-masks", *lung, masks)
    yield Case("lung/general", *lung, options={"model": "general"})
    for number, names in enumerate(_CLASSIC, start=1):
        yield Case(f"classic-{number}/auto", *(data / "classic_2d" / name for name in names))
    head = [data / f"classic_2d/CT_2D_head_{name}.mha" for name in ("fixed", "moving")]
    masks = tuple(path.with_name(f"{path.stem}_mask.mha") for path in head)
    yield Case(f"classic-{len(_CLASSIC)}/auto-masks", *head, masks)


def read(path: Path) -> SimpleITK.Image:
    """An image of scalars: some of the 2-D pictures are stored as grey RGB, whose channels are equal."""
    image = SimpleITK.ReadImage(str(path))
    return image if image.GetNumberOfComponentsPerPixel() == 1 else SimpleITK.VectorIndexSelectionCast(image, 0)


def register(case: Case, threads: int) -> Result:
    """The field of a case, or, where the options ask for it, the standard deviation of its displacements."""
    masks = dict(zip(("fixed_mask", "moving_mask"), map(read, case.masks), strict=False))
    options = {"device": "cpu", "threads": threads, **masks, **case.options}
    found = itk_pdd.register(read(case.fixed), read(case.moving), **options)
    if case.options.get("return_uncertainty"):
        return Result.from_image(found[1])
    return Result.from_image(SimpleITK.DisplacementFieldTransform(found).GetDisplacementField())


def run_demo(folder: Path, threads: int) -> None:
    """``pdd-register --demo``: the images, the true field and the field that was found."""
    command = Path(sysconfig.get_path("scripts")) / "pdd-register"
    subprocess.run([command, "--demo", folder, "--device", "cpu", "--threads", str(threads)], check=True)


def machine(threads: int) -> dict[str, Any]:
    """What the last bits may depend on."""
    return {
        "threads": threads,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "libraries": {name: version(name) for name in _LIBRARIES},
    }


def compare(row: dict[str, Any], found: Path | Result | None, earlier: dict[str, Any], kept: Path) -> str:
    """In words: whether a field is the earlier one, and how far apart they are, in voxels, if they differ."""
    if row["sha256"] == earlier["sha256"]:
        return "same"
    if row["shape"] != earlier["shape"]:
        return f"DIFFERS: shape {row['shape']}, before {earlier['shape']}"
    if isinstance(found, Path):
        found = np.load(found) if found.is_file() else None
    elif found is not None:
        found = found.array
    if found is None or not kept.is_file():
        return "DIFFERS (no field was kept to tell by how much)"
    change = (found - np.load(kept)).astype(float)
    apart = np.abs(change[change != 0])
    told = f"DIFFERS in {apart.size} of {change.size} numbers, up to {apart.max(initial=0):.3g}"
    if change.ndim == len(row["spacing"]):  # scalars
        return told
    axes = np.array(row["direction"]).reshape(2 * [len(row["spacing"])])
    voxels = np.linalg.norm(change @ axes / row["spacing"], axis=-1)
    return f"{told} mm; distance in voxels: mean {voxels.mean():.3g}, max {voxels.max():.3g}"


def write(path: Path, table: dict[str, Any]) -> None:
    """The file of hashes, whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")
    os.replace(temporary, path)


def data_folder() -> Path | None:
    """Folder of the data, or None, saying so."""
    named = os.environ.get("ITK_PDD_DATA")
    if named and (Path(named) / "splits.json").is_file():
        return Path(named)
    where = f"no data in {named}" if named else "ITK_PDD_DATA is not set"
    click.echo(f"skipped all pairs of scans: {where} (it names the folder with splits.json)", err=True)
    return None


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--only", multiple=True, metavar="PATTERN", help="Cases such as 'lung*' or '*/general'; by default all.")
@click.option("--again", is_flag=True, help="Compute what is in OUTPUT as well; a field that differs then is told.")
@click.option("--keep", type=click.Path(path_type=Path), metavar="FOLDER", help="Keep the fields here, as .npy.")
@click.option(
    "--compare",
    "before",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Hashes of an earlier run; the fields that it kept tell how large a difference is.",
)
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True, help="CPU threads.")
@click.option("--list", "listing", is_flag=True, help="Name the cases and stop.")
def main(
    output: Path,
    only: tuple[str, ...],
    again: bool,
    keep: Path | None,
    before: Path | None,
    threads: int,
    listing: bool,
) -> None:
    """Register the pairs of a fixed list and write the hashes of the fields to OUTPUT, a JSON file.

    The pairs of scans are read from the folder that ITK_PDD_DATA names; without it there is the synthetic pair only.
    Cases that are in OUTPUT already are not computed again. Ends with 1 if a field differs.
    """
    table: dict[str, Any] = json.loads(output.read_text()) if output.is_file() else {"cases": {}}
    earlier: dict[str, Any] = json.loads(before.read_text()) if before else {"cases": {}}
    kept = (before.parent / earlier["fields"]).resolve() if before and earlier.get("fields") else Path("nowhere")
    if keep is not None and keep.resolve() == kept:
        raise click.UsageError("--keep names the folder with the fields of the earlier run: choose another.")
    if table["cases"] and table["machine"] != machine(threads):
        raise click.UsageError(f"{output} was made with other threads or libraries: name another file.")
    table["machine"] = machine(threads)
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        table["fields"] = os.path.relpath(keep, output.parent)
    if before and earlier["machine"] != table["machine"]:
        click.echo("the earlier run had other threads or libraries: the last bits may differ", err=True)

    unequal = 0
    with tempfile.TemporaryDirectory() as folder:
        demo = Path(folder) / "demo"
        outputs = {f"demo/{name}": demo / f"{name}.nii.gz" for name in ("field", "truth", "fixed", "moving", "warped")}
        listed: list[tuple[str, Case | Path]] = list(outputs.items())
        listed += [(case.name, case) for case in cases(data_folder(), demo)]
        chosen = [(name, case) for name, case in listed if not only or any(fnmatch(name, each) for each in only)]
        if listing:
            click.echo("\n".join(name for name, _ in chosen))
            return
        for name, case in chosen:
            file = None if keep is None else keep / f"{name.replace('/', '_')}.npy"
            row, words = table["cases"].get(name), []
            found: Path | Result | None = file
            if row is None or again:
                missing = [] if isinstance(case, Path) else [case.fixed, case.moving, *case.masks]
                missing = [path for path in missing if demo not in path.parents and not path.is_file()]
                if missing:
                    click.echo(f"{name}: skipped, there is no {missing[0]}", err=True)
                    continue
                if name.startswith("demo/") and not demo.is_dir():
                    run_demo(demo, threads)
                started = time.perf_counter()
                found = (
                    Result.from_image(SimpleITK.ReadImage(str(case)))
                    if isinstance(case, Path)
                    else register(case, threads)
                )
                words.append(f"{time.perf_counter() - started:.1f} s")
                if row is not None and row["sha256"] != found.sha256:
                    unequal += 1
                    words.append(f"DIFFERS from {output} before")
                row = {
                    "sha256": found.sha256,
                    "shape": list(found.array.shape),
                    "spacing": found.spacing,
                    "direction": found.direction,
                    "mean": float(np.abs(found.array).mean(dtype=float)),
                }
                table["cases"][name] = row
                if file is not None:
                    np.save(file, found.array)
                write(output, table)
            if name in earlier["cases"]:
                told = compare(row, found, earlier["cases"][name], kept / f"{name.replace('/', '_')}.npy")
                unequal += told != "same"
                words.append(told)
            elif before is not None:
                words.append(f"not in {before}")
            click.echo(f"{name} {row['sha256'][:16]} {' '.join(words)}")
    if before is not None:
        click.echo(f"{unequal} differ" if unequal else "all fields are the same")
    sys.exit(1 if unequal else 0)


if __name__ == "__main__":
    main()
