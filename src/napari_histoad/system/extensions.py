"""Objects that other installed packages add to this one through entry points."""

from __future__ import annotations

import logging
import sys
from functools import cache
from importlib.metadata import entry_points
from typing import Any


def load_extensions(group: str) -> dict[str, Any]:
    """Return the objects that other packages register in an entry-point group, by name.

    One that cannot be imported is left out; a warning in the log names its package and the reason.

    Parameters
    ----------
    group : str
        ``napari_histoad.detectors``, ``napari_histoad.slide_formats``, ``napari_histoad.exports`` or
        ``napari_histoad.panel_sections``.

    Examples
    --------
    In the ``pyproject.toml`` of a package that adds a slide format:

    .. code-block:: toml

        [project.entry-points."napari_histoad.slide_formats"]
        my-format = "my_package:MyFormat"
    """
    return dict(_load(group, tuple(sys.path)))


@cache  # reading the metadata of all installed packages takes some 10 ms
def _load(group: str, _folders: tuple[str, ...]) -> dict[str, Any]:
    found = {}
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        try:
            found[point.name] = point.load()
        except Exception as err:  # noqa: BLE001 - a faulty package must not stop this one
            package = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
            reason = f"{type(err).__name__}: {err}"
            logging.getLogger("napari_histoad").warning(
                "%s of the package %s (%s) cannot be loaded and is left out: %s; update or uninstall that package",
                *(point.name, package, group, reason),
            )
    return found
