"""Tables of points: CSV, and 3D Slicer's FCSV. Only the coordinates change."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from itk_pdd.errors import RegistrationError, warn
from itk_pdd.io.formats.pointfile import PointFile, decimal, distinct, finite, stated_system, to_lps
from itk_pdd.io.units import MM_PER_UNIT

__all__ = ["read_csv", "read_fcsv"]

Rows = list[list[str]]

_AXES = ("x", "y", "z")
# "x", "X (mm)", "pos_y", "position.z [um]", "z_um"
_COLUMN = re.compile(
    r"(?:pos|position|coord|coordinate|point|centroid)?[ _.:-]*([xyz])"
    r"(?:[ _]*[(\[]? ?(nm|um|µm|μm|mm|cm|m) ?[)\]]?)?"
)
_WHOLE = re.compile(r"\s*\d+\s*")


@dataclass(frozen=True)
class _Columns:
    """Hold the columns, system and unit of the coordinates of a table."""

    index: list[int]
    system: str | None = None
    unit: float = 1.0


def read_csv(content: bytes, dimension: int, system: str | None, name: str) -> PointFile:
    """Read the points of a table with or without a head line; a column z is left alone in 2-D.

    Columns are separated by commas, semicolons or tabs; lines that begin with "#" are left alone. The head names the
    columns x, y and z, also as "X (mm)", "pos_x" or "x [um]" (then in this unit), or l, p, s or r, a, s (3D Slicer's
    tables, whose undefined points stay as they are). Without a head the coordinates follow a column of names or a
    column that counts the lines, or are the first columns. The system is what the head says, else LPS, as in ITK and
    ANTs.
    """
    text = _text(content, name)
    first = next((line for line in text.splitlines() if line.strip() and not line.startswith("#")), "")
    delimiter = max(",;\t", key=first.count)
    rows = [row for row in _rows(io.StringIO(text, newline=""), name, delimiter) if any(cell.strip() for cell in row)]
    body = [number for number, row in enumerate(rows) if not row[0].startswith("#")]
    if not body:
        raise RegistrationError(f"{name} is empty, expected a table of points")
    head = [cell.strip().lower() for cell in rows[body[0]]]
    columns = _named(head, dimension)
    if columns is not None:
        body = body[1:]
        if "defined" in head:
            column = head.index("defined")
            body = [number for number in body if rows[number][column : column + 1] != ["0"]]
    else:
        head, columns = [], _unnamed([rows[number] for number in body], dimension, name)
    own = system or "LPS" if columns.system is None else stated_system(columns.system, system, name)
    points = _coordinates(rows, body, columns.index, 1, name)

    def rewrite(moved: np.ndarray) -> bytes:
        return _written(_replaced(rows, body, columns.index, moved), delimiter, text)

    file = PointFile(points, rewrite, own, stated=columns.system is not None, names=_labels(head, rows, body))
    return to_lps(file, unit=columns.unit)


def read_fcsv(content: bytes, dimension: int, system: str | None, name: str) -> PointFile:
    """Read the points of 3D Slicer's fiducial list, in the coordinate system its head names; see :func:`read_csv`."""
    text = _text(content, name)
    lines = text.splitlines()
    head = [line for line in lines if line.startswith("#")]
    rows = _rows([line for line in lines if line.strip() and not line.startswith("#")], name)
    told = {
        key.strip("# ").lower(): value.strip() for key, sign, value in (line.partition("=") for line in head) if sign
    }
    own = stated_system(told.get("coordinatesystem", ""), system, name)
    names = told.get("columns", "id,x,y,z")
    order = [cell.strip().lower() for cell in names.split(",")]
    if not set(_AXES[:dimension]) <= set(order):
        raise RegistrationError(f"{name} has the columns {names}, expected {', '.join(_AXES[:dimension])} too")
    columns, body = [order.index(axis) for axis in _AXES[:dimension]], list(range(len(rows)))
    points = _coordinates(rows, body, columns, len(head) + 1, name)

    def rewrite(moved: np.ndarray) -> bytes:
        table = _written(_replaced(rows, body, columns, moved), ",", text)
        return "".join(line + _line_end(text) for line in head).encode() + table

    return to_lps(PointFile(points, rewrite, own, stated=True, names=_labels(order, rows, body)))


def _labels(head: list[str], rows: Rows, body: list[int]) -> tuple[str, ...]:
    """Take the names of the points from the column "label" or "name"."""
    column = next((head.index(key) for key in ("label", "name") if key in head), None)
    if column is None or any(len(rows[number]) <= column for number in body):
        return ()
    return distinct([rows[number][column].strip() for number in body])


def _named(head: list[str], dimension: int) -> _Columns | None:
    """Find the columns that a head line names; None if it names none of them."""
    found: dict[str, tuple[int, str]] = {}
    for number, cell in enumerate(head):
        match = _COLUMN.fullmatch(cell)
        if match:
            found.setdefault(match[1], (number, match[2] or "mm"))
    if all(axis in found for axis in _AXES[:dimension]):
        places = [found[axis] for axis in _AXES[:dimension]]
        units = {unit for _, unit in places}
        return _Columns([number for number, _ in places], unit=MM_PER_UNIT[units.pop()]) if len(units) == 1 else None
    for system in ("LPS", "RAS"):
        letters = list(system.lower()[:dimension])
        if all(letter in head for letter in letters):
            return _Columns([head.index(letter) for letter in letters], system=system)
    return None


def _unnamed(rows: Rows, dimension: int, name: str) -> _Columns:
    """Find the coordinates of a table without a head: its first numbers, after names or a count of the lines."""
    numbers = [_is_number(cell) for cell in rows[0]]
    first = numbers.index(True) if True in numbers else len(numbers)
    if not all(numbers[first : first + dimension]) or first + dimension > len(numbers):
        if any(numbers):
            raise RegistrationError(f"{name}: line 1 is {','.join(rows[0])!r}, expected {dimension} coordinates")
        raise RegistrationError(
            f"{name} has the columns {', '.join(rows[0])}, expected {', '.join(_AXES[:dimension])} among them"
        )
    if first == 0 and sum(numbers) > dimension and _counts(rows, 0):
        spare = {row[dimension].strip() for row in rows if len(row) > dimension}
        if len(spare) == 1 or _counts(rows, dimension):
            raise RegistrationError(
                f"{name} has {len(rows[0])} columns and no head, and its first column may be an index: name the "
                f"columns ({', '.join(_AXES[:dimension])}) in a first line"
            )
        warn(f"{name} has no head; its first column counts the lines and is taken for an index")
        first = 1
    return _Columns(list(range(first, first + dimension)))


def _counts(rows: Rows, column: int) -> bool:
    """Say whether a column of several rows holds 0, 1, 2, ... or 1, 2, 3, ..."""
    cells = [row[column] if len(row) > column else "" for row in rows]
    if len(rows) < 2 or not all(_WHOLE.fullmatch(cell) for cell in cells):
        return False
    start = int(cells[0])
    return start in (0, 1) and [int(cell) for cell in cells] == list(range(start, start + len(rows)))


def _text(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RegistrationError(f"{name} is no text, expected a table of points") from error


def _rows(lines: Iterable[str], name: str, delimiter: str = ",") -> Rows:
    try:
        return list(csv.reader(lines, delimiter=delimiter))
    except csv.Error as error:
        raise RegistrationError(f"{name} is no table that can be read ({error})") from error


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _coordinates(rows: Rows, body: list[int], columns: list[int], first_line: int, name: str) -> np.ndarray:
    points = np.empty((len(body), len(columns)))
    for position, number in enumerate(body):
        row = rows[number]
        try:
            points[position] = [float(row[column]) for column in columns]
        except (ValueError, IndexError) as error:
            raise RegistrationError(
                f"{name}: line {number + first_line} is {','.join(row)!r}, expected {len(columns)} coordinates"
            ) from error
    finite(points, name)
    return points


def _replaced(rows: Rows, body: list[int], columns: list[int], points: np.ndarray) -> Rows:
    """Put other points into rows; a point that is NaN takes its row with it."""
    result = [list(row) for row in rows]
    for number, point in reversed(list(zip(body, points, strict=True))):
        if np.isnan(point).any():
            del result[number]
            continue
        for column, value in zip(columns, point, strict=True):
            result[number][column] = decimal(value)
    return result


def _written(rows: Rows, delimiter: str, text: str) -> bytes:
    stream = io.StringIO()
    csv.writer(stream, delimiter=delimiter, lineterminator=_line_end(text)).writerows(rows)
    return stream.getvalue().encode()


def _line_end(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"
