"""3D Slicer's markups (.mrk.json): points, lines, angles, curves, planes and regions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from itk_pdd.errors import RegistrationError, warn
from itk_pdd.io.formats.pointfile import PointFile, distinct, finite, stated_system
from itk_pdd.io.units import MM_PER_UNIT

__all__ = ["read_markups"]


def read_markups(content: bytes, dimension: int, system: str | None, name: str) -> PointFile:
    """Read the control points of all markups, in the systems and units they name (by default LPS and mm).

    Points that are not defined yet stay as they are. A plane or region also has a frame (centre, orientation, size,
    matrices): it moves with its centre and turns and stretches with its axes, whose ends are the handles of the result.
    Values of measurements are dropped, because they are no longer true; Slicer computes them again.

    References
    ----------
    The schema of 3D Slicer's markups, version 1.0.3.
    """
    # Control points and frames, each with the factors that bring it to LPS millimetres.
    places: list[tuple[dict[str, Any], np.ndarray]] = []
    frames: list[tuple[_Frame, np.ndarray]] = []
    systems = []
    try:
        document = json.loads(content)
        for markup in document["markups"]:
            systems.append(stated_system(str(markup.get("coordinateSystem", "LPS")), system, name))
            factors = _millimetres(markup.get("coordinateUnits", "mm"), name) * np.ones(3)
            if systems[-1] == "RAS":
                factors[:2] *= -1
            points = markup.get("controlPoints", [])
            defined = [point for point in points if _is_defined(point)]
            places += [(point, factors) for point in defined]
            if "center" in markup and "orientation" in markup and (defined or not points):
                frames.append((_Frame.of(markup), factors))
        positions = np.array([place["position"][:dimension] for place, _ in places], float).reshape(-1, dimension)
    except RegistrationError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RegistrationError(f"{name} cannot be read as 3D Slicer's markups ({type(error).__name__})") from error
    if frames and dimension != 3:
        raise RegistrationError(f"{name} holds a plane or region, which no {dimension}-D transform can move")
    scales = [factors[:dimension] for _, factors in places]
    for frame, factors in frames:
        positions = np.concatenate([positions, frame.handles])
        scales += [factors] * len(frame.handles)
    finite(positions, name)
    _warn(document, frames, name)

    def rewrite(moved: np.ndarray) -> bytes:
        moved = moved / np.array(scales)
        for (point, _), position in zip(places, moved, strict=False):
            point["position"][:dimension] = _rounded(position)
        start = len(places)
        for frame, _ in frames:
            frame.follow(moved[start : start + len(frame.handles)])
            start += len(frame.handles)
        for measurement in _measured(document):
            del measurement["value"]
        return (json.dumps(document, indent=4) + "\n").encode()

    count = len(positions) - len(places)
    names = distinct([str(place.get("label", "")) for place, _ in places])
    return PointFile(positions * np.array(scales), rewrite, systems[0], stated=True, handles=count, names=names)


@dataclass(frozen=True)
class _Frame:
    """The frame of a plane or region, as the file holds it."""

    markup: dict[str, Any]
    centre: np.ndarray
    axes: np.ndarray  # columns, as many as are moved: two of a plane
    turned: np.ndarray  # all three
    reach: np.ndarray  # half of the length along each axis
    old: dict[str, np.ndarray]
    points: list[tuple[dict[str, Any], np.ndarray]]

    @classmethod
    def of(cls, markup: dict[str, Any]) -> _Frame:
        turned = np.array(markup["orientation"], float).reshape(3, 3)
        moved = 2 if markup.get("type") == "Plane" else 3
        size = np.array(markup.get("size", [0, 0, 0]), float)
        reach = np.where(size > 0, size, max(size.max(), 0) or 2.0) / 2
        shapes = {"normal": 3, "size": 3, "planeBounds": (2, 2), "baseToNode": (4, 4)}
        old = {key: np.array(markup[key], float).reshape(shape) for key, shape in shapes.items() if key in markup}
        points = [
            (point, np.array(point["orientation"], float).reshape(3, 3))
            for point in markup.get("controlPoints", [])
            if "orientation" in point
        ]
        centre = np.array(markup["center"], float).reshape(3)
        return cls(markup, centre, turned[:, :moved], turned, reach[:moved], old, points)

    @property
    def handles(self) -> np.ndarray:
        """The centre, then both ends of each axis."""
        ends = (self.axes * self.reach).T
        return np.concatenate([self.centre[None], self.centre + ends, self.centre - ends])

    def follow(self, moved: np.ndarray) -> None:
        """Write the frame that fits the moved handles best: turned by the nearest rotation, stretched by the axes."""
        centre, count = moved[0], len(self.reach)
        tangents = (moved[1 : 1 + count] - moved[1 + count :]).T / (2 * self.reach)
        left, _, right = np.linalg.svd(tangents, full_matrices=False)
        side = np.sign(np.linalg.det(self.turned))
        axes = left @ right
        if count == 2:
            axes = np.column_stack([axes, side * np.cross(axes[:, 0], axes[:, 1])])
        elif np.linalg.det(axes) * side < 0:  # mirrored: a frame is not
            left[:, -1] *= -1
            axes = left @ right
        turn, stretch = axes @ np.linalg.inv(self.turned), np.linalg.norm(tangents, axis=0)
        rigid = np.eye(4)
        rigid[:3, :3], rigid[:3, 3] = turn, centre - turn @ self.centre
        new = {"center": centre, "orientation": axes}
        if "normal" in self.old:
            new["normal"] = turn @ self.old["normal"]
        if "size" in self.old:
            new["size"] = self.old["size"] * np.append(stretch, 1.0)[:3]
        if "planeBounds" in self.old:
            new["planeBounds"] = self.old["planeBounds"] * stretch[:2, None]
        if "baseToNode" in self.old:
            new["baseToNode"] = rigid @ self.old["baseToNode"]
        self.markup.update({key: _rounded(value) for key, value in new.items()})
        for point, orientation in self.points:
            point["orientation"] = _rounded(turn @ orientation)


def _is_defined(point: dict[str, Any]) -> bool:
    return point.get("positionStatus", "defined") == "defined" and point.get("position") is not None


def _measured(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the measurements that hold a value."""
    return [each for markup in document["markups"] for each in markup.get("measurements") or [] if "value" in each]


def _millimetres(unit: Any, name: str) -> float:
    """Return the length of a unit; Slicer also writes it as [code, coding scheme, meaning]."""
    code = str(unit[0] if isinstance(unit, list) and unit else unit)
    if code.lower() not in MM_PER_UNIT:
        raise RegistrationError(f"{name} names the unit {code!r}, expected a unit of length such as mm or um")
    return MM_PER_UNIT[code.lower()]


def _warn(document: dict[str, Any], frames: list[Any], name: str) -> None:
    notes = []
    if frames:
        notes.append(
            f"{len(frames)} plane or region (moved, turned and stretched along its axes; it stays flat and rectangular)"
        )
    if _measured(document):
        notes.append("measurements (their values are dropped; Slicer computes them again)")
    if notes:
        warn(f"{name} holds {' and '.join(notes)}")


def _rounded(values: np.ndarray) -> list[float]:
    return [float(value) for value in np.round(values, 12).ravel()]
