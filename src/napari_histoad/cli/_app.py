"""The list of commands, grouped by task as ``histoad --help`` shows them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import typer

from napari_histoad.cli import classify
from napari_histoad.cli._console import CommandWithExamples
from napari_histoad.cli.bench import bench
from napari_histoad.cli.convert import convert
from napari_histoad.cli.demo import demo
from napari_histoad.cli.doctor import doctor
from napari_histoad.cli.evaluate import evaluate
from napari_histoad.cli.export import ExportCommand, export
from napari_histoad.cli.info import info
from napari_histoad.cli.map import map_slides
from napari_histoad.cli.models import models
from napari_histoad.cli.report import report
from napari_histoad.cli.score import score
from napari_histoad.cli.train import recalibrate, train

COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    "First steps": (demo, info, convert),
    "Train": (train, recalibrate, models),
    "Map": (map_slides, score),
    "Review and export": (report, export, evaluate),
    "This machine": (doctor, bench),
}

app = typer.Typer(
    name="histoad",
    help="Map where the tissue on a slide looks unlike normal tissue.",
    epilog="Options and examples of a command: histoad COMMAND --help",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for panel, functions in COMMANDS.items():
    for function in functions:
        app.command(
            function.__name__.removesuffix("_slides"),
            cls=ExportCommand if function is export else CommandWithExamples,
            rich_help_panel=panel,
        )(function)
app.add_typer(classify.app, name="classify", rich_help_panel="Train")


def main() -> None:
    """Run ``histoad``."""
    # Read when torch is loaded: its threads sleep while they wait, instead of spinning on cores that decoding needs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Messages of these libraries are not for users; we report what matters as errors of ours.
    for name in ("tifffile", "lightning_fabric.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    app()
