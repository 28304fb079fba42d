"""Whether an existing map is of this slide and these settings, so that a run may continue it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_histoad.errors import OtherMapError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_histoad.maps._anomaly_map import AnomalyMap
    from napari_histoad.maps._layout import MapInfo
    from napari_histoad.slide import Slide
    from napari_histoad.tiles import TissueMask

_FOUND_LATER = {"format", "complete", "failed_tiles", "notes", "version", "calibration_note", "calibration_basis", "valid_for"}
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
    "artefacts": "artefacts",
    "detector": "detector",
    "detector_settings": "detector",
    "detector_id": "detector",
    "trained_on": "detector",
    "stain": "measured stains",
    "classes": "classes",
}
_BY_REPAIR = {"tiles", "origins", "stain"}
"""Fields that may change when a damaged slide file is repaired; a detector that was learnt from the slide may as well."""
_REPLACE = "choose another folder with --out, or replace it with --no-resume (Python: resume=False)"


def goes_on_with(there: AnomalyMap, info: MapInfo, origins: NDArray[np.int64], tissue: TissueMask, slide: Slide | None) -> bool:
    """Return True if a map can be continued, False if it must be replaced because its slide file was repaired since.

    Fields that a map of an earlier version does not have are not compared. Raises `OtherMapError` if it is of another slide,
    other regions, another detector or other settings.
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
    ignored = _FOUND_LATER | _OF_THE_SLIDE | {name for name in ("regions", "artefacts") if getattr(old, name) is None}
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
