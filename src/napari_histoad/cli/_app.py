"""The list of commands."""

from __future__ import annotations

import logging
import os

import typer

from napari_histoad.cli import _classify, _demo, _inspect, _map, _results, _train, export

__all__ = ["app", "main"]

app = typer.Typer(
    name="histoad",
    help="Where on this slide does the tissue look unlike normal?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for function in (
    _demo.demo,
    _inspect.info,
    _inspect.convert,
    _train.train,
    _train.recalibrate,
    _map.map_slides,
    _results.score,
    _results.evaluate,
    _results.report,
    _inspect.models,
    _inspect.bench,
    _inspect.doctor,
):
    app.command(function.__name__.removesuffix("_slides"))(function)
app.command(cls=export.ExportCommand)(export.export)
app.add_typer(_classify.app, name="classify")


def main() -> None:
    """Run ``histoad``."""
    # Read when torch is loaded: its threads sleep while they wait, instead of spinning on cores that decoding needs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # What libraries log of their own is not for users; what matters comes as an error of ours.
    for name in ("tifffile", "lightning_fabric.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    app()
