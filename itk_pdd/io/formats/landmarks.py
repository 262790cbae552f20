"""Landmark files: CSV tables, and 3D Slicer's FCSV and MRK.JSON; only the coordinates change, all else stays."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.io.formats.pointfile import PointFile, finite, to_lps

__all__ = ["read_csv", "read_fcsv", "read_markups"]

_AXES = ("x", "y", "z")
# Slicer wrote numbers once.
_SYSTEMS = {"0": "RAS", "1": "LPS", "RAS": "RAS", "LPS": "LPS"}


def read_csv(content: bytes, dimension: int, system: str | None, name: str) -> PointFile:
    """Points of a table with a head line that names the columns x, y and z; without a head, its first columns.

    Parameters
    ----------
    content : bytes
        The file: columns separated by commas, semicolons or tabs.
    dimension : int
        Number of coordinates wanted; a column z is left alone in 2-D.
    system : {"LPS", "RAS", None}
        Coordinate system; LPS if None, as in ITK and ANTs.
    name : str
        What to call it in errors.
    """
    text = _text(content, name)
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    rows = [row for row in _rows(io.StringIO(text, newline=""), name, delimiter) if any(cell.strip() for cell in row)]
    if not rows:
        raise RegistrationError(f"{name} is empty, expected a table of points")
    head = [cell.strip().lower() for cell in rows[0]]
    if all(axis in head for axis in _AXES[:dimension]):
        columns, body = [head.index(axis) for axis in _AXES[:dimension]], 1
    elif _is_number(rows[0][0]):
        columns, body = list(range(dimension)), 0
    else:
        raise RegistrationError(
            f"{name} has the columns {', '.join(rows[0])}, expected {', '.join(_AXES[:dimension])} among them"
        )
    points = _coordinates(rows[body:], columns, body + 1, name)

    def rewrite(moved: np.ndarray) -> bytes:
        stream = io.StringIO()
        writer = csv.writer(stream, delimiter=delimiter, lineterminator="\n")
        writer.writerows(rows[:body])
        writer.writerows(_replaced(rows[body:], columns, moved))
        return stream.getvalue().encode()

    return to_lps(PointFile(points, rewrite, system or "LPS", stated=False))


def read_fcsv(content: bytes, dimension: int, system: str | None, name: str) -> PointFile:
    """Points of 3D Slicer's fiducial list, in the coordinate system its head names; see :func:`read_csv`."""
    lines = _text(content, name).splitlines()
    head = [line for line in lines if line.startswith("#")]
    rows = _rows([line for line in lines if line.strip() and not line.startswith("#")], name)
    declared = [line.split("=", 1)[1].strip() for line in head if "CoordinateSystem" in line and "=" in line]
    own = _stated(declared[0] if declared else "", system, name)
    names = next((line.split("=", 1)[1] for line in head if line.startswith("# columns") and "=" in line), "id,x,y,z")
    order = [cell.strip() for cell in names.split(",")]
    if not set(_AXES[:dimension]) <= set(order):
        raise RegistrationError(f"{name} has the columns {names.strip()}, expected {', '.join(_AXES[:dimension])} too")
    columns = [order.index(axis) for axis in _AXES[:dimension]]
    points = _coordinates(rows, columns, len(head) + 1, name)

    def rewrite(moved: np.ndarray) -> bytes:
        stream = io.StringIO()
        stream.writelines(line + "\n" for line in head)
        csv.writer(stream, lineterminator="\n").writerows(_replaced(rows, columns, moved))
        return stream.getvalue().encode()

    return to_lps(PointFile(points, rewrite, own, stated=True))


def read_markups(content: bytes, dimension: int, system: str | None, name: str) -> PointFile:
    """Control points of all markups in 3D Slicer's MRK.JSON, in the system they name; see :func:`read_csv`."""
    try:
        document = json.loads(content)
        places: list[tuple[Any, str]] = []
        for markup in document["markups"]:
            own = _stated(str(markup.get("coordinateSystem", "")), system, name)
            places += [(point, own) for point in markup.get("controlPoints", []) if point.get("position") is not None]
        points = np.array([point["position"][:dimension] for point, _ in places], dtype=float).reshape(-1, dimension)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, RegistrationError):
            raise
        raise RegistrationError(f"{name} cannot be read as 3D Slicer's markups ({type(error).__name__})") from error
    finite(points, name)
    # Every list of points may have a system of its own: both are brought to LPS here.
    signs = np.ones_like(points)
    signs[[own == "RAS" for _, own in places], :2] = -1

    def rewrite(moved: np.ndarray) -> bytes:
        for (point, _), position in zip(places, moved * signs, strict=True):
            point["position"][:dimension] = [round(float(value), 6) for value in position]
        return (json.dumps(document, indent=4) + "\n").encode()

    return PointFile(points * signs, rewrite, places[0][1], stated=True)


def _stated(found: str, asked: str | None, name: str) -> str:
    """The coordinate system a file names; refused if another one was asked for."""
    if found.upper() not in _SYSTEMS:
        if asked is None:
            raise RegistrationError(
                f"{name} names the coordinate system {found!r}, expected LPS or RAS: say which one it is"
            )
        return asked
    own = _SYSTEMS[found.upper()]
    if asked not in (None, own):
        raise RegistrationError(f"{name} says that its points are {own}, but {asked} was asked for: leave that out")
    return own


def _text(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RegistrationError(f"{name} is no text, expected a table of points") from error


def _rows(lines: Iterable[str], name: str, delimiter: str = ",") -> list[list[str]]:
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


def _coordinates(rows: list[list[str]], columns: list[int], first_line: int, name: str) -> np.ndarray:
    points = np.empty((len(rows), len(columns)))
    for number, row in enumerate(rows):
        try:
            points[number] = [float(row[column]) for column in columns]
        except (ValueError, IndexError) as error:
            raise RegistrationError(
                f"{name}: line {number + first_line} is {','.join(row)!r}, expected {len(columns)} coordinates"
            ) from error
    finite(points, name)
    return points


def _replaced(rows: list[list[str]], columns: list[int], points: np.ndarray) -> list[list[str]]:
    result = []
    for row, point in zip(rows, points, strict=True):
        new = list(row)
        for column, value in zip(columns, point, strict=True):
            new[column] = f"{value:.6f}"
        result.append(new)
    return result
