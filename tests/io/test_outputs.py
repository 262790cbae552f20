"""Outputs are checked beforehand and written whole or not at all, a full disk included."""

from __future__ import annotations

import contextlib
import os
import resource
import signal

import numpy as np
import pytest
import SimpleITK
from conftest import GEOMETRIES, wave

from itk_pdd.geometry.field import DisplacementField
from itk_pdd.io import files
from itk_pdd.io.fields import field_writer, write_field
from itk_pdd.io.outputs import Output, OutputError, check_outputs, whole_file, write_all

TEXT = (".txt",)


def put(text: str):
    return lambda path: path.write_text(text)


def fail(_) -> None:
    raise OSError(28, os.strerror(28))


def test_all_are_written(tmp_path) -> None:
    (tmp_path / "b").mkdir()
    paths = [tmp_path / "one.txt", tmp_path / "two.txt", tmp_path / "b" / "one.txt"]
    write_all([(Output(path, "text", TEXT), put(str(i))) for i, path in enumerate(paths)])
    assert [path.read_text() for path in paths] == ["0", "1", "2"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "one.txt", "two.txt"]


def test_none_is_written_if_one_fails(tmp_path) -> None:
    (tmp_path / "old.txt").write_text("old")
    with pytest.raises(OutputError, match=r"second: .*two.txt could not be written .no space left on device"):
        write_all(
            [
                (Output(tmp_path / "old.txt", "first", TEXT), put("new")),
                (Output(tmp_path / "two.txt", "second", TEXT), fail),
            ]
        )
    assert [p.name for p in tmp_path.iterdir()] == ["old.txt"]
    assert (tmp_path / "old.txt").read_text() == "old"


@pytest.mark.parametrize("links", [True, False])
def test_a_name_is_never_without_its_file(tmp_path, monkeypatch, links: bool) -> None:
    """Whenever the process may be killed, what was there is under its name (or, on disks without links, beside it)."""
    names, replace, seen = [tmp_path / f"{name}.txt" for name in "ab"], os.replace, []
    for name in names:
        name.write_text("old")

    def look(source, target) -> None:
        seen.append([name.exists() for name in names])
        replace(source, target)
        seen.append([name.exists() for name in names])

    def no_links(*_args) -> None:
        raise OSError(1, os.strerror(1))

    monkeypatch.setattr(os, "replace", look)
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    write_all([(Output(name, "text", TEXT), put("new")) for name in names])
    assert [name.read_text() for name in names] == ["new", "new"]
    assert sorted(tmp_path.iterdir()) == names
    assert (np.array(seen).all()) == links


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_what_was_there_comes_back_if_a_file_cannot_be_moved(tmp_path, monkeypatch, failing: int) -> None:
    (tmp_path / "a.txt").write_text("old")
    replace, moved = os.replace, []

    def fragile(source, target) -> None:
        if ".writing-" in str(source):
            moved.append(target)
            if len(moved) == failing + 1:
                raise OSError(13, os.strerror(13), str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", fragile)
    with pytest.raises(OutputError, match=r"cannot be replaced .permission denied"):
        write_all([(Output(tmp_path / f"{name}.txt", "text", TEXT), put("new")) for name in "abc"])
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_interruption_leaves_nothing(tmp_path) -> None:
    def interrupt(path) -> None:
        path.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_all([(Output(tmp_path / "a.txt", "text", TEXT), interrupt)])
    assert not list(tmp_path.iterdir())


def test_a_link_is_followed(tmp_path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "real" / "file.txt")
    write_all([(Output(tmp_path / "link.txt", "text", TEXT), put("new"))])
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real" / "file.txt").read_text() == "new"


def test_what_cannot_work_is_told_beforehand(tmp_path) -> None:
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "input.txt").write_text("precious")
    for path, message in (
        (tmp_path / "none" / "a.txt", "output: there is no folder"),
        (tmp_path / "input.txt" / "a.txt", "output: there is no folder"),
        (tmp_path / "folder.txt", "is a folder, expected the name of a file"),
        (tmp_path / "a.jpg", "output: the extension '.jpg'"),
        (tmp_path / "x" / ".." / "input.txt", "is an input already"),
    ):
        with pytest.raises(OutputError, match=message):
            check_outputs([Output(path, "output", TEXT)], inputs=[tmp_path / "input.txt"])
    twice = [Output(tmp_path / "a.txt", name, TEXT) for name in ("output", "warped")]
    with pytest.raises(OutputError, match=r"warped: .* is output already"):
        check_outputs(twice)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.txt", "input.txt"]


@contextlib.contextmanager
def small_disk():
    """No file can grow beyond 20 kB: what writers meet on a full disk.

    Not a fixture: pytest's own report must not be written under the limit.
    """
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def noise() -> DisplacementField:
    grid = GEOMETRIES["plain 3-D"]
    vectors = np.random.default_rng(0).normal(size=(*grid.shape, 3)).astype(np.float32)
    return DisplacementField(vectors, grid)


@pytest.mark.parametrize("name", ["u.nii", "u.nii.gz", "u.mha", "u.mhd", "u.nrrd", "u.nhdr", "u.tfm", "u.txt", "u.mat"])
def test_full_disk(tmp_path, name: str) -> None:
    message = rf"{name} could not be written .*(disk full|too large)"
    with small_disk(), pytest.raises(OutputError, match=message) as caught:
        write_field(noise(), tmp_path / name)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_full_disk_before_hdf5_meets_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(files, "free_space", lambda _: 30_000)
    with pytest.raises(OutputError, match=r"u.h5 could not be written .no space left on device"):
        write_field(noise(), tmp_path / "u.h5")
    assert not list(tmp_path.iterdir())


def test_two_file_format_refers_to_its_own_data(tmp_path) -> None:
    field = wave(GEOMETRIES["plain 3-D"])
    write_field(field, tmp_path / "u.mhd")
    assert len(list(tmp_path.iterdir())) == 2
    again = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "u.mhd")))
    np.testing.assert_array_equal(again, field.vectors)


def test_writer_writes_to_the_path_it_is_called_with(tmp_path) -> None:
    field_writer(wave(GEOMETRIES["plain 2-D"]))(tmp_path / "u.mha")
    assert [p.name for p in tmp_path.iterdir()] == ["u.mha"]


def test_whole_file_replaces_the_old_one_or_leaves_it(tmp_path) -> None:
    path = tmp_path / "table.csv"
    with whole_file(path) as temporary:
        temporary.write_text("first")
        assert (temporary.name, path.exists()) == ("table.csv", False)
    with pytest.raises(KeyboardInterrupt), whole_file(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("table.csv", "first")]


def test_whole_file_keeps_the_usual_permissions(tmp_path) -> None:
    (tmp_path / "plain").write_text("")
    with whole_file(tmp_path / "whole") as temporary:
        temporary.write_text("")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode
