"""Settings of Sphinx.

pip install ".[docs]" && sphinx-build -W docs docs/_build   (-D plot_gallery=0: run no example)
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version as installed
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
COMMANDS = {
    "pdd-register": (),
    "pdd-transform": ("image", "labels", "points", "inverse", "jacobian", "compose", "halfway", "mean"),
    "pdd-batch": (),
    "pdd-compare": (),
    "pdd-segment": (),
    "pdd-template": (),
    "pdd-train": ("segmentation", "pdd", "descriptor"),
    "pdd-evaluate": (),
}

project = "itk_pdd"
author = "the itk_pdd authors"
copyright = "the itk_pdd authors, Apache-2.0"
release = version = installed("itk_pdd")

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx_gallery.gen_gallery",
]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
exclude_patterns = ["_build", "_generated", "results"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
suppress_warnings = ["config.cache"]  # the gallery's settings hold a function

html_theme = "pydata_sphinx_theme"
html_title = f"itk_pdd {release}"
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "navbar_center": [],  # the sidebar has all pages
    "secondary_sidebar_items": ["page-toc"],
}
html_sidebars = {"**": ["all-pages.html"]}
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
templates_path = ["_templates"]

autosummary_generate = True
autodoc_typehints = "none"
numpydoc_show_class_members = False

os.environ.setdefault("MPLBACKEND", "Agg")
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "_gallery",
    "filename_pattern": r"/\d\d_",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "show_memory": False,
    "abort_on_example_error": True,
    "remove_config_comments": True,
}


def write_help(_app: object) -> None:
    """Write what each command answers to --help, for the page "Commands"."""
    lines = ["# Commands", "", "What each command answers to `--help`.", ""]
    for name, kinds in COMMANDS.items():
        module = f"itk_pdd.cli.{name.removeprefix('pdd-')}"
        lines += [f"## {name}", ""]
        for kind in ("", *kinds):
            words = [kind] if kind else []
            done = subprocess.run(
                [sys.executable, "-P", "-m", module, *words, "--help"], capture_output=True, text=True, check=True,
                env={**os.environ, "COLUMNS": "100"},
            )  # fmt: skip
            title = [f"### {name} {kind}", ""] if kind else []
            text = done.stdout.replace(f"python -m {module}", name)
            lines += [*title, "```text", text.rstrip(), "```", ""]
    target = FOLDER / "commands.md"
    text = "\n".join(lines)
    if not target.exists() or target.read_text(encoding="utf-8") != text:
        target.write_text(text, encoding="utf-8")


def setup(app: object) -> None:
    """Run before the sources are read."""
    app.connect("builder-inited", write_help, priority=100)  # type: ignore[attr-defined]
