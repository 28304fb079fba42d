"""Scores of tiles that are in memory or are files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_histoad.engine._batch import score_stream
from napari_histoad.engine._device import choose_device
from napari_histoad.engine._gather import stain_of, stain_of_files
from napari_histoad.jobs import Progress
from napari_histoad.tiles import read_tile_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from napari_histoad.detectors import Detector
    from napari_histoad.jobs import Job
    from napari_histoad.tiles import TileFile

__all__ = ["score_files_job", "score_images"]


def score_images(detector: Detector, images: NDArray[np.uint8], device: str = "auto") -> NDArray[np.float32]:
    """Return the scores (N,) float32 of tiles (N, H, W, 3) uint8 in memory."""
    choice = choose_device(device)
    detector.to(choice.device)
    batches = ((None, images[i : i + choice.batch]) for i in range(0, len(images), choice.batch))
    parts = [found.scores for _, found in score_stream(detector, choice, batches)]
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def score_files_job(
    detector: Detector, files: Sequence[TileFile], device: str = "auto", *, resize: bool = False
) -> Job[NDArray[np.float32]]:
    """Score tiles that are files; the result is (N,) float32 in their order.

    Parameters
    ----------
    resize : bool
        Resize tiles of another size; otherwise they are refused.
    """
    choice = choose_device(device)
    detector.to(choice.device)
    settings, colours = detector.settings, None
    stain = stain_of(detector)
    if stain is not None:
        yield Progress("Looking at stains", 0, len(files))
        colours = stain_of_files(files, stain.method, settings.tile_px).to(stain)

    def batches() -> Iterator[tuple[int, NDArray[np.uint8]]]:
        for i in range(0, len(files), choice.batch):
            tiles = read_tile_files(files[i : i + choice.batch], settings.tile_px, resize=resize)
            if colours is not None:
                colours(tiles.images)
            yield i + len(tiles.images), tiles.images

    yield Progress("Scoring", 0, len(files))
    scores = []
    for done, found in score_stream(detector, choice, batches()):
        scores.append(found.scores)
        yield Progress("Scoring", done, len(files))
    return np.concatenate(scores)
