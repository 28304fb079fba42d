"""Scores of tiles that are image files."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from napari_histoad.engine._batch import score_stream
from napari_histoad.engine._detector_view import DetectorView, stain_of_files
from napari_histoad.engine._device import choose_device
from napari_histoad.engine.training import accepts_side, fits_by_resizing
from napari_histoad.jobs import Progress
from napari_histoad.tiles import TileBatch, read_tile_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from napari_histoad.detectors import Detector
    from napari_histoad.errors import SettingsError
    from napari_histoad.jobs import Job
    from napari_histoad.tiles import TileFile


class FileScores(NamedTuple):
    """Scores of tile files."""

    scores: NDArray[np.float32]  # (N,) in the order of the files; NaN for files that could not be scored
    errors: dict[int, SettingsError]  # reasons, by index of the file


def score_files_job(
    detector: Detector, files: Sequence[TileFile], device: str = "auto", *, resize: bool = False
) -> Job[FileScores]:
    """Score tile files; an error if none can be scored.

    Tiles that do not have the detector's size are refused, unless ``resize`` is set, or training on these files would have
    resized them too, because the method does not accept their size.
    """
    choice = choose_device(device)
    detector.to(choice.device)
    settings, colours = detector.settings, None
    if not resize:
        resize, note = fits_by_resizing(files, settings.tile_px, accepts_side(detector.name, settings.model_dump()))
        if note:
            yield Progress("Scoring", 0, len(files), note=note)
    stain = DetectorView.of(detector).stain
    if stain is not None:
        yield Progress("Measuring stains", 0, len(files))
        colours = stain_of_files(files, stain.method, settings.tile_px).to(stain)

    errors: dict[int, SettingsError] = {}

    def batches() -> Iterator[TileBatch]:
        for i in range(0, len(files), choice.batch):
            part = files[i : i + choice.batch]
            bad: dict[int, SettingsError] = {}
            tiles = read_tile_files(part, settings.tile_px, resize=resize, errors=bad)
            errors.update({i + k: err for k, err in bad.items()})
            if colours is not None:
                colours(tiles.images)
            if len(tiles):
                rows = np.array([i + k for k in range(len(part)) if k not in bad])
                yield TileBatch(tiles.images, rows, np.zeros(len(rows), bool))

    yield Progress("Scoring", 0, len(files))
    scores = np.full(len(files), np.nan, np.float32)
    for found in score_stream(detector, choice, batches()):
        scores[found.index] = found.scores
        yield Progress("Scoring", int(found.index[-1]) + 1, len(files))
    if len(errors) == len(files):
        raise errors[0]
    return FileScores(scores, errors)
