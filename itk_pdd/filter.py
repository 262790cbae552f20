"""The registration as an ITK process object, for those who need one: an ``itk.PyImageFilter``."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from itk_pdd.errors import RegistrationError
from itk_pdd.io.images import is_itk
from itk_pdd.method import PDDRegistrationMethod

__all__ = ["registration_filter"]


def registration_filter(fixed: Any, moving: Any, **settings: Any) -> Any:
    """An ``itk.PyImageFilter`` with a fixed and a moving image as inputs and the warped moving image as output.

    It is run by ITK's pipeline: when a filter behind it is updated and an image before it, or a setting, has changed.
    It needs both images whole, so it does not stream. Without a pipeline, :func:`itk_pdd.register` and
    :class:`itk_pdd.PDDRegistrationMethod` are simpler and take more pixel types.

    Parameters
    ----------
    fixed, moving : itk.Image or ITK filter
        2-D or 3-D, of one pixel type: short, unsigned char, unsigned short, float or double. They may lie on different
        grids. ``SetInput(0, ...)`` and ``SetInput(1, ...)`` replace them.
    **settings
        As for :class:`itk_pdd.PDDRegistrationMethod`, whose ``SetX`` they call.

    Returns
    -------
    itk.PyImageFilter
        Keep a reference to it as long as the pipeline is used. ``filter.method`` is the method: it changes settings
        and, after an update, gives ``GetTransform()`` and the other results. ITK's progress events and
        ``AbortGenerateDataOn()`` work. An error is raised by ``filter.Update()`` as it is; where a filter behind asked
        for the update, ITK raises a RuntimeError and prints the error that caused it, and that filter needs
        ``ResetPipeline()`` before it is updated again.

    Raises
    ------
    RegistrationError
        If ITK has no such filter for the images' types.
    TypeError
        If a keyword names no setting.

    Examples
    --------
    >>> registration = registration_filter(fixed, moving)
    >>> median = itk.MedianImageFilter.New(registration)
    >>> median.Update()
    >>> transform = registration.method.GetTransform()
    """
    images = [_image_of(item, name) for item, name in ((fixed, "fixed"), (moving, "moving"))]
    taken = {"fixed_image", "moving_image"} & settings.keys()
    if taken:
        raise TypeError(f"{' and '.join(sorted(taken))} given twice: the filter takes the images as its inputs")
    work = _Work(PDDRegistrationMethod.New(**settings))
    result = _filter_of(*images)
    result.SetInput(0, images[0])
    result.SetInput(1, images[1])
    # Fixed and moving image need not share a grid.
    result.SetCoordinateTolerance(float("inf"))
    result.SetDirectionTolerance(float("inf"))
    # None of these may hold the filter: it holds them, and would never be freed.
    result.SetPyGenerateInputRequestedRegion(_request_all)
    result.SetPyEnlargeOutputRequestedRegion(_produce_all)
    result.SetPyGenerateData(work)
    # Without this a filter behind could not run this one.
    result._SetSelf(result)
    work.follow_settings(weakref.ref(result))
    result.method = work.method
    # The filters before live as long as this one.
    result.sources = (fixed, moving)
    result.Update = _with_errors(weakref.ref(result), work)
    return result


class _Work:
    """Run the method and keep its error: the body of the filter."""

    def __init__(self, method: PDDRegistrationMethod) -> None:
        self.method = method
        self.error: BaseException | None = None
        self._running = False

    def follow_settings(self, owner: weakref.ref[Any]) -> None:
        """Mark the filter as changed when a setting of the method changes."""
        import itk

        # The method holds its observers and this holds the method: without a weak reference it would never be freed.
        work = weakref.ref(self)

        def tell() -> None:
            result, this = owner(), work()
            # Handing over the inputs changes the method, too.
            if result is not None and this is not None and not this._running:
                result.Modified()

        self.method.AddObserver(itk.ModifiedEvent(), tell)

    def __call__(self, owner: Any) -> None:
        """Register the filter's inputs and fill its output."""
        import itk

        method = self.method
        self.error, self._running = None, True
        tag = method.AddObserver(itk.ProgressEvent(), lambda: self._report(owner))
        try:
            method.SetFixedImage(owner.GetInput(0))
            method.SetMovingImage(owner.GetInput(1))
            warped = method.GetOutput()
            output = owner.GetOutput()
            output.SetBufferedRegion(output.GetLargestPossibleRegion())
            output.Allocate()
            itk.array_view_from_image(output)[:] = itk.array_view_from_image(warped)
        except BaseException as error:
            # ITK prints what is raised here, and would end the process at a SystemExit.
            self.error = error
            raise RuntimeError(f"the registration failed: {error}") from error
        finally:
            method.RemoveObserver(tag)
            self._running = False

    def _report(self, owner: Any) -> None:
        owner.UpdateProgress(self.method.GetProgress())
        if owner.GetAbortGenerateData():
            self.method.AbortGenerateDataOn()


def _request_all(owner: Any) -> None:
    for index in range(2):
        owner.GetInput(index).SetRequestedRegionToLargestPossibleRegion()


def _produce_all(owner: Any, output: Any) -> None:
    owner.GetOutput().SetRequestedRegionToLargestPossibleRegion()


def _with_errors(owner: weakref.ref[Any], work: _Work) -> Callable[[], None]:
    """An Update that raises the error behind ITK's."""

    def update() -> None:
        result: Any = owner()
        work.error = None
        try:
            type(result).Update(result)
        except RuntimeError:
            if work.error is not None:
                raise work.error from None
            raise

    return update


def _image_of(item: Any, name: str) -> Any:
    if is_itk(item) and not hasattr(item, "GetLargestPossibleRegion") and hasattr(item, "GetOutput"):
        item = item.GetOutput()
    if not (is_itk(item) and hasattr(item, "GetLargestPossibleRegion")):
        raise RegistrationError(
            f"{name} is of type {type(item).__name__}, expected an itk.Image or an ITK filter: a pipeline takes no "
            "others (itk_pdd.register does)"
        )
    return item


def _filter_of(fixed: Any, moving: Any) -> Any:
    import itk

    kind, other = type(fixed), type(moving)
    if kind is not other:
        raise RegistrationError(
            f"fixed is an {kind.__name__} and moving an {other.__name__}, expected one type for the inputs of a "
            "filter: cast one of them (itk.cast_image_filter)"
        )
    known = {pair[0] for pair in itk.PyImageFilter}
    if kind not in known or fixed.GetImageDimension() > 3:
        names = ", ".join(sorted(each.__name__ for each in known if each.__name__[-1] in "23"))
        raise RegistrationError(
            f"fixed and moving are of type {kind.__name__}, expected one of {names}: cast them (itk.cast_image_filter)"
        )
    return itk.PyImageFilter[kind, kind].New()
