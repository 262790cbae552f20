"""Errors and warnings raised by the package.

Every message is one sentence that names the argument, what was found and what was expected.
"""

import sys
import warnings

__all__ = ["RegistrationAborted", "RegistrationError", "RegistrationWarning", "warn"]


class RegistrationError(ValueError):
    """The input cannot be registered; the message names the argument and says what to do."""


class RegistrationAborted(RuntimeError):
    """An observer asked to stop the registration."""


class RegistrationWarning(UserWarning):
    """The registration went on, but the user should know something about the result."""


def warn(message: str) -> None:
    """Issue a :class:`RegistrationWarning` at the line that called the package, however deep inside this is called."""
    package = __name__.partition(".")[0]
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, RegistrationWarning, stacklevel=level)
