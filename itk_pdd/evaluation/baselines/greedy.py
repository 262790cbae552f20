"""Greedy diffeomorphic registration of PICSL."""

from __future__ import annotations

from itk_pdd.evaluation.baselines import Task
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.io.fields import read_field, write_field
from itk_pdd.io.volume import Volume


def register(task: Task) -> None:
    """Register with greedy; the settings are its command line options."""
    from picsl_greedy import Greedy2D, Greedy3D

    grid = Volume.from_image(task.fixed).grid
    dimension = grid.dimension
    settings = task.settings
    options = {**settings["options"], "-m": settings["metric"]}
    if settings["metric"] in ("NCC", "WNCC"):
        options["-m"] += " " + "x".join(str(settings["radius"]) for _ in range(dimension))
    # greedy splits its command line at blanks: the files are called what we call them and lie in the scratch folder.
    warp = task.folder / "warp.nii"
    for name, path in (("fixed.nii", task.fixed), ("moving.nii", task.moving), ("warp.nii", warp)):
        if " " in str(path):
            raise ValueError(f"greedy cannot read {name} from a folder with a blank in its name: {path}")
    command = " ".join(
        [
            f"-i {task.fixed} {task.moving} -o {warp} -threads {task.threads}",
            *[f"{option} {value}".strip() for option, value in options.items()],
        ]
    )
    (Greedy2D if dimension == 2 else Greedy3D)().execute(command)
    write_field(DisplacementField(read_field(warp).vectors, grid), task.field)
