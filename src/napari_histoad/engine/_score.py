"""Scores of tiles that are in memory or are files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from napari_histoad.engine._device import DeviceChoice, choose_device
from napari_histoad.errors import DeviceError, SettingsError
from napari_histoad.jobs import Progress
from napari_histoad.tiles import read_tile_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_histoad.detectors import Detector
    from napari_histoad.jobs import Job
    from napari_histoad.tiles import TileFile

__all__ = ["BATCH", "score_batch", "score_files_job", "score_images"]

BATCH = 16


def score_batch(
    detector: Detector, images: NDArray[np.uint8], choice: DeviceChoice, cells: int | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Score one batch on the device.

    Parameters
    ----------
    detector : Detector
        Already on the device.
    images : (B, H, W, 3) uint8
    choice : DeviceChoice
    cells : int, optional
        Pool error maps to this many cells down and across; None drops them.

    Returns
    -------
    scores : (B,) float32
    error_maps : (B, cells, cells) float32 or None

    Raises
    ------
    SettingsError
        If the tiles are of another size than the detector's.
    DeviceError
        If not even one tile fits into memory.
    """
    side = detector.settings.tile_px
    if images.shape[1:] != (side, side, 3):
        shape = "x".join(str(n) for n in images.shape[1:])
        msg = f"the detector was trained on tiles of {side}x{side} px, these are {shape}"
        raise SettingsError(msg, f"cut or resize the tiles to {side} px, or train a detector for their size")
    try:
        with torch.inference_mode(), choice.autocast():
            result = detector.score(torch.from_numpy(images).to(choice.device, non_blocking=True))
            maps = None
            if cells is not None and result.error_map is not None:
                maps = F.adaptive_avg_pool2d(result.error_map.float()[:, None], cells)[:, 0].cpu().numpy()
            return result.score.float().cpu().numpy(), maps
    except torch.OutOfMemoryError as err:
        if len(images) == 1:
            raise DeviceError("a single tile does not fit into the device's memory", "use --device cpu") from err
    if choice.device.type == "cuda":
        torch.cuda.empty_cache()
    half = len(images) // 2
    first, second = score_batch(detector, images[:half], choice, cells), score_batch(detector, images[half:], choice, cells)
    joined = None if first[1] is None or second[1] is None else np.concatenate([first[1], second[1]])
    return np.concatenate([first[0], second[0]]), joined


def score_images(detector: Detector, images: NDArray[np.uint8], device: str = "auto") -> NDArray[np.float32]:
    """Return the scores (N,) float32 of tiles (N, H, W, 3) uint8 in memory."""
    choice = choose_device(device)
    detector.to(choice.device)
    parts = [score_batch(detector, images[i : i + BATCH], choice)[0] for i in range(0, len(images), BATCH)]
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
    scores = []
    for i in range(0, len(files), BATCH):
        yield Progress("Scoring", i, len(files))
        tiles = read_tile_files(files[i : i + BATCH], detector.settings.tile_px, resize=resize)
        scores.append(score_batch(detector, tiles.images, choice)[0])
    yield Progress("Scoring", len(files), len(files))
    return np.concatenate(scores)
