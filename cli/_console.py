"""Shared by the commands: the log, the progress bar, one-sentence errors and exit codes."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click


class Whole(click.IntRange):
    """A whole number, ``N`` in the help."""

    def get_metavar(self, *_args: Any, **_kwargs: Any) -> str:
        """Name it by a letter instead of its class."""
        return "N"


class Number(click.FloatRange):
    """A number, ``NUMBER`` in the help."""

    def get_metavar(self, *_args: Any, **_kwargs: Any) -> str:
        """Name it by a word instead of its class."""
        return "NUMBER"


PATH = click.Path(path_type=Path)
COUNT, POSITIVE = Whole(min=1), Number(min=0, min_open=True)
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
# Exit codes; click itself ends with 2 after wrong usage.
FAILED, NOT_WRITTEN, PROBABLY_FAILED, INTERRUPTED = 1, 3, 4, 130
STOPPED = "Interrupted; nothing was written."
RESUMABLE = "Interrupted; the same command goes on from what is done."
Decorator = Callable[[Any], Any]


def options(*decorators: Decorator) -> Decorator:
    """Join options to one decorator; the help shows them in this order."""

    def apply(command: Any) -> Any:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


def option(*words: str, **settings: Any) -> Decorator:
    """Make an option of its names, then what the help calls its value, and the help; a default is shown."""
    *names, metavar, text = words
    return click.option(*names, metavar=metavar, help=text, show_default="default" in settings, **settings)


def file(*words: str, **settings: Any) -> Decorator:
    """Make an option that takes a path; see :func:`option`."""
    return option(*words, type=PATH, **settings)


def choice(*words: Any, **settings: Any) -> Decorator:
    """Make an option of its names, then the words of which it takes one, and the help; a default is shown."""
    *names, choices, text = words
    return click.option(*names, type=click.Choice(choices), help=text, show_default="default" in settings, **settings)


def flag(*words: str, **settings: Any) -> Decorator:
    """Make an option without a value of its names and its help."""
    *names, text = words
    return click.option(*names, is_flag=True, help=text, **settings)


def names(context: click.Context, parameter: click.Parameter, value: str) -> list[str]:
    """Split names at commas: a callback of options."""
    return [name.strip() for name in value.split(",") if name.strip()]


VERBOSE = click.option("-v", "--verbose", count=True, help="Say what is done.")


@contextmanager
def running(verbosity: int = 0, stopped: str | None = None) -> Iterator[None]:
    """Do the work of a command: Ctrl-C ends it soon, errors become exit codes, the log goes to standard error.

    ``stopped`` is as for :func:`exit_codes`.
    """
    from itk_pdd.cli._interrupt import interruptible

    with interruptible(INTERRUPTED, stopped or STOPPED), exit_codes(stopped), logging_to_stderr(verbosity):
        yield


@contextmanager
def exit_codes(stopped: str | None = None) -> Iterator[None]:
    """Turn errors into one sentence on standard error and an exit code.

    ``stopped`` is the sentence after Ctrl-C; by default it tells whether anything was written.
    """
    from itk_pdd.errors import RegistrationAborted, RegistrationError
    from itk_pdd.io import outputs
    from itk_pdd.io.outputs import OutputError

    context, before = click.get_current_context(), outputs.written()
    try:
        yield
    except OutputError as error:
        click.echo(f"Error: {in_options(str(error))}.", err=True)
        context.exit(NOT_WRITTEN)
    except (RegistrationError, RegistrationAborted) as error:
        click.echo(f"Error: {in_options(str(error).rstrip('.'))}.", err=True)
        context.exit(FAILED)
    except MemoryError:
        click.echo("Error: there is not enough memory for images of this size.", err=True)
        context.exit(FAILED)
    except KeyboardInterrupt:
        told = "Interrupted; all had been written." if outputs.written() > before else STOPPED
        click.echo(stopped or told, err=True)
        context.exit(INTERRUPTED)


def in_options(message: str) -> str:
    """Replace the names of arguments in a message of the library by the options of the command.

    ``initialise='center'`` becomes ``--initialise center`` and ``fixed_mask`` becomes ``--fixed-mask``. Names of one
    word are words of English too and stay, unless they have a value.
    """
    context = click.get_current_context(silent=True)
    for option in context.command.params if context else ():
        if not isinstance(option, click.Option):
            continue
        long, name = option.opts[-1], rf"(?<![\w/\\.-]){option.name}"
        message = re.sub(rf"{name}='?([\w.-]+\w)'?", long if option.is_flag else rf"{long} \1", message)
        if "_" in option.name:
            message = re.sub(rf"{name}(?![\w/\\-]|\.\w)", long, message)
    return message


@contextmanager
def logging_to_stderr(verbosity: int) -> Iterator[None]:
    """Show the package's log: warnings only, with -v the steps, with -vv everything.

    On a terminal, announcements (records with ``extra={"announce": True}``) are shown without -v, too.
    """
    logger = logging.getLogger("itk_pdd")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s" if verbosity < 2 else "%(asctime)s %(levelname)s %(message)s"))
    least = [logging.WARNING, logging.INFO, logging.DEBUG][min(verbosity, 2)]
    terminal = sys.stderr.isatty()

    def shown(record: logging.LogRecord) -> bool:
        return record.levelno >= least or (terminal and getattr(record, "announce", False))

    before, show = logger.level, warnings.showwarning
    # The bar replaces the handler by one of its own: the filter belongs to the logger.
    logger.addHandler(handler)
    logger.addFilter(shown)
    logger.setLevel(min(least, logging.INFO))
    warnings.showwarning = _show_warning
    try:
        yield
    finally:
        warnings.showwarning = show
        logger.setLevel(before)
        logger.removeFilter(shown)
        logger.removeHandler(handler)


def _show_warning(message: Warning | str, category: type[Warning], *_args: Any, **_kwargs: Any) -> None:
    """Log warnings about the registration in one line, and those of libraries only in the full log."""
    from itk_pdd.errors import RegistrationWarning

    level = logging.WARNING if issubclass(category, RegistrationWarning) else logging.DEBUG
    logging.getLogger("itk_pdd").log(level, "Warning: %s.", in_options(str(message).rstrip(".")))


@contextmanager
def progress_bar() -> Iterator[Callable[[float, str], None] | None]:
    """Show a bar on a terminal, nothing in a pipe."""
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    layout = "{desc:30} {bar} {percentage:3.0f}% {elapsed}"
    # The log is written above the bar.
    with (
        logging_redirect_tqdm([logging.getLogger("itk_pdd")]),
        tqdm(desc="reading", total=100, file=sys.stderr, leave=False, bar_format=layout) as bar,
    ):

        def update(fraction: float, message: str) -> None:
            bar.set_description_str(message, refresh=False)
            bar.update(100 * fraction - bar.n)

        yield update
