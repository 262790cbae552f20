"""Messages of the library in the words of the command line, and what a terminal shows of the log."""

from __future__ import annotations

import logging

import click
import pytest
from itk_pdd.cli._console import in_options, logging_to_stderr
from itk_pdd.cli.register import main as register
from itk_pdd.cli.transform import points


@pytest.mark.parametrize(
    ("command", "message", "expected"),
    [
        (register, "start with initialise='center' or a mask", "start with --initialise center or a mask"),
        (register, "fixed_mask is empty", "--fixed-mask is empty"),
        (
            register,
            "fixed_mask: /a/fixed_mask.nii and fixed_mask/x",
            "--fixed-mask: /a/fixed_mask.nii and fixed_mask/x",
        ),
        (register, "use spacing=2.5.", "use --spacing 2.5."),
        (register, "model is 'x' and the output is bad", "model is 'x' and the output is bad"),
        (points, "ask for the nearest (outside='nearest')", "ask for the nearest (--outside nearest)"),
    ],
)
def test_names_of_arguments_become_options(command: click.Command, message: str, expected: str) -> None:
    with click.Context(command):
        assert in_options(message) == expected
    assert in_options(message) == message, "no command, no options"


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("verbosity", [0, 1])
def test_announcements_are_shown_on_a_terminal(capsys, monkeypatch, terminal: bool, verbosity: int) -> None:
    log = logging.getLogger("itk_pdd")
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    before = log.level, list(log.filters), list(log.handlers)
    with logging_to_stderr(verbosity):
        log.info("compiling", extra={"announce": True})
        log.info("a step")
        log.warning("a warning")
    assert (log.level, log.filters, log.handlers) == before
    shown = capsys.readouterr().err.splitlines()
    assert shown == ["compiling"] * (terminal or verbosity) + ["a step"] * verbosity + ["a warning"]
