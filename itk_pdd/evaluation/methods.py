"""Methods of a comparison: baselines by name, ``pdd`` itself, and any program by a command template."""

from __future__ import annotations

import difflib
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from itk_pdd._version import __version__
from itk_pdd.errors import RegistrationError
from itk_pdd.evaluation.baselines import METHODS, load_settings

__all__ = ["INITIAL", "Candidate", "available", "candidates"]

INITIAL = "initial"
"""Name of the row that measures what was there before registration."""

PLACEHOLDERS = (
    "fixed", "moving", "field", "fixed_mask", "moving_mask", "fixed_labels", "moving_labels", "fixed_points",
    "moving_points", "threads", "folder",
)  # fmt: skip
"""Placeholders of a command template; ``field`` is the file it has to write, ``folder`` a scratch folder."""

ALIASES = {
    "itk-pdd": "pdd",
    "elastix": "elastix-bspline",
    "itk-elastix": "elastix-bspline",
    "ants": "syn",
    "antspyx": "syn",
    "ants-syn": "syn",
    "ants-syn-cc": "syn-cc",
    "b-spline": "bspline",
    "picsl-greedy": "greedy",
}
"""Other names under which users look for a method, in lower case and with hyphens."""

_NAMED = re.compile(r"([A-Za-z0-9][\w.+-]*)=(.*)", re.DOTALL)
_PDD = [sys.executable, "-m", "itk_pdd.cli.register", "{fixed}", "{moving}", "-o", "{field}", "--threads", "{threads}"]


@dataclass(frozen=True)
class Candidate:
    """A method of the comparison."""

    name: str  # name in the tables
    kind: str  # "initial", "baseline", "command": how it is run
    command: tuple[str, ...] = ()  # words of the command template (kind ``command``)
    settings: Mapping[str, Any] = field(default_factory=dict)  # content of its settings file
    version: str = ""  # version of the package it comes from, empty if unknown
    problem: str = ""  # why it cannot be run at all, empty if it can


def available() -> dict[str, str]:
    """Names of the methods that need no command template, each with a line about it."""
    about = {"pdd": f"this package, version {__version__}"}
    for name, method in METHODS.items():
        version = method.version
        about[name] = f"{method.about} ({method.package} {version or 'is not installed'})"
    return about


def candidates(
    methods: Sequence[str], commands: Sequence[str] = (), *, settings: str | Path | None = None
) -> list[Candidate]:
    """Make the methods of a comparison, in the order given, after the row before registration.

    ``methods`` are ``pdd`` or names of baselines, in any case, or of :data:`ALIASES`. ``commands`` are templates such
    as ``mytool {fixed} {moving} -o {field}``, by default named after the program; ``name=mytool ...`` gives another
    name. They are split like a shell would, but no shell runs them. ``settings`` is a folder or the name of a preset
    (see :func:`itk_pdd.evaluation.baselines.load_settings`). A package that is not installed is no error here: its rows
    say so.
    """
    found = [Candidate(INITIAL, "initial", version=__version__)]
    for name in map(_full_name, methods):
        if name == "pdd":
            own = load_settings("pdd", settings)
            command = (*_PDD, *[str(word) for word in own.get("arguments", [])])
            found.append(Candidate("pdd", "command", command, own, __version__))
        elif name != INITIAL:
            method = METHODS[name]
            version = method.version
            problem = "" if version else f"{method.package} is not installed: pip install {method.package}"
            found.append(Candidate(name, "baseline", (), load_settings(name, settings), version or "", problem))
    found += [_from_template(text) for text in commands]
    names = [candidate.name for candidate in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RegistrationError(
            f"method {', '.join(twice)} is given twice; name a command like this: --command 'other={twice[0]} ...'."
        )
    return found


def _full_name(given: str) -> str:
    """Name of a method in the tables; raises RegistrationError with the names that are near if there is none."""
    names = ["pdd", *METHODS]
    lower = given.lower().replace("_", "-")
    name = ALIASES.get(lower, lower)
    if name in (*names, INITIAL):
        return name
    near = difflib.get_close_matches(lower, [*names, *ALIASES], n=3, cutoff=0.6)
    near = list(dict.fromkeys(ALIASES.get(each, each) for each in near))
    meant = f" Did you mean {' or '.join(near)}?" if near else ""
    raise RegistrationError(f"method must be one of {', '.join(names)}, found {given!r}.{meant}")


def _from_template(text: str) -> Candidate:
    named = _NAMED.fullmatch(text)
    try:
        words = shlex.split(named[2] if named else text)
    except ValueError as error:
        raise RegistrationError(f"command {text!r} cannot be split into words: {error}.") from None
    asked = {name for word in words for name in re.findall(r"\{(\w+)\}", word)}
    missing = [f"{{{name}}}" for name in ("fixed", "moving", "field") if name not in asked]
    unknown = [f"{{{name}}}" for name in sorted(asked - set(PLACEHOLDERS))]
    if missing or unknown:
        raise RegistrationError(
            f"command {text!r} must contain {{fixed}}, {{moving}} and {{field}}, and nothing else in braces but "
            f"{', '.join(f'{{{name}}}' for name in PLACEHOLDERS[3:])}: "
            + "; ".join(f"{what} {', '.join(names)}" for what, names in (("lacks", missing), ("has", unknown)) if names)
            + "."
        )
    problem = "" if shutil.which(words[0]) else f"program {words[0]} is not found"
    name = named[1] if named else Path(words[0]).name
    return Candidate(name, "command", tuple(words), {}, "", problem)
