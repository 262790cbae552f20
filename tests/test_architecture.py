"""The house stays as docs/architecture.md draws it: rooms, the direction of imports, the size of files."""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import itk_pdd

ROOT = Path(__file__).parents[1]
PACKAGE = Path(itk_pdd.__file__).parent
FOLDERS = sorted(path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.glob("*/**/__init__.py"))
# A folder of kernels holds the versions of one operation.
ROOMS = [folder for folder in FOLDERS if folder != "cli" and not folder.startswith("kernels/")]
MAX_LINES = 400
MAX_FILES_AT_THE_ROOT = 8


def modules() -> dict[str, Path]:
    """Files of the package by their module names; the commands are installed from a folder of their own."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(("itk_pdd", *(parts[:-1] if parts[-1] == "__init__" else parts)))] = path
    return found


def imported(path: Path, known: dict[str, Path]) -> set[str]:
    """Modules of the package that a file imports, at its top or later; not those for type checkers alone."""
    found = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "itk_pdd":
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                found.add(inner if inner in known else node.module)
        elif isinstance(node, ast.Import):
            found.update(name.name for name in node.names if name.name in known)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def test_rooms_import_those_below_them_only() -> None:
    """The contract in pyproject.toml, kept by import-linter; imports inside functions count as well."""
    importlinter = pytest.importorskip("importlinter.application.use_cases")
    from importlinter import configuration

    configuration.configure()
    settings = str(ROOT / "pyproject.toml")
    assert importlinter.lint_imports(config_filename=settings, cache_dir=None) == importlinter.SUCCESS


def test_no_files_import_each_other_in_a_circle() -> None:
    known = modules()
    try:
        tuple(TopologicalSorter({name: imported(path, known) - {name} for name, path in known.items()}).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_nothing_in_the_package_imports_the_command_line() -> None:
    for name, path in modules().items():
        if not name.startswith("itk_pdd.cli"):
            assert not re.search(r"^\s*(from|import) itk_pdd\.cli|^\s*import click", path.read_text("utf-8"), re.M), (
                name
            )


def test_what_computes_knows_no_library_of_images() -> None:
    """ITK and SimpleITK stay in io, in warp (which resamples with SimpleITK) and in what hands images to a user."""
    inside = ("geometry", "kernels", "models", "network", "report", "solver", "synthesis", "training", "views")
    for name, path in modules().items():
        if name.startswith(tuple(f"itk_pdd.{room}" for room in inside)):
            assert not re.search(r"^\s*(import|from) (itk|SimpleITK)\b", path.read_text("utf-8"), re.MULTILINE), name


def test_the_root_holds_few_files() -> None:
    files = [path.name for path in PACKAGE.glob("*.py")]
    assert len(files) <= MAX_FILES_AT_THE_ROOT, files


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_is_in_it_and_what_it_may_import(room: str) -> None:
    words = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8")))
    assert words and "ay import" in words, "its docstring says: May import ..."


def test_the_page_names_the_rooms_and_no_others() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `([\w/]+)/` \|", page, re.MULTILINE))
    assert named == set(ROOMS) | {"cli"}
    known = {path.name for path in PACKAGE.rglob("*.py")} | {path.name for path in (ROOT / "cli").glob("*.py")}
    assert set(re.findall(r"`(?:[\w]+/)*(\w+\.py)`", page)) - {"cpu.py"} <= known


def test_no_file_is_too_long_to_be_read_in_one_sitting() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules().items()}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_docstrings_say_what_the_thing_does() -> None:
    """They are sentences about it ("Return ...", "Hold ..."), not the halves of questions ("What is left ...")."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    halves = ("What", "Whether", "How", "Where", "Which", "Who", "Why", "When")
    found = []
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            words = (ast.get_docstring(node) or "").split() if isinstance(node, documented) else []
            if words and words[0] in halves:
                found.append(f"{name}.{getattr(node, 'name', '')}: {' '.join(words[:8])}")
    assert found == []


def test_tests_stand_in_the_rooms_of_what_they_test() -> None:
    folders = {path.parent.relative_to(ROOT / "tests").as_posix() for path in (ROOT / "tests").rglob("test_*.py")}
    assert folders <= {".", "cli", "examples", "benchmarks", *FOLDERS}
