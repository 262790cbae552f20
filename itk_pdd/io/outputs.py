"""Check output files before the work; write them whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from itk_pdd.errors import RegistrationError
from itk_pdd.io.messages import check_file_name, system_reason

__all__ = [
    "Output",
    "OutputError",
    "abandon",
    "check_outputs",
    "extension",
    "free_space",
    "whole_file",
    "write_all",
    "write_bytes",
    "written",
]

# For abandon(): temporary folders that exist now, and a lock held while files are moved into place.
_temporary_folders: set[Path] = set()
_moving = threading.Lock()
_files_written = 0


class OutputError(RegistrationError):
    """An output file cannot be written; the message names the file and the reason."""


@dataclass(frozen=True)
class Output:
    """Name an output file and the formats it can have."""

    path: str | os.PathLike[str]
    name: str  # its name in errors, for instance the option that asked for it
    extensions: Sequence[str]  # the extensions of the formats it can have


def extension(path: str | os.PathLike[str]) -> str:
    """Return the extension of a file name, ".nii.gz" in one piece, with its capitals (ITK's writers reject them)."""
    path = Path(path)
    return path.name[-7:] if path.name.lower().endswith(".nii.gz") else path.suffix


def check_outputs(outputs: Sequence[Output], *, inputs: Sequence[str | os.PathLike[str]] = ()) -> None:
    """Check that files can be written and overwrite no input, before the work whose results they hold.

    OutputError if a format is unknown, a folder is missing, full or not writable, or two files would be the same.
    """
    seen: dict[Path, str] = {Path(path).resolve(): "an input" for path in inputs}
    for output in outputs:
        path, target = Path(output.path), Path(output.path).resolve()
        check_file_name(target, name=output.name, error=OutputError)
        found = extension(path)
        if found not in output.extensions:
            raise OutputError(
                f"{output.name}: the extension {found!r} of {path} is not known, expected one of "
                f"{', '.join(output.extensions)}"
            )
        if target in seen:
            raise OutputError(f"{output.name}: {path} is {seen[target]} already: choose another name")
        seen[target] = output.name
        if target.is_dir():
            raise OutputError(f"{output.name}: {path} is a folder, expected the name of a file")
        if not target.parent.is_dir():
            raise OutputError(f"{output.name}: there is no folder {target.parent}: make it first")
    for folder in {Path(output.path).resolve().parent for output in outputs}:
        try:
            with tempfile.TemporaryFile(dir=folder) as probe:
                probe.write(bytes(4096))
                probe.flush()
                os.fsync(probe.fileno())
        except OSError as error:
            raise OutputError(f"nothing can be written to the folder {folder} ({system_reason(error)})") from error


def write_all(writers: Sequence[tuple[Output, Callable[[Path], None]]]) -> None:
    """Write all files, or none: if one fails, no new file appears and no old file is lost, and OutputError says why.

    Each callable writes its file to the path it is given: the file's own name in a temporary folder beside the target.
    All files are moved into place at the end.
    """
    global _files_written
    check_outputs([output for output, _ in writers])
    with contextlib.ExitStack() as stack:
        staging: dict[Path, Path] = {}
        for output, write in writers:
            target = Path(output.path).resolve()
            try:
                if target.parent not in staging:
                    staging[target.parent] = _temporary_folder(".writing-", target.parent, stack)
                write(staging[target.parent] / target.name)
            except OutputError as error:
                raise OutputError(f"{output.name}: {output.path} could not be written ({error})") from error
            except OSError as error:
                reason = system_reason(error)
                raise OutputError(f"{output.name}: {output.path} could not be written ({reason})") from error
        # Some formats write two files (.mhd and .zraw): move every file in the temporary folders.
        moves = [(file, folder / file.name) for folder, stage in staging.items() for file in sorted(stage.iterdir())]
        with _moving:
            _move_all(moves, stack)
            _files_written += len(moves)


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path to write to; move the file to ``path`` if the block ends without an error.

    The temporary path has the file's own name, in a temporary folder beside the target.
    """
    target = Path(path).resolve()
    with contextlib.ExitStack() as stack:
        temporary = _temporary_folder(".writing-", target.parent, stack) / target.name
        yield temporary
        with _moving:
            os.replace(temporary, target)


def abandon() -> None:
    """Remove half-written files and forbid further moves, in a process that is about to end."""
    _moving.acquire()
    for _ in range(3):  # a library may still be writing
        for folder in list(_temporary_folders):
            shutil.rmtree(folder, ignore_errors=True)


def written() -> int:
    """Return the number of files that :func:`write_all` has moved into place in this process."""
    return _files_written


def _temporary_folder(prefix: str, parent: Path, stack: contextlib.ExitStack) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    _temporary_folders.add(folder)
    stack.callback(_temporary_folders.discard, folder)
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _move_all(moves: Sequence[tuple[Path, Path]], stack: contextlib.ExitStack) -> None:
    """Move files into place; if one cannot be moved, restore all old files."""
    done: list[tuple[Path, Path | None, bool]] = []
    try:
        for source, target in moves:
            backup, new = None, not target.exists()
            if not new and len(moves) > 1:
                backup = _temporary_folder(".replaced-", target.parent, stack) / target.name
                _keep(target, backup)
            done.append((target, backup, new))
            os.replace(source, target)
    except BaseException as error:
        for target, backup, new in reversed(done):
            if backup is not None:
                os.replace(backup, target)
            elif new:
                target.unlink(missing_ok=True)
        if isinstance(error, OSError):
            name = error.filename2 or error.filename
            raise OutputError(f"{name} cannot be replaced ({system_reason(error)})") from error
        raise


def _keep(target: Path, backup: Path) -> None:
    """Back up a file by a hard link, so that its name never vanishes; move it on disks without links."""
    try:
        os.link(target, backup)
    except OSError:
        os.replace(target, backup)


def free_space(folder: Path) -> int:
    """Return the number of free bytes on the disk of a folder."""
    return shutil.disk_usage(folder).free


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file and flush it to the disk; OutputError if it is shorter than its content."""
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    if path.stat().st_size != len(content):
        raise OutputError("it was cut short; is the disk full?")
