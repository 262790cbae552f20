"""pdd-train: learn from labelled scans, or from random shapes."""

from __future__ import annotations

import shlex
import sys
from typing import Any

import click
from itk_pdd.cli._console import PATH, RESUMABLE, SETTINGS, exit_codes, options, progress_bar, running
from itk_pdd.cli._train_options import (
    METHOD,
    ORGANS,
    PDD,
    SCANS,
    SEGMENTATION,
    check_method,
    check_pairs,
    common,
    of_scans,
)

from itk_pdd._version import __version__


class _Trainings(click.Group):
    """A group that also takes the command line of earlier versions, which has --method instead of a command's name."""

    allow_extra_args = False
    allow_interspersed_args = True

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if args and args[0] in self.commands:
            return self.commands[args[0]].make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)

    def invoke(self, context: click.Context) -> Any:
        return click.Command.invoke(context.command, context)

    def format_usage(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(context.command_path, "COMMAND [OPTIONS] [DATA]")

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        # The options of earlier versions are those of the commands.
        shown = [each for each in self.get_params(context) if {"--help", "--version"} & set(each.opts)]
        with formatter.section("Options"):
            formatter.write_dl([record for each in shown if (record := each.get_help_record(context))])
        self.format_commands(context, formatter)


@click.group(cls=_Trainings, invoke_without_command=True, context_settings=SETTINGS)
@click.argument("data", type=PATH, required=False)
@options(METHOD, *common(), *SCANS, *SEGMENTATION, *PDD)
@click.version_option(__version__, prog_name="pdd-train")
@click.pass_context
def main(context: click.Context, **given: Any) -> None:
    """Train a network and write it as a model for pdd-register --model FOLDER.

    \b
    Examples:
      pdd-train segmentation data.csv -o mymodel
      pdd-train pdd data.csv -o mymodel --warp 0.4 15 32 --warp 0.15 11 39
      pdd-train pdd --synthetic -o general
      pdd-train organs mymodel -o mypdd
      pdd-train descriptor -o general

    DATA is a CSV file with the columns image and labels and, if you like, split (train, validation, test) and name,
    paths relative to it; a folder with images and labels; or the JSON file of a Learn2Reg task. Scans may have any
    spacing and direction.

    The model's folder gets card.json and weights.safetensors, and in training/ the log, the curve and a checkpoint: the
    same command goes on where it was interrupted. The same command with the same number of threads gives the same
    curve. Several GPUs: torchrun --nproc-per-node 4 -m itk_pdd.cli.train ...

    'pdd-train DATA --method NAME', as earlier versions had it, is the same as 'pdd-train NAME DATA'; without --method
    it is 'segmentation'.
    """
    assert isinstance(context.command, click.Group)
    method = check_method(context, context.command.commands)
    known = {parameter.name for parameter in context.command.commands[method].params}
    _train(method, **{name: value for name, value in given.items() if name in known})


@main.command(context_settings=SETTINGS)
@click.argument("data", type=PATH)
@options(*common(), *SCANS, *SEGMENTATION)
def segmentation(**given: Any) -> None:
    """Train a network that names organs, which guide the registration, on the labelled scans of DATA."""
    _train("segmentation", **given)


@main.command(context_settings=SETTINGS)
@click.argument("data", type=PATH, required=False)
@options(
    *common(iterations=1000, batch="1 pair", rate="0.005 (for MIND-SSC features take 0.05)", validate_every=50),
    *of_scans(spacing="of the images that the network sees", voxels="eight million", elastic=0.04),
    *PDD,
)
@click.pass_context
def pdd(context: click.Context, **given: Any) -> None:
    """Train the paper's network end to end, on the scans of DATA or on synthetic pairs."""
    check_pairs(context)
    _train("pdd", **given)


@main.command(context_settings=SETTINGS)
@options(*ORGANS)
def organs(**given: Any) -> None:
    """Make a PDD network that compares the organs which a trained network (folder SEGMENTATION) names. Nothing is
    trained."""
    with exit_codes():
        from itk_pdd.commands.train import from_organs

        from_organs(command=shlex.join(["pdd-train", *sys.argv[1:]]), **given)


@main.command(context_settings=SETTINGS)
@options(*common(iterations=1500, batch="1 pair", rate="0.0015"))
def descriptor(**given: Any) -> None:
    """Train descriptors of voxels for any modality, from random shapes and no DATA."""
    _train("descriptor", **given)


def _train(method: str, *, verbose: int, **given: Any) -> None:
    with running(verbose, RESUMABLE), progress_bar() as progress:
        from itk_pdd.commands.train import train

        command = shlex.join(["pdd-train", *sys.argv[1:]])
        for name, value in train(method, command=command, progress=progress, **given).items():
            click.echo(f"{name:24s} {value:.3f}")


if __name__ == "__main__":
    main()
