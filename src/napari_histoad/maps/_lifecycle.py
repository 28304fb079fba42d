"""Steps of a run on its map: create or continue it, mark blocks to be scored again, finish it."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_histoad.errors import MapError, OtherMapError, OutputError, writing
from napari_histoad.maps._anomaly_map import AnomalyMap
from napari_histoad.maps._chunks import PARTIAL
from napari_histoad.maps._journal import Journal
from napari_histoad.maps._layout import ATTRIBUTE, FORMAT, MapInfo, write_skeleton
from napari_histoad.maps._pyramids import pyramids_job, save_labels
from napari_histoad.maps._resume import goes_on_with
from napari_histoad.maps._slide import place_of, with_slide
from napari_histoad.system.atomic import atomic_path

if TYPE_CHECKING:
    from collections.abc import Iterable
    from os import PathLike

    from numpy.typing import NDArray

    from napari_histoad.calibration import Calibration
    from napari_histoad.jobs import Job
    from napari_histoad.slide import Slide
    from napari_histoad.tiles import ArtefactMask, TissueMask


def create_map(
    path: str | PathLike[str],
    info: MapInfo,
    *,
    origins: NDArray[np.int64],
    tissue: TissueMask,
    calibration: Calibration,
    resume: bool = True,
    slide: Slide | None = None,
    artefacts: ArtefactMask | None = None,
) -> AnomalyMap:
    """Create a map without scores, or open one of the same slide and settings to continue it, finished or not.

    ``origins`` (N, 2) are those of all tiles in the order of work. Without ``resume``, an existing map is deleted. The path and
    fingerprint of ``slide`` are recorded. An unfinished map of format 2 is continued in the current format. Raises
    `OtherMapError` if the folder holds a map of another slide or made with other settings, or something else.
    """
    folder = Path(path)
    with writing(folder):
        exists = folder.exists()
    if exists and (resume or not (folder / "zarr.json").exists()):
        existing = _resumable(folder, info, origins, tissue, slide)
        if existing is not None:
            return existing
    if slide is not None:
        info = with_slide(info, folder, slide, origins)
    with atomic_path(folder) as skeleton:
        write_skeleton(skeleton, info, origins, tissue, calibration, artefacts)
    created = AnomalyMap.open(folder)
    created.origins, created.tissue = np.asarray(origins, np.int64), tissue  # as they would be read
    return created


def _resumable(
    folder: Path, info: MapInfo, origins: NDArray[np.int64], tissue: TissueMask, slide: Slide | None
) -> AnomalyMap | None:
    if folder.is_dir() and not any(folder.iterdir()):
        return None
    try:
        existing = AnomalyMap.open(folder)
    except MapError as err:
        raise OtherMapError(f"{err.what}: nothing is written into it", "move it away, or choose another folder") from err
    if not goes_on_with(existing, info, origins, tissue, slide):
        return None
    moved = existing.info if slide is None else existing.info.model_copy(update=place_of(slide, folder))
    if moved != existing.info and moved.fingerprint is not None:  # the slide of an older map may be another one
        with suppress(OutputError):  # a finished map may be read-only
            _record(existing, moved)
    return existing


def reopen_blocks(target: AnomalyMap, blocks: Iterable[int], info: MapInfo, slide: Slide) -> None:
    """Mark blocks as not scored, because tiles of them that could not be read can be read now.

    ``info`` is the provenance that a new map of the slide, as it is now, would have.
    """
    with writing(target.path):
        Journal(target.path).replace(target.finished_blocks() - set(blocks))
        kept = {name: getattr(target.info, name) for name in ("slide", "version")}
        _record(target, with_slide(info, target.path, slide, target.origins).model_copy(update={**kept, "complete": False}))


def finish_job(target: AnomalyMap) -> Job[None]:
    """Write the pyramids and labels of a map whose tiles are all scored, and mark it as complete.

    If it is killed, the next run writes them again and ends in the same bytes. For a map that is complete already, only the
    temporary files of a killed run are removed. Raises `MapError` if blocks are missing.
    """
    with writing(target.path):
        if not target.info.complete:
            missing = target.block_count - len(target.finished_blocks())
            if missing:
                raise MapError(f"{target.path.name}: {missing} blocks are missing", "run the same command again")
            yield from pyramids_job(target)
            save_labels(target, target.saved_rate)
            failed = int(np.isnan(target.scores).sum())
            found = {"failed_tiles": failed, "notes": [*target.info.notes, *target.findings(failed)]}
            _record(target, target.info.model_copy(update={"format": FORMAT, "complete": True, **found}))
        journal = Journal(target.path).path
        if journal.exists():
            for left in target.path.rglob(f"*{PARTIAL}"):
                left.unlink(missing_ok=True)
            journal.unlink()  # last: while it exists, there may be something to remove


def _record(target: AnomalyMap, info: MapInfo) -> None:
    described = target.path / "zarr.json"
    content = json.loads(described.read_bytes())
    content["attributes"][ATTRIBUTE] = info.model_dump(mode="json")
    with atomic_path(described) as file:  # zarr would not flush it to disk
        file.write_bytes(json.dumps(content, indent=2).encode())
    target.take_info(info)
