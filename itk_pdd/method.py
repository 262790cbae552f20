"""The registration as an object with the manners of an ITK filter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from itk_pdd.errors import RegistrationError
from itk_pdd.evaluation.verdict import Verdict
from itk_pdd.geometry.mapping import FieldMapping
from itk_pdd.guidance.guidance import KNOWN
from itk_pdd.guidance.settings import GuidanceSettings
from itk_pdd.io.fields import field_to_image, field_to_itk, field_to_itk_image, field_to_simpleitk
from itk_pdd.io.images import image_kind, simpleitk_image
from itk_pdd.io.inputs import pack, time_stamp, unpack
from itk_pdd.io.process import ProcessObject
from itk_pdd.io.volume import Volume
from itk_pdd.registration import prepare, solve
from itk_pdd.solver.record import record
from itk_pdd.solver.reuse import Kept
from itk_pdd.uncertainty.images import tensor_to_itk
from itk_pdd.warp.composition import inverse_field
from itk_pdd.warp.images import warp_channels

__all__ = ["PDDRegistrationMethod"]


class PDDRegistrationMethod(GuidanceSettings, ProcessObject):
    """Register two images by probabilistic dense displacements, as an ITK-style object.

    Set the inputs, call :meth:`Update` (or any getter of a result, which does), get the results. Nothing is computed
    again until a setting changes, :meth:`Modified` is called or an input has a new modification time. The object can
    stand where ITK's functional filters take an image: they get the warped moving image.

    It can be pickled and copied, with its settings, its images and, where it is up to date, its results; observers are
    left behind, and an ITK filter among the inputs becomes the image it makes.

    Parameters
    ----------
    **settings
        A value for every ``SetX`` method by its name in snake case: ``fixed_image=...`` calls ``SetFixedImage``.

    Raises
    ------
    TypeError
        If a keyword names no setting.

    See Also
    --------
    itk_pdd.register : the same as a function, where the settings are described.

    Examples
    --------
    >>> method = PDDRegistrationMethod.New(fixed_image=fixed, moving_image=moving)
    >>> progress = []
    >>> tag = method.AddObserver(itk.ProgressEvent(), lambda: progress.append(method.GetProgress()))
    >>> method.Update()
    >>> transform, warped = method.GetTransform(), method.GetOutput()
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self._settings: dict[str, Any] = {
            "fixed": None,
            "moving": None,
            "initial_transform": None,
            "initialise": None,
            "fixed_mask": None,
            "moving_mask": None,
            "channel_weights": None,
            "model": "auto",
            "device": "auto",
            "seed": 0,
            "threads": None,
            "spacing": None,
            "smoothness": 1.0,
            "memory": None,
            "force": False,
            **KNOWN,
        }
        self._uncertainty = False
        self._default_pixel_value: float | None = None
        self._stamp: tuple[Any, ...] | None = None
        self._problem: Any = None
        self._result: Any = None
        self._made: dict[str, Any] = {}
        self._kept: Kept = Kept()
        self._kept_for: tuple[Any, ...] = ()
        for keyword, value in settings.items():
            setter = getattr(self, "Set" + "".join(part[:1].upper() + part[1:] for part in keyword.split("_")), None)
            if setter is None:
                known = sorted(name[3:] for name in dir(self) if name.startswith("Set"))
                raise TypeError(f"PDDRegistrationMethod has no setting {keyword!r}; it has {', '.join(known)}")
            setter(value)

    @classmethod
    def New(cls, **settings: Any) -> PDDRegistrationMethod:
        """Make a method; keywords in snake case call the setters."""
        return cls(**settings)

    # ---- Settings

    def _set(self, key: str, value: Any) -> None:
        old = self._settings[key]
        same = old is value or (isinstance(value, str | int | float) and type(old) is type(value) and old == value)
        if not same:
            self._settings[key] = value
            self.Modified()

    def SetFixedImage(self, image: Any) -> None:
        """Set the fixed image: itk.Image, SimpleITK.Image, path of a file or a DICOM folder, or a list of channels."""
        self._set("fixed", image)

    def GetFixedImage(self) -> Any:
        """The fixed image."""
        return self._settings["fixed"]

    def SetMovingImage(self, image: Any) -> None:
        """Set the moving image, of the same kinds as the fixed one."""
        self._set("moving", image)

    def GetMovingImage(self) -> Any:
        """The moving image."""
        return self._settings["moving"]

    def SetInitialTransform(self, transform: Any) -> None:
        """Set the initial transform: one from fixed to moving points in millimetres (see ``register``), or None."""
        self._set("initial_transform", transform)

    def GetInitialTransform(self) -> Any:
        """The initial transform."""
        return self._settings["initial_transform"]

    def SetInitialise(self, way: str | None) -> None:
        """Set the way to find a start: None, "center" or "affine"."""
        self._set("initialise", way)

    def GetInitialise(self) -> str | None:
        """The way to find a start."""
        return self._settings["initialise"]

    def SetChannelWeights(self, weights: Sequence[float] | None) -> None:
        """Set the weights of the channels relative to each other; None weighs them equally."""
        self._set("channel_weights", weights)

    def GetChannelWeights(self) -> Sequence[float] | None:
        """The weights of the channels."""
        return self._settings["channel_weights"]

    def SetModel(self, model: Any) -> None:
        """Set the model: a name, a folder or "auto"."""
        self._set("model", model)

    def GetModel(self) -> Any:
        """The model."""
        return self._settings["model"]

    def SetDevice(self, device: str) -> None:
        """Set the device: "auto", "cpu", "cuda" or "cuda:1" and so on."""
        self._set("device", device)

    def GetDevice(self) -> str:
        """The device."""
        return self._settings["device"]

    def SetSeed(self, seed: int) -> None:
        """Set the seed. It is not used: nothing is random, and the same input gives the same result."""
        self._set("seed", seed)

    def GetSeed(self) -> int:
        """The seed."""
        return self._settings["seed"]

    def SetNumberOfThreads(self, threads: int | None) -> None:
        """Set the number of CPU threads; None takes all."""
        self._set("threads", threads)

    def GetNumberOfThreads(self) -> int | None:
        """The number of CPU threads."""
        return self._settings["threads"]

    def SetSpacing(self, spacing: float | None) -> None:
        """Set the voxel size in millimetres at which the images are compared; None leaves it to the model."""
        self._set("spacing", spacing)

    def GetSpacing(self) -> float | None:
        """The voxel size at which the images are compared."""
        return self._settings["spacing"]

    def SetSmoothness(self, smoothness: float) -> None:
        """Set the factor of the model's regularisation; larger is smoother and fits less closely."""
        self._set("smoothness", smoothness)

    def GetSmoothness(self) -> float:
        """The factor of the model's regularisation."""
        return self._settings["smoothness"]

    def SetMemory(self, memory: float | None) -> None:
        """Set the limit of the memory of the process in GB (see ``register``); None for nearly all that is free."""
        self._set("memory", memory)

    def GetMemory(self) -> float | None:
        """The limit of the memory of the process in GB."""
        return self._settings["memory"]

    def SetForce(self, force: bool) -> None:
        """Set whether a trained model is used even on images that it is not made for."""
        self._set("force", bool(force))

    def GetForce(self) -> bool:
        """Return whether a trained model is used on any images."""
        return self._settings["force"]

    def SetComputeUncertainty(self, compute: bool) -> None:
        """Let :meth:`Update` estimate the uncertainty too, or not; the getters of the uncertainty switch it on."""
        if bool(compute) != self._uncertainty:
            self._uncertainty = bool(compute)
            # Results with an uncertainty stay valid when it is switched off.
            if compute:
                self.Modified()

    def GetComputeUncertainty(self) -> bool:
        """Return True if :meth:`Update` estimates the uncertainty too."""
        return self._uncertainty

    def ComputeUncertaintyOn(self) -> None:
        """Estimate the uncertainty as well."""
        self.SetComputeUncertainty(True)

    def ComputeUncertaintyOff(self) -> None:
        """Do not estimate the uncertainty."""
        self.SetComputeUncertainty(False)

    def SetDefaultPixelValue(self, value: float) -> None:
        """Set the value of the warped image where the moving image has none; the registration does not run again."""
        if value != self._default_pixel_value:
            self._default_pixel_value = value
            self._made.pop("output", None)

    def GetDefaultPixelValue(self) -> float | None:
        """The value of the warped image where the moving image has none; None for the background of that image."""
        return self._default_pixel_value

    # ---- Running

    def Update(self) -> None:
        """Register the images, unless nothing has changed since the last time.

        Raises
        ------
        RegistrationError
            If some input is missing or cannot be used.
        RegistrationAborted
            If :meth:`AbortGenerateDataOn` was called; an exception raised in an observer is raised as it is.
        """
        if self._running:
            raise RegistrationError("Update was called from an observer while the registration runs: wait for its end")
        for key, name in (("fixed", "SetFixedImage"), ("moving", "SetMovingImage")):
            if self._settings[key] is None:
                raise RegistrationError(f"there is no {key} image: call {name} first")
        stamp = self._current_stamp()
        if stamp == self._stamp:
            return
        self._stamp = self._problem = self._result = None
        self._made.clear()
        self._run(lambda progress: self._register(progress, stamp))

    def _register(self, progress: Callable[[float, str], None], stamp: tuple[Any, ...]) -> None:
        settings = dict(self._settings)
        known = {key: settings.pop(key) for key in ("initialise", *_INPUTS, *KNOWN) if key in settings}
        fixed = tuple(time_stamp(self._settings[key]) for key in ("fixed", "fixed_mask"))
        if fixed != self._kept_for:
            self._kept, self._kept_for = Kept(), fixed
        problem = prepare(**known, threads=settings["threads"], kept=self._kept)
        result = solve(problem, uncertainty=self._uncertainty, progress=progress, **settings)
        self._problem, self._result, self._stamp = problem, result, stamp

    def _current_stamp(self) -> tuple[Any, ...]:
        return (self.GetMTime(), *(time_stamp(self._settings[key]) for key in _INPUTS))

    def _make(self, name: str, maker: Callable[[], Any]) -> Any:
        self.Update()
        if name not in self._made:
            self._made[name] = maker()
        return self._made[name]

    def _simpleitk(self) -> bool:
        return image_kind(self._settings["fixed"], self._settings["moving"]) == "simpleitk"

    # ---- Results (of SimpleITK where the images are SimpleITK's)

    def GetOutput(self) -> Any:
        """The moving image warped onto the fixed image: linear interpolation, pixel type of the moving image.

        A list of channels, or a 4-D image of them, is answered with one image of vectors.
        """
        return self._make("output", self._warp)

    def _warp(self) -> Any:
        return warp_channels(
            self._settings["fixed"],
            self._settings["moving"],
            self._problem.moving_channels or (self._problem.moving,),
            self._result.field,
            default=self._default_pixel_value,
        )

    def GetTransform(self) -> Any:
        """The transform from fixed to moving points: an itk.DisplacementFieldTransform[itk.D, dim]."""
        return self._make("transform", lambda: self._convert(self._result.field, field_to_itk, field_to_simpleitk))

    def GetInverseTransform(self) -> Any:
        """The transform from moving to fixed points, on the grid of the moving image."""
        return self._make("inverse", self._invert)

    def _invert(self) -> Any:
        inverse, _ = inverse_field(FieldMapping(self._result.field), self._problem.moving.grid)
        return self._convert(inverse, field_to_itk, field_to_simpleitk)

    def GetDisplacementField(self) -> Any:
        """The displacements from fixed to moving points in mm: an itk.Image[itk.Vector[itk.F, dim], dim]."""
        return self._make("field", lambda: self._convert(self._result.field, field_to_itk_image, field_to_image))

    def GetUncertainty(self) -> Any:
        """Standard deviation of the displacement in mm on the fixed grid: an itk.Image[itk.F, dim].

        If the registration ran without it, it runs again: call :meth:`ComputeUncertaintyOn` before.
        """
        made = self.GetUncertaintyObject().standard_deviation
        return self._make("uncertainty", lambda: self._convert(made(), Volume.to_itk, Volume.to_simpleitk))

    def GetCovariance(self) -> Any:
        """Covariance of the displacement in mm^2: an itk.Image of symmetric tensors (SimpleITK: their components)."""
        found = self.GetUncertaintyObject()
        maker = simpleitk_image if self._simpleitk() else tensor_to_itk
        return self._make("covariance", lambda: maker(found.covariance(), found.grid))

    def GetVerdict(self) -> Verdict:
        """Judge the registration: ``word`` ("good", "look" or "probably failed"), ``reasons`` and ``figures``.

        See :class:`itk_pdd.evaluation.verdict.Verdict`.
        """
        self.Update()
        return self._result.verdict

    def GetRecord(self, *, paths: bool = False) -> dict[str, Any]:
        """Describe what was registered, how, and with which result (see :func:`itk_pdd.solver.record.record`).

        With ``paths`` the folders of file names are kept.
        """
        self.Update()
        inputs = {key: self._settings[key] for key in _INPUTS}
        options = {key: value for key, value in self._settings.items() if key not in _INPUTS}
        return record(self._problem, self._result, inputs, options, paths=paths)

    def GetUncertaintyObject(self) -> Any:
        """The :class:`itk_pdd.Uncertainty`: entropy, hypotheses, samples, label probabilities, headline, verdict."""
        self.ComputeUncertaintyOn()
        self.Update()
        return self._result.uncertainty

    def _convert(self, field: Any, to_itk: Callable[[Any], Any], to_simpleitk: Callable[[Any], Any]) -> Any:
        return (to_simpleitk if self._simpleitk() else to_itk)(field)

    # ---- Pickling

    def __getstate__(self) -> dict[str, Any]:
        if self._running:
            raise RegistrationError("the method cannot be pickled while the registration runs: wait for its end")
        current = self._stamp is not None and self._stamp == self._current_stamp()
        return {
            "settings": {key: pack(value) for key, value in self._settings.items()},
            "default_pixel_value": self._default_pixel_value,
            "uncertainty": self._uncertainty,
            "results": (self._problem, self._result) if current else None,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]
        self._settings.update({key: unpack(value) for key, value in state["settings"].items()})
        self._default_pixel_value = state["default_pixel_value"]
        self._uncertainty = state.get("uncertainty", False)
        if state["results"] is not None:
            self._problem, self._result = state["results"]
            self._progress, self._stamp = 1.0, self._current_stamp()

    def __repr__(self) -> str:
        state = "running" if self._running else "not updated" if self._result is None else "updated"
        settings = ", ".join(f"{key}={value!r}" for key, value in self._settings.items() if key not in _INPUTS)
        return f"<PDDRegistrationMethod {state}: {settings}>"


_INPUTS = ("fixed", "moving", "initial_transform", "fixed_mask", "moving_mask", "fixed_labels", "moving_labels",
           "fixed_points", "moving_points")  # fmt: skip
