"""What users see of the package stays as ``public_api.txt`` lists it: names, signatures, options, exit codes, models.

Where a change is meant, write the list again and look at what has changed in it:

    python -P tests/test_public_api.py > tests/public_api.txt

A line says nothing about the module in which something is defined, nor about annotations.
"""

from __future__ import annotations

import difflib
import enum
import hashlib
import importlib
import inspect
import os
import re
import tempfile
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np
import SimpleITK
from click.testing import CliRunner

import itk_pdd

LISTING = Path(__file__).with_name("public_api.txt")
# Beside the package itself: what the README and the examples import from.
MODULES = ("itk_pdd", "itk_pdd.models", "itk_pdd.synthesis")
MODEL_FILES = ("*/card.json", "*/weights.safetensors", "*.uncertainty.json")


def test_public_api() -> None:
    expected, found = LISTING.read_text().splitlines(), listing()
    changes = difflib.unified_diff(expected, found, LISTING.name, "as it is", lineterm="", n=0)
    assert found == expected, "\n".join(["the public API is not as listed:", *changes])


def listing() -> list[str]:
    """The lines of the file, sorted."""
    lines = [line for name in MODULES for line in _names(name)]
    lines += _models()
    for entry in sorted(entry_points(group="console_scripts"), key=lambda each: each.name):
        if entry.name.startswith("pdd-"):
            lines += _command(entry)
    lines += _exit_codes()
    lines += _extensions()
    return sorted(lines)


def _names(module: str) -> Iterator[str]:
    found = importlib.import_module(module)
    for name in found.__all__:
        thing, shown = getattr(found, name), f"{module}.{name}"
        if inspect.isclass(thing):
            yield from _class(shown, thing)
        elif callable(thing):
            yield f"{shown}{_signature(thing)}"
        else:
            yield f"{shown}: {type(thing).__name__}"


def _class(shown: str, cls: type) -> Iterator[str]:
    # Bases without a public name are where the package keeps a part of the class.
    bases = [base for base in cls.__mro__[1:-1] if _outside(base) or getattr(itk_pdd, base.__name__, None) is base]
    yield f"{shown} is a class{''.join(f' < {base.__name__}' for base in bases)}"
    if issubclass(cls, BaseException):
        return
    if issubclass(cls, enum.Enum):
        yield from (f"{shown}.{member.name} = {member.value!r}" for member in cls)
        return
    yield f"{shown}{_signature(cls)}"
    # A class is what it says itself and what the package's classes before it say, not what Python's do.
    named = {name for base in cls.__mro__ if not _outside(base) for name in vars(base)}
    for name in sorted(named):
        if name.startswith("_") and name != "__call__":
            continue
        thing = inspect.getattr_static(cls, name)
        if isinstance(thing, classmethod | staticmethod):
            yield f"{shown}.{name}{_signature(getattr(cls, name))} [{type(thing).__name__}]"
        elif inspect.isfunction(thing):
            yield f"{shown}.{name}{_signature(thing)}"
        else:  # properties, cached ones too, defaults of fields
            yield f"{shown}.{name}"


def _outside(cls: type) -> bool:
    return not cls.__module__.startswith("itk_pdd")


def _signature(thing: Any) -> str:
    signature = inspect.signature(thing)
    empty = inspect.Parameter.empty
    bare = [p.replace(annotation=empty, default=_Default.of(p.default)) for p in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


class _Default:
    """A default that is shown by its value where that is plain, by its type otherwise."""

    def __init__(self, value: Any) -> None:
        self.value = value

    @classmethod
    def of(cls, value: Any) -> Any:
        return value if value is inspect.Parameter.empty else cls(value)

    def __repr__(self) -> str:
        plain = self.value is None or isinstance(self.value, bool | int | float | str | tuple)
        return repr(self.value) if plain else f"<{type(self.value).__name__}>"


def _models() -> Iterator[str]:
    """The models by name, and their files wherever in the package they lie."""
    for name in importlib.import_module("itk_pdd.models").names():
        yield f"model {name}"
    for pattern in MODEL_FILES:
        for path in Path(itk_pdd.__file__).parent.rglob(pattern):
            name = f"{path.parent.name}/{path.name}" if "/" in pattern else path.name
            yield f"model file {name}: SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}"


def _command(entry: EntryPoint) -> Iterator[str]:
    yield f"entry point {entry.name} = {entry.value}"
    yield from _parameters(entry.name, entry.load())


def _parameters(shown: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=shown, **command.context_settings)
    for parameter in command.get_params(context):
        spelled = " ".join([*parameter.opts, *parameter.secondary_opts])
        kind = "argument" if isinstance(parameter, click.Argument) else "option"
        # Releases of click name their own option, and say that there is no default, in different ways.
        words = ["name=help" if "--help" in parameter.opts else f"name={parameter.name}"]
        words.append(f"type={_type(parameter.type)}")
        if parameter.required:
            words.append("required")
        if parameter.multiple:
            words.append("multiple")
        if parameter.nargs != 1:
            words.append(f"nargs={parameter.nargs}")
        if getattr(parameter, "is_flag", False):
            words.append("flag")
        if getattr(parameter, "count", False):
            words.append("count")
        default = parameter.get_default(context)
        if isinstance(default, bool | int | float | str | tuple | list) and default != () and default is not False:
            words.append(f"default={default!r}")
        if parameter.metavar:
            words.append(f"metavar={parameter.metavar}")
        yield f"{shown} {kind} {spelled}: {' '.join(words)}"
    codes = re.search(r"Exit codes:(.*?)(\n\n|$)", command.help or "", re.DOTALL)
    if codes:
        yield f"{shown} help on exit codes: {' '.join(codes[1].split())}"
    for name, sub in sorted(getattr(command, "commands", {}).items()):
        yield f"{shown} command {name}"
        yield from _parameters(f"{shown} {name}", sub)


def _type(kind: click.ParamType) -> str:
    if isinstance(kind, click.Choice):
        return f"choice({'|'.join(kind.choices)})"
    if isinstance(kind, click.IntRange | click.FloatRange):
        name = "int" if isinstance(kind, click.IntRange) else "float"
        low = "" if kind.min is None else f"{'>' if kind.min_open else '>='}{kind.min:g}"
        high = "" if kind.max is None else f"{'<' if kind.max_open else '<='}{kind.max:g}"
        return f"{name}{low}{high}"
    if isinstance(kind, click.Tuple):
        return f"({','.join(map(_type, kind.types))})"
    return kind.name


def _run(command: str, *arguments: str | Path) -> tuple[int, str]:
    """Exit code and all that a command says."""
    (entry,) = entry_points(group="console_scripts", name=command)
    found = CliRunner().invoke(entry.load(), [str(each) for each in arguments])
    return found.exit_code, found.output


def _exit_codes() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image, field, output = folder / "image.nii.gz", folder / "field.nii.gz", folder / "output.nii.gz"
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((8, 8, 8), np.float32)), str(image))
        vectors = SimpleITK.GetImageFromArray(np.zeros((8, 8, 8, 3), np.float32), isVector=True)
        SimpleITK.WriteImage(vectors, str(field))
        absent = folder / "absent.nii.gz"
        calls: dict[str, tuple[str | Path, ...]] = {
            "pdd-register": (image, absent, "-o", output),
            "pdd-transform": ("image", absent, "-t", field, "-o", output),
            "pdd-batch": (folder / "absent.csv", "-o", folder / "batch"),
            "pdd-compare": (folder / "absent.csv", "-o", folder / "compared"),
            "pdd-train": (folder / "absent.csv", "-o", folder / "trained"),
            "pdd-evaluate": (folder / "absent.csv",),
        }
        for command, missing in calls.items():
            yield f"exit code {command}, an input is not there: {_run(command, *missing)[0]}"
            yield f"exit code {command}, --help: {_run(command, '--help')[0]}"
            yield f"exit code {command}, --version: {_run(command, '--version')[0]}"
            yield f"exit code {command}, unknown option: {_run(command, '--unknown')[0]}"
        complete: dict[str, tuple[str | Path, ...]] = {
            "pdd-register": (image, image, "-o"),
            "pdd-transform": ("image", image, "-t", field, "-o"),
        }
        for command, arguments in complete.items():
            code, _ = _run(command, *arguments, folder / "absent" / "output.nii.gz")
            yield f"exit code {command}, an output cannot be written: {code}"
            with mock.patch("itk_pdd.io.files.read_image", side_effect=KeyboardInterrupt):
                code, text = _run(command, *arguments, output)
            yield f"exit code {command}, interrupted: {code} ({' '.join(text.split())})"
        yield f"exit code pdd-transform, done: {_run('pdd-transform', *complete['pdd-transform'], output)[0]}"


def _extensions() -> Iterator[str]:
    """The formats of outputs as the commands tell them where an extension is unknown."""
    labels = ("--moving-labels", "l.nii", "--warped-labels", "w.nii")
    for option in (
        "--output", "--warped", "--transform", "--composite", "--inverse", "--elastix", "--report", "--uncertainty",
        "--covariance", "--entropy", "--warped-labels", "--label-probabilities", "--label-entropy",
    ):  # fmt: skip
        with_labels = labels if "label" in option else ()
        told = _told("pdd-register", "fixed.nii", "moving.nii", *with_labels, option, "output.unknown")
        yield f"extensions pdd-register {option}: {told}"
    field = ("-t", "field.nii", "-o", "output.unknown")
    for name, arguments in {
        "image": ("image", "moving.nii"),
        "labels": ("labels", "moving.nii"),
        "points": ("points", "points.unknown", "--to", "fixed"),
        "jacobian": ("jacobian",),
        "inverse": ("inverse",),
        **{f"compose --format {form}": ("compose", "--format", form) for form in _formats()},
    }.items():
        yield f"extensions pdd-transform {name}: {_told('pdd-transform', *arguments, *field)}"


def _formats() -> tuple[str, ...]:
    (entry,) = entry_points(group="console_scripts", name="pdd-transform")
    options = {parameter.name: parameter for parameter in entry.load().commands["compose"].params}
    return tuple(options["form"].type.choices)


def _told(command: str, *arguments: str) -> str:
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            code, text = _run(command, *arguments)
        finally:
            os.chdir(before)
    found = re.search(r"expected one of (.*?)\.?$", " ".join(text.split()))
    return found[1] if found and code == 3 else f"exit code {code}, {' '.join(text.split())}"


if __name__ == "__main__":
    print("\n".join(listing()))
