"""Resolutions given by the user: one for all slides, or a table with one per slide."""

from __future__ import annotations

import math
import os
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, TypedDict

from napari_histoad.errors import SettingsError
from napari_histoad.slide._base import check_mpp
from napari_histoad.slide._name import slide_name
from napari_histoad.slide._remote import address, is_remote, is_url, locate, url_name
from napari_histoad.system.tables import is_missing, listed_path, number, read_table

if TYPE_CHECKING:
    from collections.abc import Mapping


class StatedMpp(TypedDict):
    """The resolution that the user gave for one slide in µm per level-0 pixel, as keyword arguments of `open_slide`."""

    mpp: float | None  # used even if the file states another value
    slide_mpp: float | None  # used only if the file states none


class GivenMpp:
    """Resolutions in µm per level-0 pixel as given by the user.

    Parameters
    ----------
    text : str or None
        A number, used only for slides that state no resolution; or the path of a csv file with the columns slide and mpp, used
        even if the slide states another value; or None.
    override : float, optional
        Used for all slides, even if they state another value.

    Raises
    ------
    SettingsError
        If ``text`` is neither, or a resolution is not plausible.
    """

    def __init__(self, text: str | None, override: float | None = None) -> None:
        self._override = None if override is None else check_mpp(override, "--override-mpp")
        self._gaps: float | None = None
        self._by_name: Mapping[str, float] = {}
        self._unmatched: dict[str, set[str]] = {}
        if text is None:
            return
        try:
            self._gaps = check_mpp(number(text), "--slide-mpp")
        except ValueError:
            if not Path(text).is_file():
                msg = f"--slide-mpp {text} is neither a number nor a table"
                raise SettingsError(msg, "give 0.25, or a csv with the columns slide, mpp") from None
            self._by_name, self._unmatched = _read(Path(text))

    def of(self, slide: Path) -> StatedMpp:
        """Return the resolution for one slide; lines of the table name it by path, file name or stem."""
        if self._override is not None:
            return {"mpp": self._override, "slide_mpp": None}
        slide = locate(slide) if is_url(slide) else slide
        keys = [address(slide), *([] if is_remote(slide) else [_key(slide)]), slide.name, slide_name(slide)]
        mpp = next((self._by_name[key] for key in keys if key in self._by_name), None)
        self._unmatched = {listed: names for listed, names in self._unmatched.items() if names.isdisjoint(keys)}
        return {"mpp": mpp, "slide_mpp": self._gaps}

    @property
    def unmatched(self) -> tuple[str, ...]:
        """Slides in the table that `of` was not asked about, as listed; URLs without secrets."""
        return tuple(str(locate(slide)) if is_url(slide) else slide for slide in self._unmatched)


def listed_mpp(text: str, where: str) -> float | None:
    """Return the resolution in a cell of a table; None if the cell is empty.

    Raises
    ------
    SettingsError
        If it is not a number, or not plausible.
    """
    if is_missing(text):
        return None
    try:
        return check_mpp(number(text), where)
    except ValueError as err:
        raise SettingsError(f"{where}: {text!r} is not a number", "write µm per pixel, for example 0.25") from err


def _read(path: Path) -> tuple[dict[str, float], dict[str, set[str]]]:
    """Return resolutions by slide as listed, by path, and by file name if it is unambiguous; and these keys of each slide."""
    table = read_table(path, ("slide", "mpp"), ("slide", "mpp"), others=True)
    found: dict[str, float] = {}
    lines: dict[str, int] = {}
    names: dict[str, set[float]] = {}
    for row in table.rows:
        where, slide = f"{path.name}, line {row.line}", row["slide"]
        if not slide:
            raise SettingsError(f"{where}: no slide is named", "fill in the column slide")
        mpp = listed_mpp(row["mpp"], where)
        if mpp is None:
            continue
        if not math.isclose(found.setdefault(slide, mpp), mpp):
            msg = f"{where}: {slide} has {mpp:g}, but {found[slide]:g} in line {lines[slide]}"
            raise SettingsError(msg, "keep one of the lines")
        lines.setdefault(slide, row.line)
        names.setdefault(_listed_name(slide), set()).add(mpp)
    if not table.rows:
        raise SettingsError(f"{path.name} lists no slide", "write lines such as a.svs,0.25 under slide,mpp")
    places = {s: address(locate(s)) if is_url(s) else _key(listed_path(s, path.parent)) for s in found}
    alone = {name: next(iter(values)) for name, values in names.items() if len(values) == 1}
    keys = {slide: {slide, place, _listed_name(slide)} & {slide, place, *alone} for slide, place in places.items()}
    return alone | {place: found[slide] for slide, place in places.items()} | found, keys


def _listed_name(slide: str) -> str:
    return url_name(slide) if is_url(slide) else PureWindowsPath(slide).name


def _key(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - links are not followed: the same file may be listed under two names
