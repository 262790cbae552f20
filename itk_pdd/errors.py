"""Errors and warnings raised by the package.

Every message is one sentence that names the argument, what was found and what was expected.
"""

import contextlib
import contextvars
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["RegistrationAborted", "RegistrationError", "RegistrationWarning", "Told", "counted", "told", "warn"]


class RegistrationError(ValueError):
    """The input cannot be registered; the message names the argument and says what to do."""


class RegistrationAborted(RuntimeError):
    """An observer asked to stop the registration."""


class RegistrationWarning(UserWarning):
    """The registration went on, but the user should know something about the result."""


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 point", "2 points"."""
    return f"{number} {noun}{'s' * (number != 1)}"


@dataclass(frozen=True)
class Told:
    """A warning that was issued, and whether it casts doubt on the result."""

    message: str
    doubt: bool


_listeners: contextvars.ContextVar[tuple[list[Told], ...]] = contextvars.ContextVar("listeners", default=())


@contextlib.contextmanager
def told() -> Iterator[list[Told]]:
    """Keep the warnings of a block, beside issuing them."""
    found: list[Told] = []
    token = _listeners.set((*_listeners.get(), found))
    try:
        yield found
    finally:
        _listeners.reset(token)


def warn(message: str, *, doubt: bool = False) -> None:
    """Issue a :class:`RegistrationWarning` at the line that called the package, however deep inside this is called.

    ``doubt`` marks a warning that speaks against the result itself: a verdict tells it.
    """
    for found in _listeners.get():
        found.append(Told(message, doubt))
    package = __name__.partition(".")[0]
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, RegistrationWarning, stacklevel=level)
