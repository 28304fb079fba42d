"""A detector fitted to the slide itself."""

from itertools import groupby

import numpy as np

from napari_histoad.detectors import features_of, load_detector, starter_path
from napari_histoad.engine import self_detector_job
from napari_histoad.jobs import run
from napari_histoad.slide import open_slide
from napari_histoad.tiles import find_tissue


def test_self_detector_reports_progress_in_tiles(sample):
    seen = []
    with open_slide(sample.path) as slide:
        detector = run(self_detector_job(slide, find_tissue(slide), device="cpu"), seen.append)
    assert detector.calibration is not None
    stages = {stage: list(reports) for stage, reports in groupby(seen, lambda p: p.stage)}
    assert list(stages) == ["Reading tiles", "Learning normal from this slide"]
    for reports in stages.values():
        done, totals = [p.done for p in reports], {p.total for p in reports}
        assert {p.unit for p in reports} == {"tiles"}
        assert len(totals) == 1
        assert done == sorted(done)
        assert (done[0], done[-1]) == (0, totals.pop())
        assert np.diff(done).max() <= 64 + 16  # no report is far from the next
    assert len(stages["Reading tiles"]) > 4


def test_features_computed_in_parts_give_the_same_model():
    images = np.random.default_rng(0).integers(0, 256, (128, 64, 64, 3), np.uint8)
    at_once, in_parts = (load_detector(starter_path(), error="mahalanobis", tile_px=64) for _ in range(2))
    at_once.fit(images)
    in_parts.fit_features(features_of(in_parts.features, images, in_parts.device))
    assert all(np.array_equal(value, in_parts.saved_state()[name]) for name, value in at_once.saved_state().items())
