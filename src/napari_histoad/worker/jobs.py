"""The jobs of the background process: one generator each, which takes its arguments and returns its result.

Importing this module loads torch.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histoad.classifiers import ClassifierSettings, classes_of, computes_error_map, load_model, save_classifier
from napari_histoad.detectors import describe_detectors, describe_encoder, fetch_weights, load_detector
from napari_histoad.engine import (
    DetectorView,
    TrainingSource,
    explain_tile,
    fit_classifier_job,
    gather_labelled_job,
    map_job,
    map_path,
    read_tile_at,
    recalibrate_job,
    suspicious_file,
    train_job,
)
from napari_histoad.errors import HistoadError, OtherMapError, SettingsError, writing
from napari_histoad.evaluation import cross_validate_job, notes_on_classes
from napari_histoad.jobs import Job, Progress
from napari_histoad.maps import AnomalyMap, recalibrate_map, save_labels
from napari_histoad.regions import read_regions
from napari_histoad.results import UNSURE, VERDICTS, explanation_panels, exports, write_report
from napari_histoad.samples import SlidePlan, sample_job
from napari_histoad.slide import open_slide, slide_path
from napari_histoad.tiles import find_tissue
from napari_histoad.worker import protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histoad.detectors import Detector
    from napari_histoad.engine import MapOptions
    from napari_histoad.slide import Slide

_VERDICT_TILES, _VERDICT_PX = 400, 128
"""Tiles per verdict (each verdict gives several that overlap its own) and the side they are reduced to: people wait for this."""


def train(args: protocol.Train) -> Job[protocol.Trained]:
    """Train a detector."""
    regions = read_regions(args.regions) if args.regions else None
    detector = yield from train_job(
        [TrainingSource(slide_path(args.slide), regions, args.slide_mpp)],
        args.out,
        detector=args.detector,
        mpp=args.mpp,
        device=args.device,
        refine=args.refine,
        settings=args.settings,
    )
    return _trained(args.out, detector, suspicious_file(args.out) if args.refine else None)


def recalibrate(args: protocol.Recalibrate) -> Job[protocol.Trained]:
    """Set a detector's thresholds by other regions."""
    source = TrainingSource(slide_path(args.slide), read_regions(args.regions), args.slide_mpp)
    detector = yield from recalibrate_job([source], args.model, args.out, device=args.device)
    return _trained(args.out, detector)


def _trained(path: Path, detector: Detector, suspicious: Path | None = None) -> protocol.Trained:
    assert detector.calibration is not None
    return protocol.Trained(path=path, calibration=detector.calibration.note, suspicious=suspicious)


def look_up_encoder(args: protocol.DescribeEncoder) -> Job[protocol.EncoderDescribed]:
    """Describe an encoder's weights; download them if that was asked for."""
    yield Progress("Downloading weights" if args.fetch else "Looking for weights", unit="files")
    known = describe_encoder(args.name)
    file = fetch_weights(args.name) if args.fetch else Path(known["file"]) if known["file"] else None
    return protocol.EncoderDescribed(name=args.name, licence=known["licence"], origin=known["from"], file=file)


def list_detectors(_args: protocol.ListDetectors) -> Job[protocol.DetectorsListed]:
    """List the detectors of all installed packages."""
    yield Progress("Listing detectors")
    return protocol.DetectorsListed(detectors=[found.model_dump() for found in describe_detectors()])


def check_model(args: protocol.CheckModel) -> Job[None]:
    """Open a detector's file."""
    yield Progress("Opening the detector")
    load_model(args.model)


def train_classifier(args: protocol.TrainClassifier) -> Job[protocol.ClassifierTrained]:
    """Train a classifier on verdicts; it uses the detector of the map that they were given on.

    Verdicts are given on unusual tiles only, so ordinary tissue is learnt from the outlines of normal tissue, if there are any.
    """
    detector = load_detector(args.model)
    view = DetectorView.of(detector)
    judged = [region for region in read_regions(args.verdicts) if region.name != UNSURE]
    slide = slide_path(args.slide)
    sources = [TrainingSource(slide, judged, args.slide_mpp)]
    if args.normal:
        ordinary = [replace(region, name=VERDICTS[0]) for region in read_regions(args.normal)]
        sources.append(TrainingSource(slide, ordinary, args.slide_mpp))
    data = yield from gather_labelled_job(
        sources, view.tile_px, view.mpp, max_tiles=_VERDICT_TILES * len(sources), srgb=view.srgb, stain=view.stain
    )
    settings = ClassifierSettings(
        networks=("texture",),
        inputs=("image", "error") if computes_error_map(detector) else ("image",),
        classes=data.classes,
        tile_px=view.tile_px,
        mpp=view.mpp,
        input_px=min(view.tile_px, _VERDICT_PX),
    )
    report = yield from cross_validate_job(settings, data, detector=detector, device=args.device)
    classifier = yield from fit_classifier_job(settings, data, detector=detector, device=args.device)
    save_classifier(classifier, args.out, report.to_json())
    note = "; ".join(notes_on_classes(data, detector if settings.needs_detector else None, judged=True))
    return protocol.ClassifierTrained(path=args.out, auroc=str(report.auroc), verdicts=len(judged), note=note)


def explain(args: protocol.Explain) -> Job[protocol.TileExplained]:
    """Explain the score of a tile."""
    yield Progress("Explaining", 0, 1)
    slide, model = _opened(args.slide, args.slide_mpp, args.model)
    tile = read_tile_at(slide, args.centre, model)
    found = explain_tile(model, tile, device=args.device)
    panels = explanation_panels(tile, found.reconstruction, found.error, found.relevance, found.method)
    words = f"score {found.score:.3g}"
    if found.target is not None:
        name = classes_of(model)[found.target]
        words += f"\n{name} {found.probability:.0%}\n{found.method}: warmer colours contribute more to {name}"
    return protocol.TileExplained(panels=panels, words=words)


_open: dict[tuple[Any, ...], tuple[Slide, Slide, Detector]] = {}
"""Slide, the same slide as its detector sees it, and detector of the last explanation, kept for the next tile."""


def close_slides() -> None:
    """Close what the last explanation left open: Windows refuses to replace an open file."""
    while _open:
        _open.popitem()[1][0].close()


def _opened(path: str, slide_mpp: float | None, model: Path) -> tuple[Slide, Detector]:
    key = (path, slide_mpp, model, model.exists() and model.stat().st_mtime_ns)
    if key not in _open:
        close_slides()
        loaded = load_model(model)
        view = DetectorView.of(loaded)
        slide = open_slide(path, slide_mpp, srgb=view.srgb)
        try:
            _open[key] = slide, view.of_slide(slide, view.measure(slide)), loaded
        except HistoadError:
            slide.close()
            raise
    return _open[key][1:]


def compute_map(args: protocol.ComputeMap) -> Job[protocol.MapComputed]:
    """Compute an anomaly map; one of another detector or other settings at the same path is renamed."""
    with open_slide(args.slide, args.slide_mpp) as slide:
        try:
            result = yield from _map_once(slide, args)
        except OtherMapError:  # the earlier map is kept: it may be damaged, or from another detector
            _set_aside(map_path(slide, args.out))
            result = yield from _map_once(slide, args)
    return protocol.MapComputed(path=result.path)


def _map_once(slide: Slide, args: protocol.ComputeMap) -> Job[AnomalyMap]:
    detector = load_model(args.model) if args.model else None
    options: MapOptions = {"stride_px": args.stride_px, "device": args.device, "artefacts": args.artefacts}
    return (yield from map_job(slide, args.out, detector=detector, **options))


def _set_aside(folder: Path) -> None:
    stem = folder.name.removesuffix(".ome.zarr")
    names = (folder.with_name(f"{stem}.earlier-{n}.ome.zarr") for n in itertools.count(1))
    with writing(folder):
        folder.rename(next(name for name in names if not name.exists()))


def find_tissue_mask(args: protocol.FindTissue) -> Job[protocol.TissueFound]:
    """Find the tissue of a slide."""
    yield Progress("Finding tissue", 0, 1, "slides")
    with open_slide(args.slide, args.slide_mpp) as slide:
        tissue = find_tissue(slide)
        area = tissue.area_mm2(slide.require_mpp())
    with writing(args.out):
        np.save(args.out, tissue.mask)
    return protocol.TissueFound(path=args.out, scale_yx=tissue.scale_yx, area_mm2=area)


def save_results(args: protocol.SaveResults) -> Job[None]:
    """Write exports and the report of a map, and the threshold into the map."""
    result, known = AnomalyMap.open(args.map), {export.name: export for export in exports()}
    if missing := args.exports.keys() - known.keys():
        raise SettingsError(f"there is no export named {', '.join(sorted(missing))}", f"known are {', '.join(known)}")
    result.use_rates_for(args.valid_for)
    result.use_tail(used=args.extrapolated)
    total = len(args.exports) + (args.report is not None) + 1
    with open_slide(args.slide, args.slide_mpp, srgb=True) as slide:
        yield Progress("Saving", 0, total, "files", path=str(args.map))
        save_labels(result, args.rate)
        for done, (name, path) in enumerate(args.exports.items(), start=1):
            yield Progress("Saving", done, total, "files", path=str(path))
            known[name].write(result, path, slide=slide, rate=args.rate)
        if args.report is not None:
            yield Progress("Saving", total - 1, total, "files", path=str(args.report))
            write_report([(result, slide)], args.report, rate=args.rate)


def recalibrate_finished_map(args: protocol.RecalibrateMap) -> Job[None]:
    """Set the rates of a finished map by outlines of normal tissue on its slide."""
    yield Progress("Recalibrating", path=str(args.map))
    recalibrate_map(AnomalyMap.open(args.map), read_regions(args.regions))


def draw_sample(args: protocol.DrawSample) -> Job[None]:
    """Draw the sample slide."""
    yield from sample_job(args.path, SlidePlan(args.size_px))


JOBS: dict[type[protocol.Arguments], Callable[[Any], Job[protocol.Result | None]]] = {
    protocol.FindTissue: find_tissue_mask,
    protocol.Train: train,
    protocol.Recalibrate: recalibrate,
    protocol.DescribeEncoder: look_up_encoder,
    protocol.ListDetectors: list_detectors,
    protocol.CheckModel: check_model,
    protocol.TrainClassifier: train_classifier,
    protocol.Explain: explain,
    protocol.ComputeMap: compute_map,
    protocol.SaveResults: save_results,
    protocol.RecalibrateMap: recalibrate_finished_map,
    protocol.DrawSample: draw_sample,
}
