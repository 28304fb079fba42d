"""What a map is of: the slide, where that lies, and the settings, so that it is never taken for another one."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import shapely

from napari_histoad.errors import MapError, OtherMapError
from napari_histoad.slide import is_remote, is_url, slide_path, take_fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from napari_histoad.maps._layout import MapInfo
    from napari_histoad.maps._store import AnomalyMap
    from napari_histoad.regions import Region
    from napari_histoad.slide import Slide
    from napari_histoad.tiles import TissueMask

__all__ = ["check_slide", "digest_of_regions", "find_slide", "goes_on_with", "place_of", "with_slide"]

_FOUND_LATER = {"complete", "failed_tiles", "notes", "version", "calibration_note", "calibration_basis"}
_OF_THE_SLIDE = {"slide", "slide_shape", "fingerprint", "slide_file", "slide_relative"}
_WORDS = {
    "slide_mpp": "µm per pixel of the slide",
    "tile_px": "tile size",
    "stride_px": "stride",
    "mpp": "µm per tile pixel",
    "cell_l0": "cell size",
    "cells_per_tile": "cell size",
    "cells_per_step": "cell size",
    "tile_l0": "tile size",
    "step_l0": "stride",
    "tiles": "tiles",
    "origins": "tiles",
    "tissue": "tissue",
    "regions": "regions",
    "tissue_from": "tissue",
    "detector": "detector",
    "detector_settings": "detector",
    "detector_id": "detector",
    "trained_on": "detector",
    "stain": "measured stains",
    "classes": "classes",
}
_BY_REPAIR = {"tiles", "origins", "stain"}
"""What may change when tiles of a slide can be read that could not be before; so may a detector that is learnt from it."""
_REPLACE = "choose another folder with --out, or replace it with --no-resume (Python: resume=False)"


def with_slide(info: MapInfo, folder: Path, slide: Slide, origins: NDArray[np.int64]) -> MapInfo:
    """Return what a new map records, with where its slide lies and what it is known by."""
    known_by = take_fingerprint(slide, np.asarray(origins) + info.tile_l0 / 2)
    return info.model_copy(update={"fingerprint": known_by, **place_of(slide, folder)})


def place_of(slide: Slide, folder: Path) -> dict[str, str]:
    """Return the fields of a map that say where its slide lies."""
    file = relative = ""
    if slide.on_disk and is_remote(slide.path):
        url = urlsplit(str(slide.path))
        if not (url.query or url.fragment or "@" in url.netloc):  # those may be secrets, and without them it cannot be opened
            file = str(slide.path)
    elif slide.on_disk:
        file = str(Path(slide.path).resolve())
        if Path(file).drive == folder.resolve().drive:
            relative = Path(os.path.relpath(file, folder.resolve().parent)).as_posix()
    return {"slide_file": file, "slide_relative": relative}


def digest_of_regions(regions: Iterable[Region] | None) -> str:
    """Return what tells regions from others by their outlines alone, in any order; empty for the whole slide."""
    if regions is None:
        return ""
    outlines = sorted(shapely.to_wkb(shapely.normalize(region.geometry)) for region in regions)
    return hashlib.blake2b(b"".join(outlines), digest_size=16).hexdigest()


def goes_on_with(there: AnomalyMap, info: MapInfo, origins: NDArray[np.int64], tissue: TissueMask, slide: Slide | None) -> bool:
    """Return whether a map is of this slide and these settings; False if it has to be made anew as the slide was repaired.

    What a map of an earlier version does not record is not compared.

    Raises
    ------
    OtherMapError
        If it is of another slide, other regions, another detector or other settings.
    """
    old = there.info
    unread = len(there.unread_tiles) > 0
    what, written_anew = [], False
    if old.fingerprint is not None and slide is not None:
        what = list(old.fingerprint.differences(slide))
        if what and unread and old.fingerprint.is_of(slide):  # the damaged file was converted from its source again
            what, written_anew = [], True
    elif (old.slide, old.slide_shape) != (info.slide, info.slide_shape):
        what = [f"that is {old.slide}, {old.slide_shape[0]} x {old.slide_shape[1]} px"]
    if what:
        raise OtherMapError(f"{there.path} is a map of another slide than {info.slide} ({what[0]})", _REPLACE)
    ignored = _FOUND_LATER | _OF_THE_SLIDE | ({"regions"} if old.regions is None else set())
    before, now = old.model_dump(exclude=ignored), info.model_dump(exclude=ignored)
    different = {name for name in now if before[name] != now[name]}
    if "tiles" not in different and not np.array_equal(there.origins, origins):
        different.add("origins")
    if old.fingerprint is None and not np.array_equal(there.tissue.mask, tissue.mask):
        different.add("tissue")
    if not different:
        return not written_anew
    by_repair = _BY_REPAIR | ({"detector_id"} if "self" in getattr(info.calibration_basis, "doubts", ()) else set())
    if unread and old.fingerprint is not None and different <= by_repair:
        return False
    words = list(dict.fromkeys(_WORDS.get(name, name) for name in _WORDS | dict.fromkeys(different) if name in different))
    verb = "differs" if len(words) == 1 and not words[0].endswith("s") else "differ"
    raise OtherMapError(f"{there.path} holds a map made with other settings: its {', '.join(words)} {verb}", _REPLACE)


def check_slide(source: AnomalyMap, slide: Slide) -> None:
    """Check that a slide is the one that was mapped; maps of earlier versions know its size only.

    Raises
    ------
    MapError
        If it is another one.
    """
    info, reason = source.info, ""
    if info.fingerprint is not None:
        if not info.fingerprint.is_of(slide):
            reason = info.fingerprint.differences(slide)[0]
    elif slide.shape != info.slide_shape:
        reason = "it has {} x {} px instead of {} x {} px".format(*slide.shape, *info.slide_shape)
    if reason:
        msg = f"{slide.path.name} is not the slide that the map {source.path.name} was made of ({reason})"
        raise MapError(msg, f"give that slide, {info.slide}")


def find_slide(source: AnomalyMap) -> Path | None:
    """Return where the slide of a map lies, see `AnomalyMap.find_slide`."""
    info, folder = source.info, source.path.resolve().parent
    if is_url(info.slide_file):
        return slide_path(info.slide_file)
    names = [Path(info.slide_file)] if info.slide_file else []
    if info.slide_relative:
        names.insert(0, folder / info.slide_relative)
    names += [place / info.slide for place in (folder, folder.parent, Path.cwd())]
    return next((Path(os.path.normpath(name)) for name in names if name.exists()), None)
