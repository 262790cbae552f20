"""B-spline registration with elastix, by a parameter file."""

from __future__ import annotations

import os

import numpy as np

from itk_pdd.evaluation.baselines import Task
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.io.fields import write_field
from itk_pdd.io.volume import Volume


def register(task: Task) -> None:
    """Register with elastix as the parameter file says; the field comes from transformix."""
    # elastix takes its threads from ITK's environment variable: the keyword argument has crashed it.
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(task.threads)
    import itk

    os.chdir(task.folder)  # transformix leaves files in the working directory
    parameters = itk.ParameterObject.New()
    file = task.folder / "parameters.txt"
    file.write_text(task.settings["parameters"], encoding="utf-8")
    parameters.AddParameterFile(str(file))
    fixed, moving = (itk.imread(str(path), itk.F) for path in (task.fixed, task.moving))
    guides = {}
    if "CorrespondingPoints" in task.settings["parameters"]:
        for side, path in zip(("fixed", "moving"), task.both("points"), strict=True):
            points = np.atleast_2d(np.loadtxt(path, delimiter=",", skiprows=1))
            guides[f"{side}_point_set_file_name"] = str(task.folder / f"{side}_points.txt")
            with open(guides[f"{side}_point_set_file_name"], "w", encoding="utf-8") as stream:
                np.savetxt(stream, points, header=f"point\n{len(points)}", comments="")
    _, result = itk.elastix_registration_method(
        fixed, moving, parameter_object=parameters, log_to_console=True, **guides
    )
    field = itk.transformix_deformation_field(moving, result)
    vectors = np.array(itk.array_view_from_image(field), dtype=np.float32)
    write_field(DisplacementField(vectors, Volume.from_image(task.fixed).grid), task.field)
