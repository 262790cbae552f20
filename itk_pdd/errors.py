"""Errors and warnings raised by the package.

Every message is one sentence that names the argument, what was found and what was expected.
"""

__all__ = ["RegistrationAborted", "RegistrationError", "RegistrationWarning"]


class RegistrationError(ValueError):
    """The input cannot be registered; the message names the argument and says what to do."""


class RegistrationAborted(RuntimeError):
    """An observer asked to stop the registration."""


class RegistrationWarning(UserWarning):
    """The registration went on, but the user should know something about the result."""
