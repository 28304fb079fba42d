"""``histoad doctor``."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path

import typer

from napari_histoad.cli._console import command, emit, table
from napari_histoad.cli._options import JsonOption


@command("histoad doctor")
def doctor(as_json: JsonOption = False) -> None:
    """Check that everything needed is installed and working, and say how to fix what is not."""
    checks: list[tuple[str, bool, str]] = []
    names = {
        "torch": "torch",
        "napari": "napari",
        "tifffile": "tifffile",
        "imagecodecs": "imagecodecs",
        "openslide": "openslide-python",
        "zarr": "zarr",
        "qtpy": "qtpy",
    }
    for module, package in names.items():
        try:
            importlib.import_module(module)
            checks.append((package, True, importlib.metadata.version(package)))
        except Exception as err:  # noqa: BLE001 - a check reports whatever goes wrong
            checks.append((package, False, f"{type(err).__name__}: {err}; pip install {package}"))
    try:
        from napari_histoad.engine import choose_device

        checks.append(("device", True, choose_device("auto").title))
    except Exception as err:  # noqa: BLE001
        checks.append(("device", False, str(err)))
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    checks.append(("disk", free > 2, f"{free:.0f} GB free here"))
    if sys.platform.startswith("linux"):
        display = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
        checks.append(("display", True, "there" if display else "none: napari needs one (xvfb-run), the terminal does not"))
    document = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "checks": [{"name": n, "ok": ok, "says": text} for n, ok, text in checks],
    }
    if as_json:
        emit(document, as_json=True)
    else:
        table([("python", f"{platform.python_version()} on {platform.platform()}, {os.cpu_count()} cores")])
        table([(f"{'ok  ' if ok else 'FAIL'} {n}", text) for n, ok, text in checks])
    if not all(ok for _, ok, _ in checks):
        raise typer.Exit(1)
