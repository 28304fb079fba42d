"""Training: from slides and outlines to a calibrated detector on disk."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning_fabric import Fabric

from napari_histoad.calibration import Calibration
from napari_histoad.detectors import create_detector, detector_class, save_detector
from napari_histoad.engine._device import DeviceChoice, choose_device
from napari_histoad.engine._score import score_images
from napari_histoad.errors import RegionError, TooFewTilesError, writing
from napari_histoad.jobs import Progress, run
from napari_histoad.regions import Region, coverage, read_regions
from napari_histoad.slide import open_slide
from napari_histoad.tiles import TileGrid, TileSet, find_tissue, read_tile_files, sample_tiles
from napari_histoad.tiles._set import list_tile_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_histoad.detectors import Detector
    from napari_histoad.jobs import Job

__all__ = ["MIN_TILES", "TrainingSource", "fit_job", "gather_job", "train", "train_job"]

MIN_TILES = 48
MAX_TILES = 2000
_WELL_FED = 256
_HELD_OUT, _VALIDATION = 0.25, 0.15
_MIN_COVER = 0.5
_CHECKS, _PATIENCE, _LEAST_GAIN = 20, 5, 0.005
_PREVIEW_SECONDS = 2.0


@dataclass(frozen=True)
class TrainingSource:
    """One slide, or one set of tile files, to learn normal from.

    Attributes
    ----------
    path : Path
        A slide, a folder of tiles, or a manifest.csv (of which only label 0 is learnt from).
    regions : sequence of Region or None
        Normal tissue; None takes all tissue.
    mpp : float or None
        Overrides what the slide says.
    """

    path: Path
    regions: Sequence[Region] | None = None
    mpp: float | None = None

    @property
    def is_tiles(self) -> bool:
        """Whether this is a set of tile files rather than a slide."""
        return self.path.is_dir() or self.path.suffix.lower() == ".csv"


def gather_job(
    sources: Sequence[TrainingSource], tile_px: int, mpp: float | None, *, max_tiles: int = MAX_TILES, seed: int = 0
) -> Job[tuple[TileSet, float]]:
    """Read the normal tiles of all sources into memory; the result is (tiles, their mpp).

    Without ``mpp`` tiles are read at 0.5 µm per pixel, or at the coarsest slide's own if that is coarser.

    Raises
    ------
    TooFewTilesError
        If there are fewer than 48 tiles in all.
    RegionError
        If the outlines of a slide hold no tissue.
    """
    rng = np.random.default_rng(seed)
    wanted = mpp or 0.5
    for source in sources:
        if mpp is None and not source.is_tiles:
            with open_slide(source.path, source.mpp) as slide:
                wanted = max(wanted, slide.require_mpp())
    share = math.ceil(max_tiles / len(sources))
    sets = []
    for number, source in enumerate(sources):
        yield Progress("Reading normal tiles", number, len(sources), "slides", path=str(source.path))
        if source.is_tiles:
            files = [file for file in list_tile_files(source.path) if not file.label]
            files = [files[i] for i in np.sort(rng.permutation(len(files))[:share])]
            tiles = read_tile_files(files, tile_px)
            sets.append(TileSet(tiles.images, tiles.groups, (source.path.name,)))
        else:
            sets.append(_slide_tiles(source, tile_px, wanted, share, rng))
    tiles = TileSet.concatenate(sets)
    if len(tiles) < MIN_TILES:
        msg = f"only {len(tiles)} normal tiles of {tile_px} px were found, {MIN_TILES} are due"
        raise TooFewTilesError(msg, "outline more normal tissue, add slides, or use smaller tiles (--tile-px 128)")
    yield Progress("Reading normal tiles", len(sources), len(sources), "slides")
    return tiles, wanted


def _slide_tiles(source: TrainingSource, tile_px: int, mpp: float, share: int, rng: np.random.Generator) -> TileSet:
    with open_slide(source.path, source.mpp) as slide:
        tissue = find_tissue(slide)
        # Few tiles fit into a small outline: then they may overlap. Groups are spatial, so none leak.
        for overlap in (1, 2, 4):
            grid = TileGrid.cover(
                slide.shape, slide.require_mpp(), tile_px=tile_px, mpp=mpp, stride_px=tile_px // overlap
            ).on_tissue(tissue, _MIN_COVER)
            if source.regions is not None:
                grid = grid.subset(coverage(grid.boxes, source.regions) >= _MIN_COVER)
            if len(grid) >= _WELL_FED:
                break
        if source.regions is not None and not len(grid):
            side_um = tile_px * mpp
            msg = f"the normal regions of {source.path.name} hold no tile of {side_um:.0f} µm of tissue"
            raise RegionError(msg, "outline larger areas, on the tissue; check that the outlines belong to this slide")
        return sample_tiles(slide, grid, share, rng)


def fit_job(
    detector: Detector,
    tiles: TileSet,
    *,
    device: str = "auto",
    seed: int = 0,
    robust: bool = False,
    checkpoint: Path | None = None,
) -> Job[Detector]:
    """Train a detector on tiles in memory and calibrate it on held-out ones.

    A quarter of the tiles, whole groups, is held out for the calibration; 15% of the rest decides when to stop.

    Parameters
    ----------
    detector : Detector
        Untrained; trained in place and returned.
    tiles : TileSet
    robust : bool
        The tiles may hold some anomalies, see `Detector.fit`.
    checkpoint : Path, optional
        Where to save progress; training goes on from there if it fits, and removes it at the end.
    """
    choice = choose_device(device)
    rng = np.random.default_rng(seed)
    kept, held_out = tiles.split(_HELD_OUT, rng)
    detector.to(choice.device)
    detector.prepare(tiles.images[kept])
    if detector.steps:
        yield from _descend(detector, tiles.subset(kept), choice, rng, seed, checkpoint)
    yield Progress("Calibrating", 0, 2, "steps")
    with choice.autocast():
        detector.fit(tiles.images[kept], robust=robust)
    yield Progress("Calibrating", 1, 2, "steps")
    detector.calibration = Calibration.from_scores(score_images(detector, tiles.images[held_out], device))
    detector.trained_on = tiles.sources
    yield Progress("Calibrating", 2, 2, "steps")
    return detector


def _descend(
    detector: Detector,
    tiles: TileSet,
    choice: DeviceChoice,
    rng: np.random.Generator,
    seed: int,
    checkpoint: Path | None,
) -> Job[None]:
    """Gradient descent with early stop on held-out tiles; ends with the best weights."""
    network = detector.network
    assert network is not None
    try:
        learnt, checked = tiles.split(_VALIDATION, rng)
    except TooFewTilesError:  # one group: neighbours must do
        order = rng.permutation(len(tiles))
        checked, learnt = np.split(order, [max(1, int(_VALIDATION * len(tiles)))])
    checked = checked[:128]
    images, total = torch.from_numpy(tiles.images), detector.steps
    batch = min(getattr(detector.settings, "batch", 16), len(learnt))
    fabric = Fabric(accelerator=choice.device.type, devices=1, precision=choice.precision)
    optimizer = detector.optimizer()
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=optimizer.param_groups[0]["lr"], total_steps=total + 1, pct_start=min(0.1, 50 / total)
    )
    every = max(1, total // _CHECKS)
    best, best_state, stale, first = math.inf, _copy(network), 0, 0
    key = _data_key(detector, tiles, seed)
    saved = _load_checkpoint(checkpoint, key)
    if saved is not None:
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        best, best_state, stale, first = saved["best"], saved["best_state"], saved["stale"], saved["step"]
    previewed = 0.0
    metrics: dict[str, float] = {}
    yield Progress("Training", first, total, "steps")
    for step in range(first, total):
        network.train()
        # Randomness follows from seed and step alone, so that a resumed run equals an undisturbed one.
        picked = np.random.default_rng([seed, step]).choice(learnt, batch, replace=False)
        with torch.random.fork_rng(devices=[]), fabric.autocast():
            torch.manual_seed(seed * 1_000_003 + step)
            losses = detector.losses(images[picked].to(choice.device))
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(losses["loss"])
        fabric.clip_gradients(network, optimizer, max_norm=1.0, error_if_nonfinite=False)
        optimizer.step()
        schedule.step()
        metrics |= {name: float(value.detach()) for name, value in losses.items()}
        preview = None
        now = time.monotonic()
        if now - previewed > _PREVIEW_SECONDS or step + 1 == total:
            previewed, preview = now, _preview(detector, images[checked[:4]], choice)
        yield Progress("Training", step + 1, total, "steps", dict(metrics), preview)
        if (step + 1) % every and step + 1 < total:
            continue
        current = _held_out_loss(detector, images, checked, choice)
        metrics["held-out loss"] = current
        stale = 0 if current < best * (1 - _LEAST_GAIN) else stale + 1
        if current < best:
            best, best_state = current, _copy(network)
        _save_checkpoint(
            checkpoint,
            {
                "key": key,
                "network": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "best": best,
                "best_state": best_state,
                "stale": stale,
                "step": step + 1,
            },
        )
        if stale >= _PATIENCE:
            break
    network.load_state_dict(best_state)
    network.eval()
    yield Progress("Training", total, total, "steps", {**metrics, "best held-out loss": best})


def _held_out_loss(detector: Detector, images: torch.Tensor, rows: NDArray[np.int64], choice: DeviceChoice) -> float:
    assert detector.network is not None
    detector.network.eval()
    values = []
    with torch.inference_mode(), choice.autocast():
        for i in range(0, len(rows), 16):
            part = images[rows[i : i + 16]].to(choice.device)
            values.append(float(detector.losses(part)["loss"]) * len(part))
    return sum(values) / len(rows)


def _preview(detector: Detector, images: torch.Tensor, choice: DeviceChoice) -> NDArray[np.uint8] | None:
    """Return tiles above their reconstructions, (2·S, n·S, 3) uint8."""
    assert detector.network is not None
    detector.network.eval()
    with torch.inference_mode(), choice.autocast():
        rebuilt = detector.score(images.to(choice.device)).reconstruction
    if rebuilt is None:
        return None
    below = (rebuilt.float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    rows = [np.concatenate(list(part), axis=1) for part in (images.numpy(), below)]
    return np.ascontiguousarray(np.concatenate(rows, axis=0)[::2, ::2])


def _copy(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def _data_key(detector: Detector, tiles: TileSet, seed: int) -> str:
    digest = hashlib.sha256(f"{detector.name} {detector.settings.model_dump_json()} {seed}".encode())
    digest.update(tiles.images[:: max(1, len(tiles) // 16)].tobytes())
    return digest.hexdigest()


def _load_checkpoint(path: Path | None, key: str) -> dict[str, Any] | None:
    if path is None or not path.exists():
        return None
    try:
        saved: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, EOFError, ValueError):
        return None  # cut short: start anew
    return saved if saved.get("key") == key else None


def _save_checkpoint(path: Path | None, state: dict[str, Any]) -> None:
    if path is None:
        return
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as handle:
                torch.save(state, handle)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def train_job(
    sources: Sequence[TrainingSource],
    out: Path,
    *,
    detector: str = "vqvae",
    mpp: float | None = None,
    device: str = "auto",
    seed: int = 0,
    max_tiles: int = MAX_TILES,
    settings: dict[str, Any] | None = None,
) -> Job[Detector]:
    """Gather tiles, train, calibrate and save to ``out``; an interrupted run goes on where it was.

    Raises
    ------
    HistoadError
        See `gather_job`, `fit_job` and `save_detector`.
    """
    given = dict(settings or {})
    torch.manual_seed(seed)
    draft = create_detector(detector, **given, **({} if mpp is None else {"mpp": mpp}))
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.is_dir():
            raise IsADirectoryError(21, "the name is taken by a folder")
    tiles, tile_mpp = yield from gather_job(sources, draft.settings.tile_px, mpp, max_tiles=max_tiles, seed=seed)
    torch.manual_seed(seed)
    trained = create_detector(detector, **given, mpp=tile_mpp)
    checkpoint = out.with_name(f".{out.name}.checkpoint")
    robust = any(source.regions is None and not source.is_tiles for source in sources)
    yield from fit_job(trained, tiles, device=device, seed=seed, robust=robust, checkpoint=checkpoint)
    save_detector(trained, out)
    checkpoint.unlink(missing_ok=True)
    return trained


def train(
    slides: str | PathLike[str] | Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    *,
    normal: str | PathLike[str] | Sequence[str | PathLike[str]] | Sequence[Region] | None = None,
    detector: str = "vqvae",
    slide_mpp: float | None = None,
    mpp: float | None = None,
    device: str = "auto",
    seed: int = 0,
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
        Outlines of normal tissue: one annotation file per slide in the same order, or regions of the only slide.
        Default: all tissue.
    detector : str
        Name of the method.
    slide_mpp : float, optional
        µm per level-0 pixel, where the slides do not say.
    mpp : float, optional
        µm per tile pixel; default 0.5, or the slide's own if that is coarser.
    device : str
        ``auto``, ``cpu``, ``cuda``, ``mps``.
    seed : int
        Same seed, same device: same detector.
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
    sources = training_sources([Path(p) for p in paths], normal, slide_mpp)
    detector_class(detector)
    return run(train_job(sources, Path(out), detector=detector, mpp=mpp, device=device, seed=seed, settings=settings))


def training_sources(paths: Sequence[Path], normal: Any, slide_mpp: float | None) -> list[TrainingSource]:
    """Pair slides with their outlines.

    Raises
    ------
    RegionError
        If there are not as many annotation files as slides, or a file names no normal region.
    """
    if normal is None or normal == "all-tissue" or list(normal) == ["all-tissue"]:
        return [TrainingSource(path, None, slide_mpp) for path in paths]
    given = [normal] if isinstance(normal, str | PathLike) else list(normal)
    if given and isinstance(given[0], Region):
        return [TrainingSource(path, [r for r in given if isinstance(r, Region)], slide_mpp) for path in paths]
    if len(given) != len(paths):
        msg = f"{len(paths)} slides but {len(given)} annotation files were given"
        raise RegionError(msg, "give one annotation file per slide, in the same order, or all-tissue")
    sources = []
    for path, file in zip(paths, given, strict=True):
        regions = read_regions(file)
        named = [region for region in regions if region.name]
        chosen = [region for region in regions if region.is_normal] if named else regions
        if not chosen:
            names = ", ".join(sorted({region.name for region in named}))
            raise RegionError(
                f"{Path(file).name} has no region classed Normal (found: {names})", "class the normal outlines as Normal"
            )
        sources.append(TrainingSource(path, chosen, slide_mpp))
    return sources
