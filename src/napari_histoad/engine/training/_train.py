"""Trains a detector on slides, calibrates it and saves it."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_histoad.calibration import LEAST_HELD_OUT, MIN_CALIBRATION_TILES, Calibration, CalibrationBasis
from napari_histoad.detectors import FeatureDetector, create_detector, features_of, known_encoder, save_detector
from napari_histoad.engine._device import choose_device
from napari_histoad.engine._options import check_options
from napari_histoad.engine._score import score_images
from napari_histoad.engine.training._estimate import estimate_training
from napari_histoad.engine.training._field import field_calibration
from napari_histoad.engine.training._gather import MAX_TILES, gather_job, stain_job
from napari_histoad.engine.training._gradient_descent import descend_job
from napari_histoad.engine.training._refine import check_refinement, passes_of, refine_job, stages_of, suspicious
from napari_histoad.engine.training._sources import DEFAULT_MPP, common_mpp, training_sources
from napari_histoad.engine.training._tile_files import accepts_side, own_side
from napari_histoad.errors import SettingsError, TrainingError, writing
from napari_histoad.jobs import Progress, run
from napari_histoad.slide import slide_path
from napari_histoad.system.atomic import locks_output
from napari_histoad.tiles import list_normal_files, write_places

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_histoad.calibration import Doubt
    from napari_histoad.detectors import Detector
    from napari_histoad.engine._device import DeviceChoice
    from napari_histoad.engine.training._sources import TrainingSource
    from napari_histoad.jobs import Job
    from napari_histoad.regions import Region
    from napari_histoad.tiles import TileSet

_HELD_OUT = 0.25
_FOLDS = 10
_MIN_FITTED = 10
_CHUNK = 128


def fit_job(
    detector: Detector,
    tiles: TileSet,
    *,
    device: str = "auto",
    devices: int = 1,
    seed: int = 0,
    robust: bool = False,
    outlined: bool = False,
    refine: str | None = None,
    checkpoint: Path | None = None,
    features: torch.Tensor | None = None,
) -> Job[Detector]:
    """Train a detector on tiles in memory and calibrate it on held-out tiles.

    A quarter of the tiles is held out for calibration, more if tiles are few or groups large; groups are never split. Of the
    other tiles, 15% are used for early stopping. Methods that are only fitted to features use all tiles and are calibrated by
    cross-fitting over the groups. If nearly all tiles come from one group, it is split and the error rates are approximate.

    Parameters
    ----------
    detector : Detector
        Untrained; it is trained in place and returned.
    tiles : TileSet
    device : str
    devices : int
        Number of GPUs of this machine, or parts of its CPU, that train together, one process each.
    robust : bool
        The tiles may hold some anomalies: rare tiles are left out of the fit, see `Detector.fit`, and outlying scores are left
        out of the calibration, see `Calibration.from_scores`. Otherwise all tiles are used for both.
    outlined : bool
        Whether a person outlined the tissue; recorded in the calibration.
    refine : {"neighbours", "svm"}, optional
        Leave suspicious tiles out of training, see `refine_job`; their rows are stored in ``detector.left_out``. The
        calibration still uses them, except outlying scores, so that the false-positive rate is not underestimated.
    checkpoint : Path, optional
        File to save progress to. Training continues from it if it has the same data and settings, and removes it at the end.
    features : (N, D) float32 tensor, optional
        Features of the tiles, if they were computed before, see `features_of`. Only methods that are fitted to features without
        training a network use them.

    Raises
    ------
    SettingsError
        If the refinement is unknown, or the method has no features for it.
    TooFewTilesError
        If there are too few tiles, or all come from one group that cannot be split.
    TrainingError
        If a loss, or the score of a tile, is not finite.
    """
    check_options(seed=seed, devices=devices)
    check_refinement(refine)
    detector.check_trainable()
    choice = choose_device(device, devices)
    rng = np.random.default_rng(seed)
    trimmed = robust or refine is not None
    least = LEAST_HELD_OUT if trimmed else MIN_CALIBRATION_TILES
    given, tiles = tiles, tiles.divided(least)
    doubts: list[Doubt] = ["mixed"] if robust else []
    doubts += [] if refine is None else ["refined"]
    doubts += [] if tiles is given else ["beside"]
    names = tuple(dict.fromkeys(tiles.sources))
    basis = CalibrationBasis(tiles.grouping, outlined, tuple(doubts), len(names), names=names)
    if isinstance(detector, FeatureDetector) and not detector.steps:
        scores = yield from _cross_fit_job(detector, tiles, choice, rng, robust=robust, refine=refine, features=features)
        detector.calibration = _calibrated(given, scores, basis, trimmed=trimmed)
        detector.trained_on = tiles.sources
        return detector
    kept, held_out = tiles.split(_HELD_OUT, rng, least)
    detector.to(choice.device)
    detector.prepare(tiles.images[kept])
    yield _forecast(detector, tiles, choice, refine)
    if detector.steps:
        yield from descend_job(detector, tiles.subset(kept), choice, rng, seed, checkpoint)
    if refine is not None:
        left_out = yield from refine_job(detector, tiles.subset(kept), refine, choice, rng, seed, checkpoint)
        detector.left_out, kept = kept[left_out], kept[~left_out]
    yield Progress("Calibrating", 0, 2, "steps")
    with choice.autocast(detector):
        detector.balance(tiles.images[kept], tiles.groups[kept], robust=robust)
        detector.fit(tiles.images[kept], robust=robust)
    yield Progress("Calibrating", 1, 2, "steps")
    scores = score_images(detector, tiles.images[held_out], device)
    detector.calibration = _calibrated(given.subset(held_out), scores, basis, trimmed=trimmed)
    detector.trained_on = tiles.sources
    yield Progress("Calibrating", 2, 2, "steps")
    return detector


def _calibrated(tiles: TileSet, scores: NDArray[np.float32], basis: CalibrationBasis, *, trimmed: bool) -> Calibration:
    """Return the calibration by the scores of held-out tiles, with that of the map unless outlying scores are left out."""
    found = Calibration.from_scores(scores, robust=trimmed, groups=tiles.groups, slides=tiles.slide_of, basis=basis)
    return found if trimmed else replace(found, field=field_calibration(tiles, scores, basis))


def _cross_fit_job(
    detector: FeatureDetector,
    tiles: TileSet,
    choice: DeviceChoice,
    rng: np.random.Generator,
    *,
    robust: bool,
    refine: str | None,
    features: torch.Tensor | None,
) -> Job[NDArray[np.float32]]:
    """Fit a detector to all tiles; return for each tile the score of a model fitted to the other folds, to calibrate on.

    Cross-conformal prediction (Vovk 2015, arXiv:1208.0806): with ten folds every tile is used, and as each model is fitted to
    nine tenths of them, p-values are slightly too large rather than too small.
    """
    detector.to(choice.device)
    detector.prepare(tiles.images)
    if features is None:
        features = yield from _features_job(detector, tiles, choice)
    scores = np.empty(len(tiles), np.float32)
    left_out = np.zeros(len(tiles), bool) if refine is None else suspicious(features.numpy(), refine, rng)
    detector.left_out = np.flatnonzero(left_out)
    folds = list(tiles.folds(_FOLDS, rng))
    for k, (kept, held_out) in enumerate(folds):
        yield Progress("Calibrating", k, len(folds) + 1, "steps")
        # If nearly all other groups were left out, the fold is scored by a model that is fitted to them all the same.
        rows = kept[~left_out[kept]]
        detector.fit_features(features[rows if len(rows) >= _MIN_FITTED else kept], robust=robust)
        with torch.inference_mode():
            scores[held_out] = detector.model.distance(features[held_out].to(choice.device)).cpu().numpy()
    yield Progress("Calibrating", len(folds), len(folds) + 1, "steps")
    detector.fit_features(features[~left_out], robust=robust)
    with choice.autocast(detector):
        detector.fit_error_map(tiles.images[~left_out])
    yield Progress("Calibrating", len(folds) + 1, len(folds) + 1, "steps")
    return scores


def _features_job(detector: FeatureDetector, tiles: TileSet, choice: DeviceChoice) -> Job[torch.Tensor]:
    yield _forecast(detector, tiles, choice)
    parts = []
    for i in range(0, len(tiles), _CHUNK):
        yield Progress("Computing features", i, len(tiles))
        with choice.autocast(detector):  # not around a yield: the caller may compute in between
            parts.append(features_of(detector.features, tiles.images[i : i + _CHUNK], choice.device))
    return torch.cat(parts)


def _forecast(detector: Detector, tiles: TileSet, choice: DeviceChoice, refine: str | None = None) -> Progress:
    """Return a progress report that states the estimated time and memory."""
    estimate = estimate_training(detector, torch.from_numpy(tiles.images), choice, passes_of(refine))
    return Progress("Estimating", 1, 1, "steps", note=f"{estimate}.")


@locks_output
def train_job(
    sources: Sequence[TrainingSource],
    out: Path,
    *,
    detector: str = "best",
    mpp: float | None = None,
    device: str = "auto",
    devices: int = 1,
    seed: int = 0,
    max_tiles: int = MAX_TILES,
    refine: str | None = None,
    settings: dict[str, Any] | None = None,
) -> Job[Detector]:
    """Read tiles, train a detector, calibrate it and save it to ``out``; an interrupted run continues where it stopped.

    Parameters are those of `train`. With ``refine``, the tiles that were left out are listed in the file `suspicious_file`.
    """
    check_options(seed=seed, devices=devices, max_tiles=max_tiles, mpp=mpp)
    choose_device(device, devices)  # an unknown device is refused now, not after an hour of reading
    given = dict(settings or {})
    if "tile_px" not in given:
        for note in _own_side(sources, detector, given):
            yield Progress("Reading normal tiles", 0, len(sources), "slides", note=note)
    known = known_encoder(str(given["backbone"])) if "backbone" in given else None
    if known is not None:
        given.setdefault("tile_px", known.side)  # then its input is not resized
        mpp = common_mpp(sources, mpp, known.mpp or DEFAULT_MPP)
    torch.manual_seed(seed)
    draft = create_detector(detector, **given, **({} if mpp is None else {"mpp": mpp}))
    draft.check_trainable()
    if draft.settings.stain_jitter and not draft.steps:
        raise SettingsError(f"{detector} is not trained step by step, so stain_jitter has no effect", "leave it out")
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.is_dir():
            raise IsADirectoryError(21, "the name is taken by a folder")
    wanted = draft.settings
    stain = None
    if wanted.stain != "none":
        stain = yield from stain_job(sources, wanted.stain, wanted.tile_px, mpp, srgb=wanted.srgb)
    tiles, tile_mpp = yield from gather_job(
        sources, wanted.tile_px, mpp, max_tiles=max_tiles, srgb=wanted.srgb, stain=stain, seed=seed
    )
    torch.manual_seed(seed)
    trained = create_detector(detector, **given, mpp=tile_mpp)
    trained.stain_target = () if stain is None else stain.values
    checkpoint = out.with_name(f".{out.name}.checkpoint")
    try:
        yield from fit_job(
            trained,
            tiles,
            device=device,
            devices=devices,
            seed=seed,
            robust=any(source.mixed for source in sources),
            outlined=all(source.regions is not None for source in sources),
            refine=refine,
            checkpoint=checkpoint,
        )
    except TrainingError:
        _remove(checkpoint)  # continued from there, training would diverge again
        raise
    save_detector(trained, out)
    if refine is not None:
        write_places(tiles.subset(trained.left_out), suspicious_file(out))
    _remove(checkpoint)
    return trained


def _remove(checkpoint: Path) -> None:
    for path in stages_of(checkpoint):
        path.unlink(missing_ok=True)


def _own_side(sources: Sequence[TrainingSource], detector: str, given: dict[str, Any]) -> list[str]:
    """Set ``tile_px`` to the size of the tile files among the sources; return notes."""
    named = [source for source in sources if source.is_tiles]
    files = [file for source in named for file in list_normal_files(source.path, source.normal_classes).files]
    if not files:
        return []
    given["tile_px"], note = own_side(files, accepts_side(detector, given), ", ".join(source.path.name for source in named))
    return [note] if note else []


def suspicious_file(model: Path) -> Path:
    """Return the path of the table of tiles that were left out of a detector's training as suspicious."""
    return model.with_suffix(".suspicious.csv")


def train(
    slides: str | PathLike[str] | Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    *,
    normal: str | PathLike[str] | Sequence[str | PathLike[str]] | Sequence[Region] | Sequence[Sequence[Region]] | None = None,
    detector: str = "best",
    slide_mpp: float | None = None,
    override_mpp: float | None = None,
    normal_class: str | Sequence[str] | None = None,
    tissue_from: str = "found",
    mpp: float | None = None,
    device: str = "auto",
    devices: int = 1,
    seed: int = 0,
    refine: str | None = None,
    **settings: Any,
) -> Detector:
    """Train a detector on normal tissue and save it.

    Parameters
    ----------
    slides : path-like or sequence of path-like
        Slides, folders of tile images, or manifest.csv files.
    out : path-like
        The ``.safetensors`` file to write.
    normal : path-like, sequence of path-like, or sequence of Region, optional
        Outlines of normal tissue: one annotation file, or list of regions, per slide in the same order, or the regions of a
        single slide. Regions of a normal class are used, or all if none has a class.
        Default: ``"all-tissue"``, all tissue of these slides is normal; ``"mixed-tissue"`` if it may hold lesions: rare tissue
        is then left out of the fit and of the calibration, and error rates are approximate.
    detector : str
        Name of the method, see `detector_names`; ``"best"`` is the most accurate one on tissue, ``"fast"`` trains in seconds.
    slide_mpp : float, optional
        µm per level-0 pixel, for slides that state none.
    override_mpp : float, optional
        µm per level-0 pixel; replaces what the slides state.
    normal_class : str or sequence of str, optional
        For tiles with unknown class names: the normal class or classes; ``"all-tiles"`` if all tiles are normal.
    tissue_from : str
        ``"found"`` detects tissue; ``"regions"`` takes the outlines as tissue, for stains where detection fails.
    mpp : float, optional
        µm per tile pixel; default 0.5, or what the encoder was trained on, or that of the coarsest slide if it is coarser.
    device : str
        ``auto``, ``cpu``, ``cuda``, ``mps``.
    devices : int
        Number of GPUs that train together. With more than one, a script needs ``if __name__ == "__main__":``, as each process
        imports it.
    seed : int
        The same seed on the same devices gives the same detector.
    refine : {"neighbours", "svm"}, optional
        Find tiles that do not look normal and leave them out of training, see `fit_job`.
    **settings
        Settings of the method, such as ``tile_px`` or ``max_steps``.

    Returns
    -------
    Detector
        Trained and calibrated, on the device that it was trained on.

    Raises
    ------
    HistoadError
        If it cannot be trained or saved; the message names the remedy.

    Examples
    --------
    >>> detector = train("case.svs", "skin.safetensors", normal="normal.geojson")  # doctest: +SKIP
    """
    paths = [slides] if isinstance(slides, str | PathLike) else list(slides)
    sources = training_sources([slide_path(p) for p in paths], normal, slide_mpp, tissue_from, override_mpp, normal_class)
    job = train_job(
        sources,
        Path(out),
        detector=detector,
        mpp=mpp,
        device=device,
        devices=devices,
        seed=seed,
        refine=refine,
        settings=settings,
    )
    return run(job)
