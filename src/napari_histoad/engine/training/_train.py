"""Training: from slides and outlines to a calibrated detector on disk."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_histoad.calibration import LEAST_HELD_OUT, MIN_CALIBRATION_TILES, Calibration, CalibrationBasis
from napari_histoad.detectors import FeatureDetector, create_detector, features_of, save_detector
from napari_histoad.engine._device import choose_device
from napari_histoad.engine._options import check_options
from napari_histoad.engine._score import score_images
from napari_histoad.engine.training._descend import descend_job
from napari_histoad.engine.training._estimate import estimate_training
from napari_histoad.engine.training._gather import MAX_TILES, TrainingSource, gather_job, stain_job, training_sources
from napari_histoad.engine.training._refine import check_refinement, passes_of, refine_job, stages_of, suspicious
from napari_histoad.engine.training._tile_files import accepts_side, own_side
from napari_histoad.errors import SettingsError, TrainingError, writing
from napari_histoad.jobs import Progress, run
from napari_histoad.slide import slide_path
from napari_histoad.system.atomic import holds_output
from napari_histoad.tiles import list_normal_files, write_places

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_histoad.calibration import Doubt
    from napari_histoad.detectors import Detector
    from napari_histoad.engine._device import DeviceChoice
    from napari_histoad.jobs import Job
    from napari_histoad.regions import Region
    from napari_histoad.tiles import TileSet

__all__ = ["fit_job", "suspicious_file", "train", "train_job"]

_HELD_OUT = 0.25
_FOLDS = 10
_LEAST_FITTED = 10
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
) -> Job[Detector]:
    """Train a detector on tiles in memory and calibrate it on held-out ones.

    A quarter of the tiles, whole groups, is held out for the calibration, or more where tiles are few or groups large; 15%
    of the rest decides when to stop. What is fitted to features in no time learns from all tiles and is calibrated by
    cross-fitting over the groups. Tiles of which nearly all come from one place are split within it, and the error rates
    are then approximate. All this is known before anything is trained.

    Parameters
    ----------
    detector : Detector
        Untrained; trained in place and returned.
    tiles : TileSet
    device : str
    devices : int
        How many of them learn together, in a process each: GPUs of this machine, or parts of the CPU.
    robust : bool
        The tiles may hold some anomalies: what is rare is left out of the fit, see `Detector.fit`, and what stands out of
        the calibration, see `Calibration.from_scores`. Otherwise every tile is normal and counts in both.
    outlined : bool
        Whether somebody outlined them, for the record of what the error rates rest on.
    refine : {"neighbours", "svm"}, optional
        Leave tiles out that do not look like the others, see `refine_job`; ``detector.left_out`` then says which. They
        still count in the calibration, less what sticks out of it, so that the false-positive rate errs to the safe side.
    checkpoint : Path, optional
        Where to save progress; training goes on from there if it fits, and removes it at the end.

    Raises
    ------
    SettingsError
        If there is no such refinement, or the method offers no features to refine by.
    TooFewTilesError
        If there are too few tiles to learn from some and to calibrate on others, or all come from one place.
    TrainingError
        If a loss, or the score of a normal tile, is not finite.
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
    basis = CalibrationBasis(tiles.grouping, outlined, tuple(doubts), len(set(tiles.sources)))
    if isinstance(detector, FeatureDetector) and not detector.steps:
        scores = yield from _cross_fit_job(detector, tiles, choice, rng, robust=robust, refine=refine)
        detector.calibration = Calibration.from_scores(scores, robust=trimmed, groups=given.groups, basis=basis)
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
        detector.fit(tiles.images[kept], robust=robust)
    yield Progress("Calibrating", 1, 2, "steps")
    scores = score_images(detector, tiles.images[held_out], device)
    detector.calibration = Calibration.from_scores(scores, robust=trimmed, groups=given.groups[held_out], basis=basis)
    detector.trained_on = tiles.sources
    yield Progress("Calibrating", 2, 2, "steps")
    return detector


def _cross_fit_job(
    detector: FeatureDetector, tiles: TileSet, choice: DeviceChoice, rng: np.random.Generator, *, robust: bool, refine: str | None
) -> Job[NDArray[np.float32]]:
    """Fit to all tiles; return the score that each gets from a model fitted to the other folds' groups, to calibrate on.

    Cross-conformal prediction (Vovk 2015, arXiv:1208.0806): ten folds waste no tile, and as each model sees nine tenths
    of them, the p-values err to the safe side.
    """
    detector.to(choice.device)
    detector.prepare(tiles.images)
    yield _forecast(detector, tiles, choice)
    parts = []
    for i in range(0, len(tiles), _CHUNK):
        yield Progress("Looking at tiles", i, len(tiles))
        with choice.autocast(detector):  # not around a yield: whoever drives the job computes too
            parts.append(features_of(detector.features, tiles.images[i : i + _CHUNK], choice.device))
    codes, scores = torch.cat(parts), np.empty(len(tiles), np.float32)
    left_out = np.zeros(len(tiles), bool) if refine is None else suspicious(codes.numpy(), refine, rng)
    detector.left_out = np.flatnonzero(left_out)
    folds = list(tiles.folds(_FOLDS, rng))
    for k, (kept, held_out) in enumerate(folds):
        yield Progress("Calibrating", k, len(folds) + 1, "steps")
        # Of a few groups, one that is large is scored by what the others teach, were they all left out of the final fit.
        rows = kept[~left_out[kept]]
        detector.fit_features(codes[rows if len(rows) >= _LEAST_FITTED else kept], robust=robust)
        with torch.inference_mode():
            scores[held_out] = detector.model.distance(codes[held_out].to(choice.device)).cpu().numpy()
    yield Progress("Calibrating", len(folds), len(folds) + 1, "steps")
    detector.fit_features(codes[~left_out], robust=robust)
    with choice.autocast(detector):
        detector.fit_error_map(tiles.images[~left_out])
    yield Progress("Calibrating", len(folds) + 1, len(folds) + 1, "steps")
    return scores


def _forecast(detector: Detector, tiles: TileSet, choice: DeviceChoice, refine: str | None = None) -> Progress:
    """Return what training will take, as a report."""
    estimate = estimate_training(detector, torch.from_numpy(tiles.images), choice, passes_of(refine))
    return Progress("Estimating", 1, 1, "steps", note=f"{estimate}.")


@holds_output
def train_job(
    sources: Sequence[TrainingSource],
    out: Path,
    *,
    detector: str = "vqvae",
    mpp: float | None = None,
    device: str = "auto",
    devices: int = 1,
    seed: int = 0,
    max_tiles: int = MAX_TILES,
    refine: str | None = None,
    settings: dict[str, Any] | None = None,
) -> Job[Detector]:
    """Gather tiles, train, calibrate and save to ``out``; an interrupted run goes on where it was.

    With ``refine``, the tiles that were left out are listed in ``<out>.suspicious.csv``.

    Raises
    ------
    HistoadError
        See `gather_job`, `fit_job` and `save_detector`.
    """
    check_options(seed=seed, devices=devices, max_tiles=max_tiles, mpp=mpp)
    choose_device(device, devices)  # refused now, not after reading for an hour
    given = dict(settings or {})
    if "tile_px" not in given:
        for note in _own_side(sources, detector, given):
            yield Progress("Reading normal tiles", 0, len(sources), "slides", note=note)
    torch.manual_seed(seed)
    draft = create_detector(detector, **given, **({} if mpp is None else {"mpp": mpp}))
    draft.check_trainable()
    if draft.settings.stain_jitter and not draft.steps:
        raise SettingsError(f"{detector} learns without steps, so stain_jitter has no effect", "leave it out")
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
        _remove(checkpoint)  # from there the same would happen again, and with other settings it does not count
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
    """Return the table of the tiles that the refinement of a detector left out."""
    return model.with_suffix(".suspicious.csv")


def train(
    slides: str | PathLike[str] | Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    *,
    normal: str | PathLike[str] | Sequence[str | PathLike[str]] | Sequence[Region] | Sequence[Sequence[Region]] | None = None,
    detector: str = "vqvae",
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
        Slides, or folders of tiles, or manifest.csv files.
    out : path-like
        The ``.safetensors`` file to write.
    normal : path-like, sequence of path-like, or sequence of Region, optional
        Outlines of normal tissue: one annotation file, or list of regions, per slide in the same order, or regions of the
        only slide. Those classed normal are learnt from, or all where none has a class.
        Default: ``"all-tissue"``, all tissue of these slides is normal; ``"mixed-tissue"`` if it may hold lesions: what is
        rare is then left out of the fit and of the calibration, and error rates are approximate.
    detector : str
        Name of the method.
    slide_mpp : float, optional
        µm per level-0 pixel of slides that do not state it; those that do keep theirs.
    override_mpp : float, optional
        µm per level-0 pixel, whatever the slides state.
    normal_class : str or sequence of str, optional
        Of tiles with classes: which are normal, where their names do not say; ``"all-tiles"`` if all are.
    tissue_from : str
        ``"found"`` on the slides; ``"regions"`` takes the outlines as tissue, for stains where it is not found.
    mpp : float, optional
        µm per tile pixel; default 0.5, or the slide's own if that is coarser.
    device : str
        ``auto``, ``cpu``, ``cuda``, ``mps``.
    devices : int
        How many GPUs train together, see `fit_job`. A script that asks for more than one must be guarded by
        ``if __name__ == "__main__":``, as each process imports it.
    seed : int
        Same seed, same devices: same detector.
    refine : {"neighbours", "svm"}, optional
        Find the normal tiles that do not look normal and leave them out, see `fit_job`.
    **settings
        Further settings of the method.

    Returns
    -------
    Detector
        Calibrated, on the device it was trained on.

    Raises
    ------
    HistoadError
        With the reason and the remedy.

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
