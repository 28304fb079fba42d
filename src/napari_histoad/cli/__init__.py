"""The terminal: ``histoad``, one file per command. Commands import what they need when they run, so that ``--help`` is quick."""

from napari_histoad.cli._app import main

__all__ = ["main"]
