"""How commands speak: progress and words on stderr or for people, one JSON document on stdout on request."""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, ParamSpec, TypeVar

import typer

from napari_histoad.errors import BackboneError, BundleError, DeviceError, HistoadError, SettingsError, explained
from napari_histoad.jobs import Eta, Progress, run, speed_words
from napari_histoad.system.atomic import hold_output

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from napari_histoad.jobs import Job
    from napari_histoad.tiles import TileFile

__all__ = [
    "SLIDE",
    "WRONG_USE",
    "CompileOption",
    "DeviceOption",
    "JsonOption",
    "MppOption",
    "OverrideMppOption",
    "TissueOption",
    "command",
    "emit",
    "fail",
    "finish_tiles",
    "follow",
    "say",
    "table",
]

P = ParamSpec("P")
T = TypeVar("T")

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout; all else goes to stderr.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
CompileOption = Annotated[
    bool, typer.Option("--compile", help="Compile the network first: up to a minute's wait, then a little faster.")
]


def _typed_path(text: str) -> Path:
    from napari_histoad.slide import slide_path

    return slide_path(text)


SLIDE: Any = {"parser": _typed_path}
"""Of arguments and options that take slides: an URL stays as it was typed."""
MppOption = Annotated[
    str | None,
    typer.Option(
        "--slide-mpp",
        metavar="MPP|CSV",
        help="µm per level-0 pixel of slides that do not state it (those that do keep theirs); or a csv with the columns "
        "slide, mpp, whose lines count even where a slide states another value.",
    ),
]
OverrideMppOption = Annotated[
    float | None, typer.Option("--override-mpp", help="µm per level-0 pixel, whatever the slides state.", show_default=False)
]

TissueOption = Annotated[
    str,
    typer.Option(
        "--tissue",
        metavar="found|regions",
        help="Where the tissue is: found on the slide, or the outlines, for stains where it is not found.",
    ),
]

WRONG_USE = (SettingsError, BundleError, BackboneError, DeviceError)
_ONE_FILE = {"_results.score", "_results.report", "_classify.train", "_classify.predict"}
"""Commands whose --out is a file that no job holds."""
_BAR = 28


def say(text: str) -> None:
    """Print a line for people."""
    print(text, file=sys.stderr, flush=True)


def emit(document: dict[str, Any], rows: Sequence[tuple[str, object]] = (), *, as_json: bool) -> None:
    """Print the result: the document as JSON, or the rows for people."""
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
    """Print the result on tiles that are files, and those that failed; if some did, leave with 1."""
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
    """Print an error in one line and leave: 2 for wrong use, 1 for a failed run."""
    if as_json:
        print(json.dumps({"error": {"kind": type(err).__name__, "what": err.what, "remedy": err.remedy}}))
    say(f"error: {err}")
    raise typer.Exit(2 if isinstance(err, WRONG_USE) else 1)


def command(function: Callable[P, T]) -> Callable[P, T]:
    """Wrap a command: errors become one line and an exit code, never a traceback."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        as_json = bool(kwargs.get("as_json"))
        if os.environ.get("HISTOAD_DEBUG"):
            logger = logging.getLogger("napari_histoad")
            logger.setLevel(logging.DEBUG)
            if not logger.handlers:
                logger.addHandler(logging.StreamHandler())
        try:
            out = kwargs.get("out")
            name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
            with hold_output(out) if isinstance(out, Path) and name in _ONE_FILE else nullcontext():
                return function(*args, **kwargs)
        except HistoadError as err:
            fail(err, as_json=as_json)
        except KeyboardInterrupt:
            say("\ninterrupted: finished work is kept, run the same command again to go on")
            raise typer.Exit(130) from None
        except BrokenPipeError:
            # The reader of our output has left (``| head``); there is nobody to tell.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except (typer.Exit, typer.Abort):
            raise
        except Exception as err:  # noqa: BLE001 - the last line of defence: the user gets a sentence
            fail(explained(err), as_json=as_json)

    return wrapped


def follow(job: Job[T], *, quiet: bool = False) -> T:
    """Drive a job to its end with a progress bar, rate and time left on stderr."""
    bar = _Bar(quiet=quiet)
    try:
        return run(job, bar.show)
    finally:
        bar.close()


class _Bar:
    """One line per stage, rewritten in a terminal and printed once elsewhere."""

    def __init__(self, *, quiet: bool) -> None:
        self._live = sys.stderr.isatty() and not quiet
        self._quiet = quiet
        self._eta, self._stage, self._line, self._shown = Eta(), "", "", 0.0

    def show(self, progress: Progress) -> None:
        if self._quiet:
            return
        rate, left = self._eta.update(progress)
        if progress.note:
            self.close()
            say(progress.note)
        if progress.stage != self._stage:
            self.close()
            self._stage, self._shown = progress.stage, 0.0
        share = progress.fraction or 0.0
        filled = round(share * _BAR)
        self._line = (
            f"{progress.stage:<24} {'█' * filled}{'░' * (_BAR - filled)} {progress.done:,}/{progress.total:,} {progress.unit}"
        )
        self._line += "".join(f"  {words}" for words in speed_words(progress, rate, left))
        if "held-out loss" in progress.metrics:
            self._line += f"  held-out loss {progress.metrics['held-out loss']:.4f}"
        now = time.monotonic()
        if self._live and (now - self._shown > 0.1 or share == 1.0):
            self._shown = now
            print(f"\r{self._line}\x1b[K", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._line:
            print(f"\r{self._line}\x1b[K" if self._live else self._line, file=sys.stderr, flush=True)
        self._line = ""
