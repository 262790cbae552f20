"""pdd-evaluate: how good a model is on labelled scans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from itk_pdd.cli._console import COUNT, PATH, SETTINGS, Whole, file, flag, option, progress_bar, running

from itk_pdd._version import __version__


@click.command(context_settings=SETTINGS)
@click.argument("data", type=PATH)
@option("-m", "--model", "MODEL", "Name of a model, or its folder.", default="auto")
@file("-o", "--output", "CSV", "Write a row per pair (or scan) and label.")
@flag("--segmentation", "Measure the segmentation of the model's network instead of registrations.")
@option("--split", "NAME", "Use the scans of this split only; all by default.")
@option("--pairs", "N", "Register N pairs, drawn with --seed; all by default.", type=COUNT)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--threads", type=COUNT, help="CPU threads; all by default.")
@click.option("--seed", type=Whole(min=0), default=0, show_default=True, help="Seed of the pairs that --pairs draws.")
@click.option("-v", "--verbose", count=True, help="Tell what is done.")
@click.version_option(__version__, prog_name="pdd-evaluate")
def main(data: Path, output: Path | None, segmentation: bool, verbose: int, **options: Any) -> None:
    """Measure a model on the labelled scans of DATA (as pdd-train reads them).

    Registers all ordered pairs and prints the mean Dice of each label, the share of folded voxels in percent and the
    standard deviation of log(J + 3); with --segmentation the Dice of the organs that the model's network finds.
    """
    from itk_pdd.errors import RegistrationError

    with running(verbose), progress_bar() as progress:
        measure = _segmentation if segmentation else _registration
        rows = measure(data, options, progress or (lambda fraction, message: None))
        if not rows:
            raise RegistrationError(f"data: the scans of {data} show no label that can be measured")
        if output is not None:
            from itk_pdd.training.curve import write_table

            write_table(output, rows, "--output")
        _show(rows)


def _scans(data: Path, split: str | None) -> list[Any]:
    from itk_pdd.errors import RegistrationError
    from itk_pdd.training.cases import of_split, read_scans

    scans = read_scans(data)
    chosen = scans if split is None else of_split(scans, split)
    if not chosen:
        raise RegistrationError(f"split is {split!r}, which no scan of {data} has")
    return chosen


def _segmentation(data: Path, options: dict[str, Any], progress: Any) -> list[dict[str, Any]]:
    import torch

    from itk_pdd.errors import RegistrationError
    from itk_pdd.models import load
    from itk_pdd.network.semantic import SemanticNetwork
    from itk_pdd.solver.devices import on_device
    from itk_pdd.training.evaluation import segmentation_dice

    folder = getattr(load(options["model"]), "network", None)
    if not isinstance(folder, str):
        raise RegistrationError(f"model {options['model']} has no network that names organs, expected one that has")
    if options["threads"] is not None:
        torch.set_num_threads(options["threads"])
    scans = _scans(data, options["split"])

    def measured(operations: Any) -> list[dict[str, Any]]:
        network, rows = SemanticNetwork.from_folder(folder, device=str(operations.device)), []
        names = {c.value: c.name for c in network.card.classes}
        for number, scan in enumerate(scans):
            progress(number / len(scans), scan.name)
            for value, dice in segmentation_dice(network, [scan])[scan.name].items():
                rows.append({"scan": scan.name, "label": value, "name": names[value], "dice": dice})
        return rows

    return on_device(options["device"], measured)


def _registration(data: Path, options: dict[str, Any], progress: Any) -> list[dict[str, Any]]:
    from itk_pdd.errors import RegistrationError
    from itk_pdd.registration import prepare, solve
    from itk_pdd.training.evaluation import registration_scores

    scans, count = _scans(data, options["split"]), options["pairs"]
    if len(scans) < 2:
        raise RegistrationError(f"data: {data} has {len(scans)} scan of this split, expected two or more to register")
    total = min(count or len(scans) * (len(scans) - 1), len(scans) * (len(scans) - 1))
    solving = {name: options[name] for name in ("model", "device", "seed", "threads")}

    def register(fixed: Any, moving: Any) -> Any:
        return solve(prepare(fixed, moving, threads=options["threads"]), **solving).field

    rows = []
    found = registration_scores(scans, register, count=count, seed=options["seed"])
    progress(0.0, "registering")
    for number, pair in enumerate(found, start=1):
        progress(number / total, f"{pair['fixed']} <- {pair['moving']}")
        shared = {name: pair[name] for name in ("fixed", "moving", "folding", "sd_log_j3")}
        rows += [{**shared, "label": label, "dice": dice} for label, dice in pair["labels"].items()]
    return rows


def _show(rows: list[dict[str, Any]]) -> None:
    """Print the mean of each label, over the labels, and of the smoothness over the pairs."""
    from statistics import fmean

    labels = sorted({row["label"] for row in rows})
    means = {label: fmean([row["dice"] for row in rows if row["label"] == label]) for label in labels}
    for label in labels:
        name = next((str(row["name"]) for row in rows if row["label"] == label and "name" in row), "")
        click.echo(f"Dice {label:<4d} {name:24s} {means[label]:.4f}")
    click.echo(f"Dice mean {'':24s} {fmean(means.values()):.4f}")
    if "folding" in rows[0]:
        pairs = {(row["fixed"], row["moving"]): row for row in rows}.values()
        click.echo(f"folded voxels in % {'':15s} {fmean([row['folding'] for row in pairs]):.4f}")
        click.echo(f"SD of log(J + 3) {'':17s} {fmean([row['sd_log_j3'] for row in pairs]):.4f}")


if __name__ == "__main__":
    main()
