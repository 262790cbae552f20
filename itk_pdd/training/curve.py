"""The course of a training as a table and as a picture."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from itk_pdd.io.outputs import Output, write_all

__all__ = ["write_curve", "write_log", "write_table"]

log = logging.getLogger("itk_pdd")


def write_log(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write a row per validation: iteration, rate, loss, Dice (mean and per class), seconds since the one before."""
    write_table(path, [{name: f"{value:.6g}" for name, value in row.items()} for row in rows], "log")


def write_table(path: Path, rows: Sequence[Mapping[str, object]], name: str) -> None:
    """Write rows of the same columns as a CSV file, whole or not at all; ``name`` is for errors."""

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    write_all([(Output(path, name, (".csv",)), write)])


def write_curve(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Draw loss and, where it was measured, Dice over the iterations; without matplotlib nothing is drawn."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        log.info("matplotlib is not installed: %s is left out", path.name)
        return
    classes = [name for name in rows[0] if name.startswith("dice")]
    figure = Figure(figsize=(8 if classes else 4.5, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    loss, *others = figure.subplots(1, 2 if classes else 1, squeeze=False)[0]
    iterations = [row["iteration"] for row in rows]
    for name, style in (("loss", "-"), ("validation loss", "--")):
        if name in rows[0]:
            loss.plot(iterations, [row[name] for row in rows], style, color="black", label=name)
    loss.set(xlabel="iteration", ylabel="loss")
    if len(loss.lines) > 1:
        loss.legend()
    for dice in others:
        for name in classes:
            mean = name == "dice"
            dice.plot(
                iterations, [row[name] for row in rows], label="mean" if mean else name[5:],
                color="black" if mean else None, linewidth=2 if mean else 0.8,
            )  # fmt: skip
        dice.set(xlabel="iteration", ylabel="Dice (validation)", ylim=(0, 1))
        dice.legend(fontsize=6, ncols=2)
    write_all([(Output(path, "curve", (".png",)), lambda temporary: figure.savefig(temporary, dpi=120))])
