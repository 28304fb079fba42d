"""Resolutions given by the user: one for all slides, or a table."""

from __future__ import annotations

import csv
from pathlib import Path

from napari_histoad.errors import SettingsError
from napari_histoad.slide._base import check_mpp

__all__ = ["GivenMpp"]


class GivenMpp:
    """µm per level-0 pixel as the user gave it.

    Parameters
    ----------
    text : str or None
        A number, or the path of a csv with the columns slide and mpp, or nothing.

    Raises
    ------
    SettingsError
        If it is neither, or a resolution is not plausible.
    """

    def __init__(self, text: str | None) -> None:
        self._all: float | None = None
        self._by_name: dict[str, float] = {}
        if text is None:
            return
        try:
            self._all = check_mpp(float(text), "--slide-mpp")
        except ValueError:
            self._by_name = _read(Path(text))

    def of(self, slide: Path) -> float | None:
        """Return the resolution of one slide, or None if the user gave none for it."""
        by_name = (self._by_name.get(key) for key in (str(slide), slide.name, slide.stem))
        return self._all if self._all is not None else next((mpp for mpp in by_name if mpp is not None), None)


def _read(path: Path) -> dict[str, float]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            rows = list(csv.DictReader(handle))
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        msg = f"--slide-mpp {path} is neither a number nor a table that can be read ({err})"
        raise SettingsError(msg, "give 0.25, or a csv with the columns slide, mpp") from err
    if not rows or not {"slide", "mpp"} <= set(rows[0]):
        raise SettingsError(f"{path.name} lacks the columns slide and mpp", "write a first line: slide,mpp")
    found = {}
    for line, row in enumerate(rows, start=2):
        try:
            found[row["slide"]] = check_mpp(float(row["mpp"]), f"{path.name}, line {line}")
        except (TypeError, ValueError) as err:
            raise SettingsError(f"{path.name}, line {line}: {row['mpp']!r} is not a number", "write µm per pixel, 0.25") from err
    return found
