"""The examples in the docstrings of public functions run; ``fixed`` and ``moving`` are two small itk images."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

import itk_pdd
from itk_pdd.synthesis import make_pair

PACKAGE = Path(itk_pdd.__file__).parent
WITH_EXAMPLES = [
    ".".join(("itk_pdd", *path.relative_to(PACKAGE).with_suffix("").parts))
    for path in sorted(PACKAGE.rglob("*.py"))
    if re.search(r"^\s+>>> ", path.read_text(encoding="utf-8"), re.MULTILINE)
]


@pytest.fixture(scope="module")
def given() -> dict[str, object]:
    import itk

    pair = make_pair((40, 32), 2.0, seed=1, kind="shapes")
    return {"fixed": pair.fixed.to_itk(), "moving": pair.moving.to_itk(), "itk": itk, "itk_pdd": itk_pdd}


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples_run(module: str, given) -> None:
    found = importlib.import_module(module)
    assert "doctest: +SKIP" not in Path(found.__file__).read_text(encoding="utf-8")
    result = doctest.testmod(found, extraglobs=given)
    assert result.attempted and not result.failed
