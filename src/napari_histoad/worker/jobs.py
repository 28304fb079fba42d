"""The jobs of the background process: one function each, which takes its arguments and returns its result."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histoad.errors import HistoadError, OtherMapError, writing
from napari_histoad.worker.protocol import as_png

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histoad.detectors import Detector
    from napari_histoad.jobs import Job
    from napari_histoad.maps import AnomalyMap
    from napari_histoad.slide import Slide

__all__ = ["JOBS", "let_go"]

_VERDICT_TILES, _VERDICT_PX = 400, 128
"""Each verdict gives several tiles that overlap its own; they are shrunk, for people wait for what they have taught."""


def _train(args: dict[str, Any]) -> Job[dict[str, Any]]:
    from napari_histoad.engine import TrainingSource, suspicious_file, train_job
    from napari_histoad.regions import read_regions
    from napari_histoad.slide import slide_path

    regions = read_regions(args["regions"]) if args.get("regions") else None
    source = TrainingSource(slide_path(args["slide"]), regions, args.get("slide_mpp"))
    detector = yield from train_job(
        [source],
        Path(args["out"]),
        detector=args.get("detector", "vqvae"),
        mpp=args.get("mpp"),
        device=args.get("device", "auto"),
        refine=args.get("refine"),
        settings=args.get("settings"),
    )
    assert detector.calibration is not None
    listed = str(suspicious_file(Path(args["out"]))) if args.get("refine") else None
    return {"path": args["out"], "calibration": detector.calibration.note, "suspicious": listed}


def _encoder(args: dict[str, Any]) -> Job[dict[str, Any]]:
    """Say what is known of an encoder's weights; download them if that was asked for."""
    from napari_histoad.detectors import describe_backbone, fetch_weights
    from napari_histoad.jobs import Progress

    name, fetch = args["name"], args.get("fetch", False)
    yield Progress("Downloading weights" if fetch else "Looking for weights", unit="files")
    known = describe_backbone(name)
    if fetch:
        known["file"] = str(fetch_weights(name))
    return known


def _detectors(_args: dict[str, Any]) -> Job[dict[str, Any]]:
    """List the detectors of all installed packages."""
    from napari_histoad.detectors import describe_detectors
    from napari_histoad.jobs import Progress

    yield Progress("Listing detectors")
    return {"detectors": [found.model_dump() for found in describe_detectors()]}


def _check(args: dict[str, Any]) -> Job[dict[str, Any]]:
    """Open a detector's file, so that one that cannot be used is refused when it is chosen."""
    from napari_histoad.classifiers import load_model
    from napari_histoad.jobs import Progress

    yield Progress("Opening the detector")
    load_model(args["model"])
    return {"path": args["model"]}


def _recalibrate(args: dict[str, Any]) -> Job[dict[str, Any]]:
    from napari_histoad.engine import TrainingSource, recalibrate_job
    from napari_histoad.regions import read_regions
    from napari_histoad.slide import slide_path

    source = TrainingSource(slide_path(args["slide"]), read_regions(args["regions"]), args.get("slide_mpp"))
    detector = yield from recalibrate_job([source], Path(args["model"]), Path(args["out"]), device=args.get("device", "auto"))
    assert detector.calibration is not None
    return {"path": args["out"], "calibration": detector.calibration.note, "suspicious": None}


def _classify(args: dict[str, Any]) -> Job[dict[str, Any]]:
    """Train a classifier on verdicts, beside the detector of the map that they were given on.

    Verdicts are on what stands out. What ordinary tissue looks like is learnt from the outlines of normal tissue, else the
    classifier guesses there.
    """
    from napari_histoad.classifiers import ClassifierSettings, gives_error, save_classifier
    from napari_histoad.detectors import load_detector
    from napari_histoad.engine import TrainingSource, fit_classifier_job, gather_labelled_job, stain_of
    from napari_histoad.evaluation import cross_validate_job, notes_on_classes
    from napari_histoad.regions import read_regions
    from napari_histoad.results import UNSURE, VERDICTS
    from napari_histoad.slide import slide_path

    detector, device = load_detector(args["model"]), args.get("device", "auto")
    side, mpp = detector.settings.tile_px, detector.settings.mpp
    judged = [region for region in read_regions(args["verdicts"]) if region.name != UNSURE]
    slide, slide_mpp = slide_path(args["slide"]), args.get("slide_mpp")
    sources = [TrainingSource(slide, judged, slide_mpp)]
    if args.get("normal"):
        ordinary = [replace(region, name=VERDICTS[0]) for region in read_regions(args["normal"])]
        sources.append(TrainingSource(slide, ordinary, slide_mpp))
    data = yield from gather_labelled_job(
        sources, side, mpp, max_tiles=_VERDICT_TILES * len(sources), srgb=detector.settings.srgb, stain=stain_of(detector)
    )
    settings = ClassifierSettings(
        networks=("texture",),
        inputs=("image", "error") if gives_error(detector) else ("image",),
        classes=data.classes,
        tile_px=side,
        mpp=mpp,
        input_px=min(side, _VERDICT_PX),
    )
    report = yield from cross_validate_job(settings, data, detector=detector, device=device)
    classifier = yield from fit_classifier_job(settings, data, detector=detector, device=device)
    save_classifier(classifier, args["out"], report.to_json())
    note = "; ".join(notes_on_classes(data, detector if settings.needs_detector else None, judged=True))
    return {"path": args["out"], "auroc": str(report.auroc), "verdicts": len(judged), "folds": report.folds, "note": note}


def _explain(args: dict[str, Any]) -> Job[dict[str, Any]]:
    from napari_histoad.classifiers import classes_of
    from napari_histoad.engine import explain_tile, read_tile_at
    from napari_histoad.jobs import Progress
    from napari_histoad.results import explanation_panels

    yield Progress("Explaining", 0, 1)
    (slide, model), (y, x) = _explaining(args["slide"], args.get("slide_mpp"), args["model"]), args["centre"]
    tile = read_tile_at(slide, (y, x), model)
    found = explain_tile(model, tile, device=args.get("device", "auto"))
    panels = explanation_panels(tile, found.reconstruction, found.error, found.relevance, found.method)
    words = f"score {found.score:.3g}"
    if found.target is not None:
        name = classes_of(model)[found.target]
        words += f"\n{name} {found.probability:.0%}\n{found.method}: the warmer a place, the more it speaks for {name}"
    return {"panels": [(title, as_png(picture)) for title, picture in panels], "words": words}


_kept: dict[tuple[Any, ...], tuple[Slide, Slide, Detector]] = {}
"""Of the last explanation: slide, slide as seen, detector. The next tile's need not open, load and measure stains again."""


def let_go() -> None:
    """Close what the last explanation kept: Windows lets nobody replace a file that is open."""
    while _kept:
        _kept.popitem()[1][0].close()


def _explaining(slide: str, slide_mpp: float | None, model: str) -> tuple[Slide, Detector]:
    from napari_histoad.classifiers import load_model
    from napari_histoad.engine import seen_by
    from napari_histoad.slide import open_slide

    key = (slide, slide_mpp, model, Path(model).exists() and Path(model).stat().st_mtime_ns)
    if key not in _kept:
        let_go()
        loaded = load_model(model)
        opened = open_slide(slide, slide_mpp, srgb=loaded.settings.srgb)
        try:
            _kept[key] = opened, seen_by(loaded, opened), loaded
        except HistoadError:
            opened.close()
            raise
    return _kept[key][1:]


def _map(args: dict[str, Any]) -> Job[dict[str, Any]]:
    from napari_histoad.engine import map_path
    from napari_histoad.slide import open_slide

    with open_slide(args["slide"], args.get("slide_mpp")) as slide:
        try:
            result = yield from _map_once(slide, args)
        except OtherMapError:
            # A user who chose another detector wants its map, and may want the earlier one too, or what is left of it.
            _set_aside(map_path(slide, Path(args["out"])))
            result = yield from _map_once(slide, args)
    return {"path": str(result.path), "failed": result.info.failed_tiles}


def _map_once(slide: Slide, args: dict[str, Any]) -> Job[AnomalyMap]:
    from napari_histoad.classifiers import load_model
    from napari_histoad.engine import map_job

    detector = load_model(args["model"]) if args.get("model") else None
    out, device = Path(args["out"]), args.get("device", "auto")
    return (yield from map_job(slide, out, detector=detector, stride_px=args.get("stride_px"), device=device))


def _set_aside(folder: Path) -> None:
    stem = folder.name.removesuffix(".ome.zarr")
    names = (folder.with_name(f"{stem}.earlier-{n}.ome.zarr") for n in itertools.count(1))
    with writing(folder):
        folder.rename(next(name for name in names if not name.exists()))


def _tissue(args: dict[str, Any]) -> Job[dict[str, Any]]:
    from napari_histoad.jobs import Progress
    from napari_histoad.slide import open_slide
    from napari_histoad.tiles import find_tissue

    yield Progress("Finding tissue", 0, 1, "slides")
    with open_slide(args["slide"], args.get("slide_mpp")) as slide:
        tissue = find_tissue(slide)
        area = tissue.area_mm2(slide.require_mpp())
    with writing(args["out"]):
        np.save(args["out"], tissue.mask)
    return {"path": args["out"], "scale_yx": list(tissue.scale_yx), "area_mm2": area}


def _save(args: dict[str, Any]) -> Job[dict[str, Any]]:
    from napari_histoad.jobs import Progress
    from napari_histoad.maps import AnomalyMap
    from napari_histoad.results import export_geojson, export_png, write_report
    from napari_histoad.slide import open_slide

    result, rate, files = AnomalyMap.open(args["map"]), args["rate"], [Path(f) for f in args["files"]]
    with open_slide(args["slide"], args.get("slide_mpp"), srgb=True) as slide:
        yield Progress("Saving", 0, 4, "files", path=str(files[0].parent))
        result.save_labels(rate)
        yield Progress("Saving", 1, 4, "files", path=str(files[0]))
        export_geojson(result, files[0], rate)
        yield Progress("Saving", 2, 4, "files", path=str(files[1]))
        export_png(result, slide, files[1], rate=rate)
        yield Progress("Saving", 3, 4, "files", path=str(files[2]))
        write_report([(result, slide)], files[2], rate=rate)
    return {"files": [str(f) for f in files]}


def _sample(args: dict[str, Any]) -> Job[dict[str, Any]]:
    from napari_histoad.samples import SlidePlan, sample_job

    path = yield from sample_job(args["path"], SlidePlan(args["size_px"]))
    return {"path": str(path)}


JOBS: dict[str, Callable[[dict[str, Any]], Job[dict[str, Any]]]] = {
    "train": _train,
    "encoder": _encoder,
    "detectors": _detectors,
    "check": _check,
    "recalibrate": _recalibrate,
    "classify": _classify,
    "explain": _explain,
    "map": _map,
    "tissue": _tissue,
    "save": _save,
    "sample": _sample,
}
