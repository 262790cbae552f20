"""The pages: links lead somewhere, options exist, and the code on them runs as it stands, on a small pair."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import shlex
import shutil
from pathlib import Path

import pytest
import SimpleITK
from click.testing import CliRunner

import itk_pdd
from itk_pdd.geometry.grid import Grid
from itk_pdd.synthesis import make_pair

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MADE = ("_build", "_gallery", "_generated")
PAGES = [*sorted(ROOT.glob("*.md")), ROOT / "examples" / "README.md"]
PAGES += [page for page in sorted(DOCS.rglob("*.md")) if not set(MADE) & set(page.parts) and page.name != "commands.md"]
RUN = [DOCS / "start.md", DOCS / "conventions.md", *sorted((DOCS / "howto").glob("*.md"))]
# What a page shows takes minutes: the tests add what makes it short.
SHORT = {
    "pdd-train": "--iterations 2 --validate-every 2 --widths 4,8 --crop 16 16 16 --threads 1",
    "pdd-compare": "--no-report",
}
BLOCK = re.compile(r"(<!-- not run: [^>]+ -->\n)?```(\w*)\n(.*?)```", re.DOTALL)


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[tuple[str, str, bool]]:
    """Language and text of each block of code, and whether it can run in a test."""
    return [(kind, text, not mark) for mark, kind, text in BLOCK.findall(page.read_text(encoding="utf-8"))]


def calls(text: str) -> list[list[str]]:
    """Words of the lines of a shell block that call a command of this package."""
    lines = text.replace("\\\n", " ").splitlines()
    parts = [part.strip() for line in lines for part in line.split("#")[0].split("&&")]
    return [shlex.split(part) for part in parts if part.startswith("pdd-")]


def command(name: str):
    return importlib.import_module(f"itk_pdd.cli.{name.removeprefix('pdd-')}").main


def slugs(text: str) -> set[str]:
    """Anchors of the headings, as GitHub and myst make them."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if target == ROOT / "docs" / "commands.md":  # docs/conf.py writes it from the help of the commands
            assert '"commands.md"' in (ROOT / "docs" / "conf.py").read_text(encoding="utf-8")
            continue
        assert target.exists(), link
        if anchor:
            assert anchor in slugs(target.read_text(encoding="utf-8")), link


# The lab book and the changelog tell of what was there once.
@pytest.mark.parametrize("page", [p for p in PAGES if p.name not in ("experiments.md", "CHANGELOG.md")], ids=named)
def test_files_that_are_named_exist(page: Path) -> None:
    for name in re.findall(r"`((?:tests|examples|docs|itk_pdd)/[\w/.-]+\.\w+)", page.read_text(encoding="utf-8")):
        # Without the checkout the package lies where it is installed.
        assert (ROOT / name).exists() or (Path(itk_pdd.__file__).parents[1] / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_options_exist(page: Path) -> None:
    """Each call in a block is understood by its command, option by option."""
    for kind, text, _ in blocks(page):
        for name, *words in calls(text) if kind == "sh" else ():
            found = command(name)
            if words and words[0] in getattr(found, "commands", {}):
                found = found.commands[words.pop(0)]
            known = {option for parameter in found.params for option in [*parameter.opts, *parameter.secondary_opts]}
            unknown = [word for word in words if re.match(r"--?[a-zA-Z]", word) and word not in known]
            assert unknown == [], (name, unknown)


def test_every_page_is_in_a_table_of_contents() -> None:
    listed: set[Path] = set()
    for page in DOCS.rglob("*.md"):
        for block in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            listed |= {(page.parent / f"{line}.md").resolve() for line in block.split() if not line.startswith(":")}
    pages = {page.resolve() for page in PAGES if DOCS in page.parents}
    assert pages - listed == {DOCS / "index.md"}


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory) -> Path:
    """The files that the pages work with."""
    folder = tmp_path_factory.mktemp("pages")
    pair = make_pair((40, 36, 32), 3.0, seed=0)
    images = {
        "fixed": pair.fixed.to_simpleitk(),
        "moving": pair.moving.to_simpleitk(),
        "fixed_labels": pair.fixed_labels.to_simpleitk(),
        "labels": pair.moving_labels.to_simpleitk(),
    }
    for name in ("fixed", "moving"):
        images[f"{name}_mask"] = SimpleITK.Cast(images[name] > -500, SimpleITK.sitkUInt8)
        images[f"{name}_t2"] = -1.0 * SimpleITK.Cast(images[name], SimpleITK.sitkFloat32)
    images["series"] = SimpleITK.JoinSeries([images["fixed"], images["moving"], images["moving"]])
    for number in (1, 2, 3, 4):
        images[f"scan{number}"], images[f"labels{number}"] = images["moving"], images["labels"]
    for name, image in images.items():
        SimpleITK.WriteImage(image, str(folder / f"{name}.nii.gz"))
    _write_dicom(folder / "ct", images["fixed"])
    flat = make_pair(Grid.create((64, 56), 1.0).size, 1.0, seed=1, kind="shapes")
    for name, volume in (("slide_he", flat.fixed), ("slide_ck", flat.moving)):
        grey = SimpleITK.RescaleIntensity(volume.to_simpleitk(), 0, 255)
        SimpleITK.WriteImage(SimpleITK.Cast(grey, SimpleITK.sitkUInt8), str(folder / f"{name}.png"))
    centre = pair.fixed.grid.centre
    (folder / "points.csv").write_text("x,y,z\n" + ",".join(f"{c:.1f}" for c in centre) + "\n")
    for name in ("pairs.csv", "scans.csv"):
        (folder / name).write_text(_table_of(name), encoding="utf-8")
    done = CliRunner().invoke(command("pdd-register"), [f"{folder}/fixed.nii.gz", f"{folder}/moving.nii.gz",
                              "-o", f"{folder}/field.nii.gz"])  # fmt: skip
    assert done.exit_code == 0, done.output
    return folder


def _table_of(name: str) -> str:
    """A list of files as a page shows it."""
    page = {"pairs.csv": "comparing.md", "scans.csv": "training.md"}[name]
    return next(text for kind, text, _ in blocks(DOCS / "howto" / page) if kind == "text" and "," in text)


def _write_dicom(folder: Path, image: SimpleITK.Image) -> None:
    folder.mkdir()
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    spacing = image.GetSpacing()[2]
    for number in range(image.GetSize()[2]):
        piece = SimpleITK.Cast(image[:, :, number : number + 1], SimpleITK.sitkInt16)
        tags = {
            "0008|0060": "CT", "0020|000d": "1.2.3", "0020|000e": "1.2.3.4", "0008|0018": f"1.2.3.4.{number + 1}",
            "0020|0013": str(number + 1), "0020|0037": r"1\0\0\0\1\0", "0018|0050": f"{spacing:g}",
            "0020|0032": "\\".join(f"{c:g}" for c in image.TransformIndexToPhysicalPoint((0, 0, number))),
        }  # fmt: skip
        for key, value in tags.items():
            piece.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{number:03d}.dcm"))
        writer.Execute(piece)


@pytest.mark.filterwarnings("default::itk_pdd.errors.RegistrationWarning")
@pytest.mark.parametrize("page", [page for page in RUN if any(run for *_, run in blocks(page))], ids=named)
def test_the_code_runs(page: Path, sandbox: Path, tmp_path, monkeypatch) -> None:
    """From the first block of a page to the last, in one folder and one namespace."""
    folder = tmp_path / "here"
    shutil.copytree(sandbox, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    names: dict[str, object] = {"__name__": "page"}
    for kind, text, run in blocks(page):
        if kind == "python" and run:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(text, named(page), "exec"), names)
        for name, *words in calls(text) if kind == "sh" and run else ():
            done = CliRunner().invoke(command(name), [*words, *shlex.split(SHORT.get(name, ""))])
            assert done.exit_code == 0, (name, words, done.output, done.exception)


def test_a_block_that_fails_is_seen(tmp_path) -> None:
    """The tests above read blocks as they should: marks, languages, comments, several calls in a line."""
    page = tmp_path / "page.md"
    page.write_text("<!-- not run: far -->\n```sh\npdd-register a b # -x\n```\n\n```python\nprint(1)\n```\n")
    assert [(kind, run) for kind, _, run in blocks(page)] == [("sh", False), ("python", True)]
    assert calls("cd x && pdd-register 'a b' \\\n  -o c  # no") == [["pdd-register", "a b", "-o", "c"]]
    assert slugs("# NIfTI: two places\n## Pixels & more\n") == {"nifti-two-places", "pixels--more"}
    assert sum(len(calls(text)) for page in PAGES for kind, text, _ in blocks(page) if kind == "sh") > 40
