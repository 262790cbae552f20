"""The manners of an ITK process object: observers, events, progress, abort and modification time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from itk_pdd.errors import RegistrationAborted

__all__ = ["ProcessObject"]


class ProcessObject:
    """Base of an object that runs a registration as an ITK filter runs."""

    def __init__(self) -> None:
        import itk

        # Holds the observers and the modification time.
        self._object = itk.Object.New()
        self._raised: list[BaseException] = []
        self._abort = False
        self._running = False
        self._progress = 0.0

    def AddObserver(self, event: Any, command: Callable[[], Any]) -> int:
        """Call a function at an event: ``itk.StartEvent()``, ``itk.ProgressEvent()``, ``itk.EndEvent()``, ...

        If the function raises, the registration stops and ``Update`` raises the same exception.

        Returns
        -------
        int
            A tag for :meth:`RemoveObserver`.
        """
        if not callable(command):
            return self._object.AddObserver(event, command)
        raised = self._raised

        def guarded(*_: Any) -> None:
            # ITK would print the exception and raise another one: keep it and raise it outside.
            try:
                command()
            except BaseException as error:
                raised.append(error)

        return self._object.AddObserver(event, guarded)

    def RemoveObserver(self, tag: int) -> None:
        """Remove the observer with this tag."""
        self._object.RemoveObserver(tag)

    def RemoveAllObservers(self) -> None:
        """Remove all observers."""
        self._object.RemoveAllObservers()

    def HasObserver(self, event: Any) -> bool:
        """Return True if some observer waits for the event."""
        return bool(self._object.HasObserver(event))

    def InvokeEvent(self, event: Any) -> None:
        """Call the observers of an event."""
        self._object.InvokeEvent(event)
        self._raise_from_observers()

    def _raise_from_observers(self) -> None:
        if self._raised:
            error = self._raised[0]
            self._raised.clear()
            raise error

    def Modified(self) -> None:
        """Mark a setting as changed: the next ``Update`` runs again."""
        self._object.Modified()
        self._raise_from_observers()

    def GetMTime(self) -> int:
        """Return the modification time of the settings."""
        return int(self._object.GetMTime())

    def GetProgress(self) -> float:
        """Return the part of the registration that is done, from 0 to 1."""
        return self._progress

    def SetAbortGenerateData(self, abort: bool) -> None:
        """Ask a running registration to stop at its next step (from an observer or another thread)."""
        self._abort = bool(abort)

    def GetAbortGenerateData(self) -> bool:
        """Return True if a running registration was asked to stop."""
        return self._abort

    def AbortGenerateDataOn(self) -> None:
        """Ask a running registration to stop at its next step."""
        self.SetAbortGenerateData(True)

    def AbortGenerateDataOff(self) -> None:
        """Withdraw the request to stop."""
        self.SetAbortGenerateData(False)

    # ---- Running

    def _run(self, work: Callable[[Callable[[float, str], None]], None]) -> None:
        """Call a function that takes what it reports its progress to, between a start and an end event.

        If it raises, an abort event takes the place of the end event.
        """
        import itk

        self._running, self._abort, self._progress = True, False, 0.0
        self._raised.clear()
        try:
            self.InvokeEvent(itk.StartEvent())
            work(self._report)
            self._progress = 1.0
        except BaseException:
            self._object.InvokeEvent(itk.AbortEvent())
            self._raised.clear()
            raise
        finally:
            self._running = False
        self.InvokeEvent(itk.EndEvent())

    def _report(self, fraction: float, _: str) -> None:
        import itk

        self._progress = float(fraction)
        self.InvokeEvent(itk.ProgressEvent())
        if self._abort:
            raise RegistrationAborted(f"the registration was stopped at {100 * fraction:.0f} %")
