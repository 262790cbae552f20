"""The whole tree passes ruff, the public API passes mypy; both read the settings in pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(not (ROOT / "itk_pdd").is_dir(), reason="the package is tested without its source tree")
@pytest.mark.parametrize(
    "command",
    [
        ("ruff", "check", "--no-cache", "."),
        ("ruff", "format", "--check", "--no-cache", "."),
        pytest.param(("mypy", "--no-incremental"), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_checked(command: tuple[str, ...]) -> None:
    pytest.importorskip(command[0])
    found = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def test_type_hints_are_shipped() -> None:
    import itk_pdd

    assert (Path(itk_pdd.__file__).parent / "py.typed").is_file()
