"""A schematic abdomen, painted from the lung bases to the bladder.

Everything is placed in the frame of a nominal patient, in millimetres: x to the left, y to the back, z to the head,
zero in front of the spine at the height of the kidneys. The body is about 330 mm wide and 220 mm deep.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np

from itk_pdd.synthesis.brushes import Brushes
from itk_pdd.synthesis.canvas import Canvas, smooth_path

__all__ = ["NOMINAL_EXTENT", "AbdomenLabel", "paint_abdomen"]

NOMINAL_EXTENT = (372.0, 254.0, 400.0)
"""Field of view (x, y, z) in millimetres that shows the whole nominal patient."""


class AbdomenLabel(IntEnum):
    """Tissues of the schematic abdomen; 1 to 13 are numbered as in the "Beyond the Cranial Vault" data set."""

    BACKGROUND = 0
    SPLEEN = 1
    RIGHT_KIDNEY = 2
    LEFT_KIDNEY = 3
    GALLBLADDER = 4
    OESOPHAGUS = 5
    LIVER = 6
    STOMACH = 7
    AORTA = 8
    INFERIOR_VENA_CAVA = 9
    PORTAL_AND_SPLENIC_VEIN = 10
    PANCREAS = 11
    RIGHT_ADRENAL = 12
    LEFT_ADRENAL = 13
    SKIN = 14
    SUBCUTANEOUS_FAT = 15
    MUSCLE = 16
    VISCERAL_FAT = 17
    BONE = 18
    BONE_MARROW = 19
    DISC = 20
    SPINAL_CANAL = 21
    LUNG = 22
    HEART = 23
    BLADDER = 24
    COLON = 25
    SMALL_BOWEL = 26
    BOWEL_CONTENT = 27
    BOWEL_GAS = 28
    VESSEL = 29
    HEPATIC_VESSEL = 30
    RENAL_PELVIS = 31
    LYMPH_NODE = 32


L = AbdomenLabel
_BOWEL = (L.COLON, L.SMALL_BOWEL, L.BOWEL_CONTENT, L.BOWEL_GAS)
SOFT = (L.VISCERAL_FAT, *_BOWEL)


def paint_abdomen(canvas: Canvas, rng: np.random.Generator, wobble: Sequence[np.ndarray]) -> None:
    """Paint one random patient on points in nominal millimetres.

    What is drawn does not depend on the points. ``wobble`` is smooth noise of unit variance at them, three of it, that
    bends the surfaces.
    """
    painter = _Painter(canvas, rng, wobble)
    cavity = painter.body()
    dome = painter.chest(cavity)
    painter.skeleton(cavity)
    painter.bowel()
    painter.organs(cavity, dome)
    painter.vessels()


class _Painter(Brushes):
    def body(self) -> np.ndarray:
        """Skin, fat, the muscular wall and the cavity, whose level is returned."""
        canvas, rng = self.canvas, self.rng
        x, y, z = canvas.coordinates
        half = self.vary((165.0, 108.0), 0.03).tolist()  # Python numbers leave float32 arrays as they are.
        fat, muscle, squareness = rng.uniform(9, 24), rng.uniform(9, 14), rng.uniform(2.1, 2.6)
        waist, waist_height = rng.uniform(0, 0.06), rng.uniform(-60, 20)
        narrowing = 1 - waist * np.exp(-(((z - waist_height) / 70) ** 2))
        radial = np.hypot(x, y)
        norm = (np.abs(x / (half[0] * narrowing)) ** squareness + np.abs(y / (half[1] * narrowing)) ** squareness) ** (
            1 / squareness
        )
        # Distance to the outline along the ray from the axis.
        outline = radial - radial / np.maximum(norm, 1e-3) + self.bent(3.0)
        side, back = np.abs(x) / half[0], np.clip(y / half[1], 0, 1)
        wall = outline + fat * (0.7 + 0.5 * side + 0.3 * back) + self.bent(2.0)
        # The muscles of the back fill the space beside the spine.
        thick = muscle * (1 - 0.2 * side) + 45 * back**2 * np.clip(1 - side**2 * 2.5, 0, 1)
        cavity = wall + thick + self.bent(1.0)
        canvas.paint(L.SKIN, outline)
        canvas.paint(L.SUBCUTANEOUS_FAT, outline + 3.0)
        canvas.paint(L.MUSCLE, wall)
        # Sheets of fat between the muscles of the flank and of the back.
        sheet = np.abs(cavity - 0.55 * thick) - 0.7
        canvas.paint(L.SUBCUTANEOUS_FAT, np.maximum(sheet, -wall - 60), over=(L.MUSCLE,))
        canvas.paint(L.VISCERAL_FAT, cavity)
        return cavity

    def chest(self, cavity: np.ndarray) -> np.ndarray:
        """Lungs, their vessels and the heart; returns the level of what lies above the diaphragm, negated."""
        canvas, rng = self.canvas, self.rng
        x, y, z = canvas.coordinates
        right, left = rng.normal((118, 108), 7).tolist()
        top = right + (left - right) / (1 + np.exp(-x / 15)) - 14 * np.exp(-((x / 24) ** 2))
        dome = top - 90 * np.clip(1 + cavity / 70, 0, 1) ** 8 + self.bent(3.0)
        middle = (np.hypot((x - 6) / 32, (y - 5) / 75) - 1) * 32
        canvas.paint(L.LUNG, np.maximum(np.maximum(dome - z, cavity + 2), -middle), over=(L.VISCERAL_FAT,))
        for side in (-1, 1):
            hilum = np.array([side * 38.0, 10, 175])
            for _ in range(9):
                end = np.array([side * rng.uniform(55, 125), rng.uniform(-60, 60), rng.uniform(95, 190)])
                path = smooth_path([hilum, self.near((hilum + end) / 2, 9), end])
                self.tube(L.VESSEL, path, np.linspace(4.5, 1.2, len(path)), over=(L.LUNG,))
        self.blob(
            L.HEART, self.near((22, -38, 178)), self.vary((52, 40, 46)), self.tilt((0, 0, 30)),
            over=(L.LUNG, L.VISCERAL_FAT), bend=3, minus=dome + 4 - z,
        )  # fmt: skip
        return z - dome

    def skeleton(self, cavity: np.ndarray) -> None:
        """Muscles along the spine, the spine, the ribs and the pelvis."""
        canvas, rng = self.canvas, self.rng
        for side in (-1, 1):
            path = smooth_path([(side * 30, 46, 60), (side * 37, 42, -10), (side * 46, 36, -90), (side * 62, 18, -200)])
            self.tube(L.MUSCLE, path, np.linspace(7, 24, len(path)), bend=1.5, over=(L.VISCERAL_FAT,))
        self._spine(x0=rng.normal(0, 2), bow=rng.uniform(4, 12), phase=rng.uniform(0, 33))
        self._ribs(cavity, first=rng.uniform(30, 50), slope=rng.uniform(110, 150), phase=rng.uniform(0, 28))
        self.blob(L.BONE, np.array([0.0, 58, -180]), self.vary((46, 22, 55), 0.06), over=None, bend=1.5)
        self.blob(L.BONE_MARROW, np.array([0.0, 58, -180]), np.array([40.0, 16, 49]), over=(L.BONE,))
        for side in (-1, 1):
            found = canvas.ellipsoid(
                (side * 62, 22, -185), self.vary((66, 62, 88), 0.05), self.tilt((0, side * 10, 0), 3), margin=6
            )
            if found is None:
                continue
            level, region = found
            x, y, _ = canvas.at(region)
            # Only the outer and rear part of the shell is the wing of the ilium.
            shell = np.maximum(np.abs(level) - 5, 0.7 * (22 - side * x) + 0.7 * (8 - y))
            canvas.paint(L.BONE, shell, region, over=(L.MUSCLE, L.VISCERAL_FAT, L.SUBCUTANEOUS_FAT))
            canvas.paint(L.BONE_MARROW, shell + 3, region, over=(L.BONE,))

    def _spine(self, *, x0: float, bow: float, phase: float, period: float = 33.0) -> None:
        canvas = self.canvas
        region = canvas.region((-50, 0, -1e4), (50, 130, 1e4))
        if region is None:
            return
        x, y, z = canvas.at(region)
        x, y = x - x0, y - (46 - bow * np.cos(z / 110))
        height = np.abs((z + phase) % period - period / 2)
        column = np.hypot(x / 1.2, y) - 19
        canvas.paint(L.DISC, column, region, over=None)
        vertebra = np.maximum(column - 1, height - 12)
        canvas.paint(L.BONE, vertebra, region)
        canvas.paint(L.BONE_MARROW, vertebra + 2.5, region, over=(L.BONE,))
        canal = np.hypot(x / 1.2, y - 29) - 8.5
        arch = np.maximum(canal - 5, height - 11)
        across = np.maximum(np.hypot(y - 27, height) - 5.5, np.abs(x) - 40)
        behind = np.maximum(np.maximum(np.abs(x) - 3.5, np.abs(y - 47) - 14), height - 9)
        canvas.paint(L.BONE, np.minimum(np.minimum(arch, across), behind), region)
        canvas.paint(L.SPINAL_CANAL, canal, region)

    def _ribs(self, cavity: np.ndarray, *, first: float, slope: float, phase: float, period: float = 28.0) -> None:
        canvas = self.canvas
        region = canvas.region((-1e4, -1e4, first - slope - 20), (1e4, 1e4, 1e4))
        if region is None:
            return
        x, y, z = canvas.at(region)
        turn = np.arctan2(np.abs(x), y) / np.float32(np.pi)  # 0 at the back, 1 in front
        along = z + slope * turn
        height = ((along + phase) % period - period / 2) / 6
        depth = (cavity[region] - 6) / 4.5
        level = (np.hypot(height, depth) - 1) * 5
        # The lower a rib, the shorter it is; the lowest starts at ``first``.
        beyond = (turn - np.clip(0.35 + (along - first) / 190, 0.35, 0.9)) * 300
        level = np.maximum(np.maximum(level, beyond), first - along)
        canvas.paint(L.BONE, level, region, over=(L.MUSCLE, L.SUBCUTANEOUS_FAT, L.VISCERAL_FAT))
        canvas.paint(L.BONE_MARROW, level + 2.5, region, over=(L.BONE,))

    def bowel(self) -> None:
        """Colon, duodenum and loops of small bowel, with content and gas."""
        rng = self.rng
        for _ in range(rng.integers(5, 8)):
            path = smooth_path(self._walk(14, centre=(0, -20, -85), radii=(84, 34, 88), step=34), 3)
            self._gut(L.SMALL_BOWEL, path, rng.uniform(10, 15), wall=3.2, gas=0.05)
        path = [(-20, -38, 30), (-44, -20, 18), (-46, -8, -22), (-20, -4, -36), (16, -8, -26)]
        self._gut(L.SMALL_BOWEL, smooth_path([self.near(p, 3) for p in path]), 11, wall=3, gas=0.0)
        path = [
            (-90, -8, -125), (-98, 8, -65), (-94, 0, -15), (-84, -32, 2), (-40, -48, -14), (10, -52, -24),
            (60, -48, -2), (92, -18, 36), (104, 22, 10), (106, 24, -60), (96, 14, -120), (56, 0, -152),
            (12, 18, -165), (0, 34, -195), (0, 36, -220),
        ]  # fmt: skip
        path = smooth_path([self.near(p, 5) for p in path], 7)
        haustra = rng.uniform(17, 22) + 2.5 * np.sin(np.arange(len(path)) * rng.uniform(1.0, 1.6))
        self._gut(L.COLON, path, haustra, wall=3, gas=0.35)

    def _gut(self, label: int, path: np.ndarray, radii: np.ndarray | float, *, wall: float, gas: float) -> None:
        found = self.tube((label, L.BOWEL_CONTENT), path, radii, walls=(0, wall), bend=1.2, over=SOFT)
        where = self.rng.random(len(path)) < gas
        if found is None:
            return
        level, region = found
        _, y, _ = self.canvas.at(region)
        for start in np.flatnonzero(where):
            bubble = self.canvas.tube(path[start : start + 3], np.broadcast_to(radii, len(path))[start : start + 3])
            if bubble is None:
                continue
            inner, part = bubble
            within = tuple(slice(p.start - r.start, p.stop - r.start) for p, r in zip(part, region, strict=True))
            # Gas collects in front, above a level of fluid.
            surface = np.float32(path[start, 1] + 3)
            gas_level = np.maximum(np.maximum(inner, level[within]) + wall + 0.5, y[within] - surface)
            self.canvas.paint(L.BOWEL_GAS, gas_level, part, over=(L.BOWEL_CONTENT,))

    def _walk(self, count: int, *, centre: Sequence[float], radii: Sequence[float], step: float) -> np.ndarray:
        """Walk at random with momentum inside an ellipsoid."""
        rng, radii = self.rng, np.asarray(radii)
        position = rng.uniform(-0.8, 0.8, 3)
        heading = rng.normal(0, 1, 3)
        points = []
        for _ in range(count):
            points.append(position * radii + centre)
            heading = 0.5 * heading + rng.normal(0, 1, 3)
            heading *= step / np.linalg.norm(heading * radii)
            position = position + heading
            outside = np.linalg.norm(position)
            if outside > 1:
                position = position / outside
                heading -= 1.5 * (heading @ position) * position
        return np.asarray(points)

    def organs(self, cavity: np.ndarray, above: np.ndarray) -> None:
        """Paint the solid organs, stomach, gallbladder and bladder."""
        rng = self.rng
        limit = np.maximum(cavity + 2, above + 3)
        self._stomach(limit)
        self._liver(limit)
        centre, radii = self.near((96, 28, 68)), self.vary((27, 46, 46), 0.15)
        hollow = self.canvas.ellipsoid(centre - (42, 12, 8), radii * (1.05, 0.9, 1.1), margin=500)
        minus = limit
        if hollow is not None:
            minus = limit.copy()
            minus[hollow[1]] = np.maximum(limit[hollow[1]], -hollow[0])
        self.blob(L.SPLEEN, centre, radii, self.tilt((0, 0, -15)), bend=2, minus=minus, exponent=2.2, over=SOFT)
        for label, side, height in ((L.RIGHT_KIDNEY, -1, -12), (L.LEFT_KIDNEY, 1, 4)):
            centre, radii = self.near((side * 68, 30, height)), self.vary((27, 25, 53))
            rotation = self.tilt((-12, side * -12, side * -20), 5)
            self.blob(label, centre, radii, rotation, bend=1.5, over=(*SOFT, L.LIVER, L.SPLEEN), minus=cavity + 2)
            inward = rotation @ (-side * radii[0] * np.array([0.75, 0.25, 0.0]))
            self.blob(L.RENAL_PELVIS, centre + 0.5 * inward, radii * (0.5, 0.36, 0.55), rotation, over=(label,), bend=2)
            self.blob(L.VISCERAL_FAT, centre + 1.25 * inward, radii * (0.55, 0.36, 0.4), rotation, over=(label,))
        points = ((-38, -8, 2), (-18, -18, 18), (10, -20, 30), (45, 0, 42), (80, 18, 56))
        path = smooth_path([self.near(p, 3) for p in points])
        radii = np.interp(np.linspace(0, 1, len(path)), (0, 0.3, 1), (15, 10, 8)) * rng.uniform(0.85, 1.15)
        self.tube(L.PANCREAS, path, radii, bend=2, over=SOFT)
        self.blob(L.GALLBLADDER, self.near((-50, -44, 20), 4), self.vary((15, 15, 27), 0.15), self.tilt((20, 20, 0)),
                  over=(*SOFT, L.LIVER), minus=cavity + 1)  # fmt: skip
        for label, points in (
            (L.RIGHT_ADRENAL, ((-30, 14, 58), (-36, 22, 48), (-40, 32, 42))),
            (L.LEFT_ADRENAL, ((28, 12, 56), (34, 18, 48), (40, 30, 42))),
        ):
            self.tube(
                label, smooth_path([self.near(p, 1.5) for p in points], 2), rng.uniform(3, 4.5), over=(*SOFT, L.LIVER)
            )
        path = smooth_path([(8, 2, 230), self.near((8, 0, 160), 2), (12, 0, 128), (24, 0, 112)])
        self.tube(L.OESOPHAGUS, path, rng.uniform(7.5, 10), over=(L.VISCERAL_FAT, L.LIVER, L.LUNG))
        centre, radii = self.near((0, -34, -172), 3), self.vary((44, 36, 32), 0.15)
        self.blob(L.BLADDER, centre, radii, bend=2, minus=cavity + 2, over=SOFT)

    def _stomach(self, limit: np.ndarray) -> None:
        points = ((26, 10, 112), (58, 0, 92), (64, -32, 64), (36, -48, 38), (2, -46, 30), (-20, -36, 32))
        path = smooth_path([self.near(p, 4) for p in points])
        radii = np.interp(np.linspace(0, 5, len(path)), range(6), (15, 33, 29, 23, 16, 11)) * self.rng.uniform(0.8, 1.1)
        found = self.tube(L.STOMACH, path, radii, bend=2.5, minus=limit, over=SOFT)
        surface = self.rng.uniform(-60, -25)
        if found is not None:
            level, region = found
            _, y, _ = self.canvas.at(region)
            self.canvas.paint(L.BOWEL_GAS, np.maximum(level + 4, y - np.float32(surface)), region, over=(L.STOMACH,))

    def _liver(self, limit: np.ndarray) -> None:
        rng, canvas = self.rng, self.canvas
        lobes = (
            (self.near((-72, -2, 64)), self.vary((84, 80, 70), 0.07), self.tilt((0, 0, 0)), 2.4),
            (self.near((4, -46, 80)), self.vary((72, 40, 32)), self.tilt((0, -12, 0)), 2.0),
            (self.near((-96, 16, 12), 7), self.vary((36, 44, 58), 0.15), self.tilt((0, 0, 0)), 2.0),
        )
        level = np.full(canvas.labels.shape, 1e3, dtype=np.float32)
        for centre, radii, rotation, exponent in lobes:
            found = canvas.ellipsoid(centre, radii, rotation, exponent=exponent, margin=30)
            if found is not None:
                # A smooth union; the small power leaves no crease between the lobes.
                old, region = level[found[1]], found[1]
                blend = np.clip(1 - np.abs(old - found[0]) / 16, 0, 1)
                level[region] = np.minimum(old, found[0]) - 4 * blend**2
        level = np.maximum(level + self.bent(3.5), limit)
        canvas.paint(L.LIVER, level, over=SOFT)
        hilum = np.array([-38.0, -8, 52])
        for root, ends in ((hilum, 9), (np.array([-22.0, 14, 108]), 7)):
            for _ in range(ends):
                end = np.array([rng.uniform(-140, 10), rng.uniform(-60, 60), rng.uniform(5, 110)])
                fork = self.near(0.45 * root + 0.55 * end, 8)
                path = smooth_path([root, self.near(0.5 * root + 0.5 * fork, 5), fork, end])
                self.tube(L.HEPATIC_VESSEL, path, np.linspace(5.5, 1.5, len(path)), over=(L.LIVER,))
                for _ in range(2):
                    twig = smooth_path([fork, self.near(fork + 0.5 * (end - root), 22)])
                    self.tube(L.HEPATIC_VESSEL, twig, np.linspace(3, 1.2, len(twig)), over=(L.LIVER,))

    def vessels(self) -> None:
        """Paint the great vessels with their branches, the vessels of the mesentery and lymph nodes."""
        rng = self.rng
        within = (*SOFT, L.PANCREAS, L.MUSCLE, L.LIVER)
        split = self.near((4, 12, -82), 3)
        centre = self.near((10, 12, 20), 2)
        path = smooth_path([(14, 16, 230), (13, 15, 120), centre, split], 8)
        self.tube(L.AORTA, path, rng.uniform(9, 12), over=(*within, L.LUNG))
        join = split + np.array([-20, 2, -6])
        path = smooth_path([(-20, -6, 150), (-22, 0, 95), self.near((-20, 9, 20), 2), join], 8)
        self.tube(L.INFERIOR_VENA_CAVA, path, rng.uniform(10, 13), bend=1, over=(*within, L.HEPATIC_VESSEL))
        for side in (-1, 1):
            for start, radius in ((split, 6.5), (join, 7.5)):
                points = [start, (side * 38, 20, -140), self.near((side * 62, -14, -210), 3)]
                self.tube(L.VESSEL, smooth_path(points), radius, over=within)
            for start, end in ((centre, (side * 50, 28, -4)), ((-20, 8, 12), (side * 50, 24, 4))):
                path = smooth_path([start, self.near((side * 32, 14, 4), 2), end])
                self.tube(L.VESSEL, path, 3.2, over=(*SOFT, L.MUSCLE))
        path = smooth_path([(-12, -16, 0), self.near((-16, -12, 28), 2), (-38, -10, 52), self.near((-60, -8, 60))])
        self.tube(L.PORTAL_AND_SPLENIC_VEIN, path, 7, over=(*within, L.HEPATIC_VESSEL))
        path = smooth_path([(-14, -12, 26), self.near((28, -4, 38), 2), (84, 22, 60)])
        self.tube(L.PORTAL_AND_SPLENIC_VEIN, path, 4.5, over=within)
        path = [centre + np.array([-2, -11, 4]), (4, -12, 6), self.near((0, -18, -40)), self.near((-10, -22, -90))]
        trunk = smooth_path(path)
        self.tube(L.VESSEL, trunk, np.linspace(4.5, 2.5, len(trunk)), over=(L.VISCERAL_FAT, *_BOWEL))
        for _ in range(30):
            root = trunk[rng.integers(3, len(trunk))]
            end = np.array([rng.uniform(-85, 85), rng.uniform(-55, 15), rng.uniform(-150, 10)])
            path = smooth_path([root, self.near((root + end) / 2, 10), end])
            self.tube(L.VESSEL, path, np.linspace(2.8, 1.6, len(path)), over=(L.VISCERAL_FAT,))
        for _ in range(24):
            centre = np.array([rng.uniform(-80, 80), rng.uniform(-50, 40), rng.uniform(-150, 60)])
            self.blob(L.LYMPH_NODE, centre, rng.uniform(3, 7, 3), over=(L.VISCERAL_FAT,))
