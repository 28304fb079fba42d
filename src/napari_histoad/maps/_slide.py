"""The identity of a mapped slide: its fingerprint, its path, and checks that a slide is the one that was mapped."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import shapely

from napari_histoad.errors import MapError
from napari_histoad.slide import is_remote, is_url, slide_path, take_fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from napari_histoad.maps._layout import MapInfo
    from napari_histoad.regions import Region
    from napari_histoad.slide import Slide


def with_slide(info: MapInfo, folder: Path, slide: Slide, origins: NDArray[np.int64]) -> MapInfo:
    """Return the provenance of a new map with the fingerprint and the path of its slide."""
    known_by = take_fingerprint(slide, np.asarray(origins) + info.tile_l0 / 2)
    return info.model_copy(update={"fingerprint": known_by, **place_of(slide, folder)})


def place_of(slide: Slide, folder: Path) -> dict[str, str]:
    """Return the fields of the provenance that hold the path of the slide."""
    file = relative = ""
    if slide.on_disk and is_remote(slide.path):
        url = urlsplit(str(slide.path))
        if not (url.query or url.fragment or "@" in url.netloc):  # these may hold secrets, and the URL is useless without them
            file = str(slide.path)
    elif slide.on_disk:
        file = str(Path(slide.path).resolve())
        if Path(file).drive == folder.resolve().drive:
            relative = Path(os.path.relpath(file, folder.resolve().parent)).as_posix()
    return {"slide_file": file, "slide_relative": relative}


def digest_of_regions(regions: Iterable[Region] | None) -> str:
    """Return a digest of the outlines of regions, whatever their order and names; empty for the whole slide."""
    if regions is None:
        return ""
    outlines = sorted(shapely.to_wkb(shapely.normalize(region.geometry)) for region in regions)
    return hashlib.blake2b(b"".join(outlines), digest_size=16).hexdigest()


def check_slide(info: MapInfo, slide: Slide, map_name: str) -> None:
    """Raise `MapError` if a slide is not the one that was mapped; of maps of earlier versions, only its size is known."""
    reason = ""
    if info.fingerprint is not None:
        if not info.fingerprint.is_of(slide):
            reason = info.fingerprint.differences(slide)[0]
    elif slide.shape != info.slide_shape:
        reason = "it has {} x {} px instead of {} x {} px".format(*slide.shape, *info.slide_shape)
    if reason:
        msg = f"{slide.path.name} is not the slide that the map {map_name} was made of ({reason})"
        raise MapError(msg, f"give that slide, {info.slide}")


def find_slide(info: MapInfo, path: Path) -> Path | None:
    """Return the path of the slide of the map at ``path``, see `AnomalyMap.find_slide`."""
    folder = path.resolve().parent
    if is_url(info.slide_file):
        return slide_path(info.slide_file)
    names = [Path(info.slide_file)] if info.slide_file else []
    if info.slide_relative:
        names.insert(0, folder / info.slide_relative)
    names += [place / info.slide for place in (folder, folder.parent, Path.cwd())]
    return next((Path(os.path.normpath(name)) for name in names if name.exists()), None)
