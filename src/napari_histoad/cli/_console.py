"""What all commands print: results on stdout, for people or as one JSON document; everything else on stderr."""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

import typer
from typer.core import TyperCommand

from napari_histoad.errors import BundleError, DeviceError, EncoderError, HistoadError, SettingsError, explained
from napari_histoad.system.atomic import lock_output

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from napari_histoad.tiles import TileFile

P = ParamSpec("P")
T = TypeVar("T")

WRONG_USE = (SettingsError, BundleError, EncoderError, DeviceError)
"""Errors in what was asked for, exit code 2; all others are exit code 1."""
_SLIDES = ("tissue", "mpp", "slide_mpp", "override_mpp", "normal_class", "tile_px", "stride", "srgb", "stain", "max_tiles")
_COMPUTING = ("seed", "device", "devices", "compiled", "scheduler")
PANELS = dict.fromkeys(_SLIDES, "Slides and tiles") | dict.fromkeys(_COMPUTING, "Computing")
"""Headings of options in the help; options without one come first."""


def say(text: str) -> None:
    """Print a line on stderr."""
    print(text, file=sys.stderr, flush=True)


def emit(document: dict[str, Any], rows: Sequence[tuple[str, object]] = (), *, as_json: bool) -> None:
    """Print the result on stdout: the document as JSON, or the rows for people."""
    if as_json:
        print(json.dumps(document, indent=2, default=str))
    else:
        table(rows)


def finish_tiles(
    document: dict[str, Any],
    rows: Sequence[tuple[str, object]],
    files: Sequence[TileFile],
    errors: Mapping[int, HistoadError],
    as_json: bool,
) -> None:
    """Print the result for tile images and the errors of those that failed; exit with code 1 if any did."""
    for err in errors.values():
        say(f"error: {err}")
    failed = [{"file": files[k].name, "what": err.what, "remedy": err.remedy} for k, err in errors.items()]
    emit({**document, "failed": failed}, [*rows, *([("Failed", f"{len(failed):,} tiles")] if failed else [])], as_json=as_json)
    if failed:
        raise typer.Exit(1)


def table(rows: Sequence[tuple[str, object]]) -> None:
    """Print rows in two columns."""
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        print(f"{name:<{width}}  {value}", flush=True)


def fail(err: HistoadError, *, as_json: bool) -> NoReturn:
    """Print an error on one line and exit: with code 2 for wrong use, 1 for a failed run."""
    if as_json:
        print(json.dumps({"error": {"kind": type(err).__name__, "what": err.what, "remedy": err.remedy}}))
    say(f"error: {err}")
    raise typer.Exit(2 if isinstance(err, WRONG_USE) else 1)


def command(*examples: str, locks_out: bool = False) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Make a function a command whose errors become one line and an exit code, never a traceback.

    The examples are shown at the end of its help. With ``locks_out``, the file of ``--out`` is locked for the whole run; jobs
    that write into a folder lock it themselves.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
            as_json, out = bool(kwargs.get("as_json")), kwargs.get("out")
            if os.environ.get("HISTOAD_DEBUG"):
                logger = logging.getLogger("napari_histoad")
                logger.setLevel(logging.DEBUG)
                if not logger.handlers:
                    logger.addHandler(logging.StreamHandler())
            try:
                with lock_output(out) if locks_out and isinstance(out, Path) else nullcontext():
                    return function(*args, **kwargs)
            except HistoadError as err:
                fail(err, as_json=as_json)
            except KeyboardInterrupt:
                say("\ninterrupted: finished work is kept; run the same command again to resume")
                raise typer.Exit(130) from None
            except BrokenPipeError:
                # The program that reads our output has exited (``| head``); nobody reads an error message.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise typer.Exit(0) from None
            except (typer.Exit, typer.Abort):
                raise
            except Exception as err:  # noqa: BLE001 - the user gets a sentence, whatever goes wrong
                fail(explained(err), as_json=as_json)

        wrapped.__dict__["examples"] = examples
        return wrapped

    return decorate


class CommandWithExamples(TyperCommand):
    """A command whose help ends with the examples of its function, one per line: an epilog would be wrapped."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help with options in groups, then the examples."""
        for param in self.params:
            if param.name in PANELS:
                param.rich_help_panel = PANELS[param.name]  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)
        examples = self.callback.__dict__["examples"]
        formatter.write(
            "\n".join([" Example:" if len(examples) == 1 else " Examples:", *(f"   {line}" for line in examples), ""])
        )
