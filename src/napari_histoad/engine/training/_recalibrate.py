"""Recalibrates a detector on normal tissue of another site; its weights do not change."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histoad.calibration import Calibration, CalibrationBasis
from napari_histoad.detectors import load_detector, save_detector
from napari_histoad.engine._batch import batches_of, score_stream
from napari_histoad.engine._detector_view import DetectorView
from napari_histoad.engine._device import choose_device
from napari_histoad.engine._options import check_options
from napari_histoad.engine.training._field import field_calibration
from napari_histoad.engine.training._gather import MAX_TILES, gather_job
from napari_histoad.engine.training._sources import training_sources
from napari_histoad.errors import SettingsError
from napari_histoad.jobs import Progress, run
from napari_histoad.slide import file_name, slide_path
from napari_histoad.system.atomic import locks_output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_histoad.detectors import Detector
    from napari_histoad.engine.training._sources import TrainingSource
    from napari_histoad.jobs import Job
    from napari_histoad.regions import Region


@locks_output
def recalibrate_job(
    sources: Sequence[TrainingSource],
    model: Path,
    out: Path,
    *,
    device: str = "auto",
    seed: int = 0,
    max_tiles: int = MAX_TILES,
) -> Job[Detector]:
    """Calibrate a detector on the scores of normal tiles of other slides and save it to ``out``.

    Weights do not change. All tiles are used for calibration: p-values and thresholds then refer to these slides. Raises
    `SettingsError` if the detector was trained on one of the slides: its scores there are too low to set a threshold.
    """
    check_options(seed=seed, max_tiles=max_tiles)
    detector = load_detector(model)
    seen = sorted({file_name(source.path) for source in sources} & set(detector.trained_on))
    if seen:
        msg = f"{model.name} was trained on {seen[0]}: its scores on normal tissue there are too low to set a threshold"
        raise SettingsError(msg, "recalibrate on slides that it was not trained on, or train it again")
    view, choice = DetectorView.of(detector), choose_device(device)
    tiles, _ = yield from gather_job(
        sources, view.tile_px, view.mpp, max_tiles=max_tiles, srgb=view.srgb, stain=view.stain, seed=seed
    )
    detector.to(choice.device)
    yield Progress("Calibrating", 0, len(tiles))
    scores: list[float] = []
    for found in score_stream(detector, choice, batches_of(tiles.images, choice.batch)):
        scores += found.scores.tolist()
        yield Progress("Calibrating", len(scores), len(tiles))
    mixed, outlined = any(source.mixed for source in sources), all(source.regions is not None for source in sources)
    names = tuple(dict.fromkeys(tiles.sources))
    basis = CalibrationBasis(tiles.grouping, outlined, ("mixed",) if mixed else (), len(names), names=names)
    calibrated = Calibration.from_scores(scores, robust=mixed, groups=tiles.groups, slides=tiles.slide_of, basis=basis)
    field = None if mixed else field_calibration(tiles, np.array(scores, np.float32), basis)
    detector.calibration = replace(calibrated, field=field)
    save_detector(detector, out)
    return detector


def recalibrate(
    model: str | PathLike[str],
    slides: str | PathLike[str] | Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    *,
    normal: str | PathLike[str] | Sequence[str | PathLike[str]] | Sequence[Region] | Sequence[Sequence[Region]] | None = None,
    slide_mpp: float | None = None,
    override_mpp: float | None = None,
    normal_class: str | Sequence[str] | None = None,
    tissue_from: str = "found",
    device: str = "auto",
    **options: Any,
) -> Detector:
    """Calibrate a trained detector on normal tissue of another site, without training it again.

    Parameters
    ----------
    model : path-like
        The file of the detector.
    slides, normal, slide_mpp, override_mpp, normal_class, tissue_from, device
        See `train`.
    out : path-like
        The ``.safetensors`` file to write.
    **options
        ``seed``, ``max_tiles``.

    Returns
    -------
    Detector
        With the new calibration.

    Raises
    ------
    HistoadError
        If it cannot be calibrated or saved; the message names the remedy.
    """
    paths = [slides] if isinstance(slides, str | PathLike) else list(slides)
    sources = training_sources([slide_path(p) for p in paths], normal, slide_mpp, tissue_from, override_mpp, normal_class)
    return run(recalibrate_job(sources, Path(model), Path(out), device=device, **options))
