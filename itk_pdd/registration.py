"""Register two images: what every way of using the package goes through, on one page."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from itk_pdd.errors import RegistrationError, told
from itk_pdd.evaluation.verdict import GOOD, Verdict, judge
from itk_pdd.geometry.mapping import Mapping
from itk_pdd.guidance.guidance import read_guidance
from itk_pdd.io.fields import field_to_itk, field_to_simpleitk, preload_itk
from itk_pdd.io.images import image_kind
from itk_pdd.io.transforms import as_mapping, mapping_to_itk, mapping_to_simpleitk
from itk_pdd.io.volume import Volume
from itk_pdd.solver import prealignment
from itk_pdd.solver.guided import solved
from itk_pdd.solver.problem import Options, Problem, Result
from itk_pdd.solver.progress import progress_bar
from itk_pdd.solver.reuse import Kept
from itk_pdd.solver.rivals import rivals

__all__ = ["INITIALISATIONS", "STAGES", "Problem", "aligned", "prepare", "register", "register_volumes", "solve"]

log = logging.getLogger("itk_pdd")

INITIALISATIONS = ("center", "affine")
"""Ways to align two images roughly before the deformable registration."""
STAGES = ("all", "affine")
"""Last stages of a registration: the deformable part, or the affine alignment."""


def register(
    fixed: Any,
    moving: Any,
    *,
    initial_transform: Any = None,
    initialise: str | None = None,
    fixed_mask: Any = None,
    moving_mask: Any = None,
    fixed_labels: Any = None,
    moving_labels: Any = None,
    guide: Any = None,
    label_map: Any = None,
    label_weight: float = 1.0,
    fixed_points: Any = None,
    moving_points: Any = None,
    point_uncertainty: Any = None,
    exact_points: bool = False,
    features: Any = None,
    feature_card: Any = None,
    rigid: Any = None,
    sliding: Any = None,
    channel_weights: Sequence[float] | None = None,
    model: Any = "auto",
    device: str = "auto",
    seed: int = 0,
    threads: int | None = None,
    spacing: float | None = None,
    smoothness: float = 1.0,
    memory: float | None = None,
    return_uncertainty: bool | str = False,
    return_verdict: bool = False,
    stages: str = "all",
    force: bool = False,
    progress: Callable[[float, str], None] | bool | None = None,
) -> Any:
    """Register two images by probabilistic dense displacements.

    Parameters
    ----------
    fixed, moving : itk.Image, SimpleITK.Image, str, path-like or list
        2-D or 3-D images of any real pixel type, or files, or folders of DICOM slices. They may differ in size,
        spacing, origin and direction. Images of vectors or RGB pixels, 4-D images (the last axis counts) and lists of
        images on one grid have several channels, which are registered together: as many in both, the first with the
        first.
    initial_transform : itk.Transform, SimpleITK.Transform, numpy.ndarray, str, path-like or list, optional
        Where to start: maps fixed points to moving points in physical (LPS) millimetres. A transform, a homogeneous
        matrix, a transform file (.h5, .tfm, .mat of ANTs, ...), the file of a displacement field, or a list of
        them in ANTs' order (``["1Warp.nii.gz", "0GenericAffine.mat"]``: a fixed point goes through the first one
        first; "[file,1]" inverts a linear one). Without it the physical coordinates are taken as they are.
    initialise : {None, "center", "affine"}, optional
        Find a start instead: "center" puts the centres of the images (of both masks, if given) on each other,
        "affine" searches an affine mapping by dense displacements. Both look at the first channel.
    fixed_mask, moving_mask : itk.Image, SimpleITK.Image, str or path-like, optional
        Images on the grids of ``fixed`` and ``moving``; only voxels other than 0 count.
    fixed_labels, moving_labels : itk.Image, SimpleITK.Image, str, path-like or list, optional
        Labels of both images, which guide the registration beside the intensities: label maps of whole numbers (0 is no
        label) on any grid, or probability maps (a list of images for the labels 1, 2 and so on, or an image with a
        component for each label, the background first).
    guide : "all", int, str or sequence of these, optional
        Labels that count, by number or by name (of 3D Slicer's segments, or of ``label_map``); by default all that both
        images have. One that an image lacks is left out, with a warning.
    label_map : mapping, str or path-like, optional
        Which fixed label corresponds to which moving one: ``{1: 12}``, or a CSV file (fixed, moving, name).
    label_weight : float, optional
        How much the labels count against the intensities; a larger one follows the labels more closely.
    fixed_points, moving_points : array-like, str or path-like, optional
        Corresponding landmarks (n, dim) in physical (LPS) millimetres, or files of points or surfaces. Those that
        contradict the images and one another are named in a warning, and not obeyed.
    point_uncertainty : float or sequence of float, optional
        Standard deviation of the landmarks in millimetres, one for all or one for each; half a voxel by default.
    exact_points : bool, optional
        Let the field meet every landmark that is obeyed to a hundredth of a voxel.
    features : str, path-like or callable, optional
        A network whose features of both images are compared: TorchScript, ONNX or a callable (see docs/guidance.md).
    feature_card : mapping, str or path-like, optional
        What the network takes and gives (see :class:`itk_pdd.network.feature_card.FeatureCard`).
    rigid : int, str or sequence of these, optional
        Labels of ``fixed_labels``, such as bones, that move rigidly.
    sliding : int or str, optional
        A label of both images along whose border the field slides: it has no inverse there, and no uncertainty.
    channel_weights : sequence of float, optional
        How much each channel counts beside the others, such as ``(1, 0.5)``; all alike by default.
    model : str, path-like or PddModel, optional
        Name of a model, its folder, or one in memory (see :func:`itk_pdd.models.from_reference`); "auto" chooses by
        the images.
    device : str, optional
        "cpu", "cuda", "cuda:1" and so on, or "auto": a GPU where torch finds one that works, else the CPU.
    seed : int, optional
        Accepted for compatibility, not used: nothing is random, and the same images, options and device give the same
        result.
    threads : int, optional
        CPU threads; all by default.
    spacing : float, optional
        Voxel size in millimetres at which the images are compared, instead of the model's; smaller is more exact and
        slower.
    smoothness : float, optional
        Factor of the model's regularisation: 2 gives a smoother field, 0.5 one that fits more closely. The uncertainty
        was calibrated at the default of 1.
    memory : float, optional
        What the process may hold in memory, in GB (10^9 bytes); by default nearly all that is free. Where it is short,
        parts of the work are done in blocks (the same result, slower); where that is not enough, the images are
        compared at a coarser spacing, with a warning, or, with ``spacing``, an error says how much is needed.
    return_uncertainty : {False, True, "full"}, optional
        Return how far the result can be believed as well. Nothing is computed for it otherwise.
    return_verdict : bool, optional
        Return whether the registration succeeded as well. It is judged in any case: the log tells a verdict that is not
        "good" as a warning.
    stages : {"all", "affine"}, optional
        "affine" stops after the alignment: it is that of ``initialise``, by default "affine". Options of the deformable
        registration have no effect then, and the uncertainty is not estimated.
    force : bool, optional
        Use a trained model even where its card or its own certainty says that it is not made for these images; by
        default that is an error.
    progress : callable or bool, optional
        Called with a fraction from 0 to 1 and the name of the step at hand. If it raises, the registration stops. True
        shows a bar, in a notebook as well.

    Returns
    -------
    itk.DisplacementFieldTransform[itk.D, dim]
        Maps fixed points to moving points in physical millimetres, on the grid of ``fixed``, the initial transform
        included: give it to ``itk.resample_image_filter`` as it is. A ``SimpleITK.DisplacementFieldTransform`` if the
        images are SimpleITK's. With ``stages="affine"`` an ``itk.AffineTransform[itk.D, dim]`` (or SimpleITK's).
    uncertainty
        Only with ``return_uncertainty``. True: an ``itk.Image[itk.F, dim]`` (or SimpleITK's) on the grid of ``fixed``,
        the calibrated standard deviation of the displacement in millimetres (root of the trace of its covariance).
        "full": an :class:`itk_pdd.Uncertainty`, which gives that, the covariance, entropy, regions of a probability,
        hypotheses, samples and label probabilities.
    verdict
        Only with ``return_verdict``, and last: an object with ``word`` ("good", "look" or "probably failed"),
        ``reasons`` and ``figures`` (see :class:`itk_pdd.evaluation.verdict.Verdict`).

    Raises
    ------
    RegistrationError
        If some input cannot be used; the message says which, why and what to do.

    Examples
    --------
    >>> transform = itk_pdd.register(fixed, moving)
    >>> warped = itk.resample_image_filter(
    ...     moving, transform=transform, use_reference_image=True, reference_image=fixed
    ... )
    """
    if return_uncertainty not in (False, True, "full"):
        raise RegistrationError(f"return_uncertainty is {return_uncertainty!r}, expected False, True or 'full'")
    if stages == "affine" and return_uncertainty:
        raise RegistrationError("return_uncertainty is given with stages='affine', which does not estimate it")
    if stages == "affine" and return_verdict:
        raise RegistrationError("return_verdict is given with stages='affine', which is not judged")
    problem = prepare(
        fixed,
        moving,
        initial_transform=initial_transform,
        initialise=initialise,
        stages=stages,
        fixed_mask=fixed_mask,
        moving_mask=moving_mask,
        threads=threads,
        fixed_labels=fixed_labels,
        moving_labels=moving_labels,
        guide=guide,
        label_map=label_map,
        label_weight=label_weight,
        fixed_points=fixed_points,
        moving_points=moving_points,
        point_uncertainty=point_uncertainty,
        exact_points=exact_points,
        features=features,
        feature_card=feature_card,
        rigid=rigid,
        sliding=sliding,
    )
    simple = image_kind(fixed, moving) == "simpleitk"
    if stages == "affine":
        assert problem.initial is not None
        return mapping_to_simpleitk(problem.initial) if simple else mapping_to_itk(problem.initial)
    if not simple:
        preload_itk(problem.fixed.grid.dimension)  # while the search computes
    result = solve(
        problem,
        channel_weights=channel_weights,
        model=model,
        device=device,
        seed=seed,
        threads=threads,
        spacing=spacing,
        smoothness=smoothness,
        memory=memory,
        uncertainty=bool(return_uncertainty),
        force=force,
        progress=progress,
    )
    transform = (field_to_simpleitk if simple else field_to_itk)(result.field)
    verdict = [result.verdict] if return_verdict else []
    if not return_uncertainty:
        return (transform, *verdict) if verdict else transform
    assert result.uncertainty is not None  # models that do not estimate it have refused
    if return_uncertainty == "full":
        return transform, result.uncertainty, *verdict
    deviation = result.uncertainty.standard_deviation()
    return transform, deviation.to_simpleitk() if simple else deviation.to_itk(), *verdict


def prepare(
    fixed: Any,
    moving: Any,
    *,
    initial_transform: Any = None,
    initialise: str | None = None,
    fixed_mask: Any = None,
    moving_mask: Any = None,
    stages: str = "all",
    threads: int | None = None,
    kept: Kept | None = None,
    **known: Any,
) -> Problem:
    """Read, check and roughly align two images; the parameters are those of :func:`register`.

    ``kept`` takes and gives intermediate results of the fixed image; ``known`` is what guides the registration (see
    :func:`itk_pdd.guidance.guidance.read_guidance`). RegistrationError if some input cannot be used.
    """
    if stages not in STAGES:
        raise RegistrationError(f"stages is {stages!r}, expected 'all' or 'affine'")
    if stages == "affine":
        if initial_transform is not None:
            raise RegistrationError(
                "initial_transform is given with stages='affine', which finds its own start: leave one of them out"
            )
        initialise = initialise or "affine"
    if initialise not in (None, *INITIALISATIONS):
        raise RegistrationError(f"initialise is {initialise!r}, expected None, 'center' or 'affine'")
    if initialise is not None and initial_transform is not None:
        raise RegistrationError(f"initial_transform and initialise={initialise!r} are both given: give one of them")
    read = (kept or Kept()).get("channels", lambda: Volume.channels_from_image(fixed, name="fixed"))
    channels = read, Volume.channels_from_image(moving, name="moving")
    fixed, moving = channels[0][0], channels[1][0]
    if fixed.grid.dimension != moving.grid.dimension:
        raise RegistrationError(
            f"fixed is {fixed.grid.dimension}-D ({fixed.grid}) and moving is {moving.grid.dimension}-D "
            f"({moving.grid}), expected the same dimension: give two slices or two volumes"
        )
    problem = Problem(*channels, kept=kept, guidance=read_guidance((fixed.grid, moving.grid), **known))
    log.info("fixed: %s; moving: %s; channels: %d", fixed.grid, moving.grid, len(channels[0]))
    masks: dict[str, Any] = {}
    if fixed_mask is not None:
        masks["fixed_mask"] = Volume.mask_from_image(fixed_mask, fixed.grid, name="fixed_mask")
    if moving_mask is not None:
        masks["moving_mask"] = Volume.mask_from_image(moving_mask, moving.grid, name="moving_mask")
    initial = None
    if initial_transform is not None:
        initial = as_mapping(initial_transform, dimension=fixed.grid.dimension, name="initial_transform")
    elif initialise == "center":
        initial = prealignment.align_centres(fixed, moving, **masks)
    elif initialise == "affine":
        from itk_pdd import models

        initial = prealignment.align_affine(fixed, moving, model=models.DEFAULT, threads=threads, **masks)
    prealignment.check_overlap(fixed, moving, initial, "initial_transform" if initial_transform is not None else None)
    return replace(problem, initial=initial, **masks)


def aligned(problem: Problem) -> Result:
    """Make a result of the alignment alone: the field of the initial transform, linear as it is."""
    from itk_pdd import models

    assert problem.initial is not None
    grid = problem.fixed.grid
    return Result(problem.initial.field(grid), models.DEFAULT, grid, 0.0)


def solve(problem: Problem, *, channel_weights: Sequence[float] | None = None, **options: Any) -> Result:
    """Register a prepared problem; the options are those of :func:`register`.

    RegistrationError if an option makes no sense, or there is not one weight for each channel.
    """
    return run(problem if channel_weights is None else problem.weighted(channel_weights), **options)


def run(
    problem: Problem,
    *,
    model: Any = "auto",
    seed: int = 0,
    progress: Callable[[float, str], None] | bool | None = None,
    judged: bool = True,
    **options: Any,
) -> Result:
    """Load a model, let it register, and judge the result, unless that is not wanted; the log tells the verdict.

    ``seed`` is not used: nothing is random. The options are those of :class:`itk_pdd.solver.problem.Options`.
    """
    from itk_pdd import models

    if progress is True:
        with progress_bar() as shown:
            return run(problem, model=model, progress=shown, judged=judged, **options)
    if progress:
        options["progress"] = progress
    started = time.perf_counter()
    with told() as warned:
        result = solved(problem, models.load(model), Options(**options))
    log.info("registered in %.1f s", time.perf_counter() - started)
    doubts = [each.message for each in warned if each.doubt]
    verdict = _judged(problem, result, doubts, options.get("threads")) if judged else None
    if result.uncertainty is not None:
        result.uncertainty.verdict = verdict
    seconds = time.perf_counter() - started
    return replace(result, verdict=verdict, warnings=tuple(each.message for each in warned), seconds=seconds)


def _judged(problem: Problem, result: Result, doubts: Sequence[str], threads: int | None) -> Verdict:
    from itk_pdd import models

    verdict = judge(
        problem.fixed_channels,
        problem.moving_channels,
        result.field,
        initial=problem.initial,
        weights=problem.weights,
        fixed_mask=problem.fixed_mask,
        moving_mask=problem.moving_mask,
        edge=result.edge,
        doubts=doubts,
        rivals=lambda: rivals(problem, models.DEFAULT, threads=threads),
    )
    # On a terminal it is shown in any case; elsewhere where it is not good.
    log.log(logging.INFO if verdict.word == GOOD else logging.WARNING, "%s", verdict, extra={"announce": True})
    return verdict


def register_volumes(
    fixed: Volume | Sequence[Volume],
    moving: Volume | Sequence[Volume],
    *,
    initial: Mapping | None = None,
    fixed_mask: Volume | None = None,
    moving_mask: Volume | None = None,
    **options: Any,
) -> Result:
    """Register checked volumes, or the channels of each; the options are those of :func:`solve`."""
    channels = [(each,) if isinstance(each, Volume) else tuple(each) for each in (fixed, moving)]
    return solve(Problem(channels[0], channels[1], initial, fixed_mask, moving_mask), **options)
