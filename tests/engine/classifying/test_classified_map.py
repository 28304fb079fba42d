"""A map with class probabilities beside the anomaly score, made in one pass."""

import csv
from itertools import pairwise

import numpy as np
import pytest
import torch

from napari_histoad import AnomalyMap, load_detector, map_slide
from napari_histoad.classifiers import (
    ClassifierSettings,
    ClassifyingDetector,
    load_classifier,
    load_model,
    save_classifier,
    save_model,
)
from napari_histoad.engine import TrainingSource, fit_classifier_job, gather_labelled_job, map_job
from napari_histoad.errors import BundleError, OtherMapError
from napari_histoad.jobs import run
from napari_histoad.regions import Region, coverage
from napari_histoad.results import CsvExport
from napari_histoad.slide import open_slide


@pytest.fixture(scope="module")
def bundle(sample, detector_file, tmp_path_factory):
    """The sample's detector with a classifier of normal tissue against the planted anomalies."""
    regions = [*sample.plan.normal, *(Region(r.geometry, "Anomaly") for r in sample.plan.planted)]
    detector = load_detector(detector_file)
    source, side = TrainingSource(sample.path, regions), detector.settings.tile_px
    data = run(gather_labelled_job([source], side, detector.settings.mpp, max_tiles=300))
    settings = ClassifierSettings(
        networks=("texture",), inputs=("image", "error"), classes=data.classes, tile_px=side, mpp=data.mpp
    )
    classifier = run(fit_classifier_job(settings, data, detector=detector, device="cpu"))
    return save_classifier(classifier, tmp_path_factory.mktemp("bundle") / "both.safetensors")


@pytest.fixture(scope="module")
def classified(sample, bundle, tmp_path_factory):
    return map_slide(sample.path, tmp_path_factory.mktemp("map"), model=bundle, stride_px=64, cell_um=2.0, device="cpu")


def test_classified_map_has_the_scores_of_the_detector_alone(classified, sample, detector_file, tmp_path):
    alone = map_slide(sample.path, tmp_path, model=detector_file, stride_px=64, cell_um=2.0, device="cpu")
    assert np.array_equal(alone.scores, classified.scores)
    assert np.array_equal(np.asarray(alone.levels[0]), np.asarray(classified.levels[0]), equal_nan=True)
    assert alone.info.classes == ()
    assert alone.probabilities.shape == (len(alone), 0)
    assert not (alone.path / "classes").exists()


def test_classified_map_has_probabilities_that_sum_to_one_per_tile(classified, sample):
    assert classified.info.classes == ("Normal", "Anomaly")
    p = classified.probabilities
    assert p.shape == (len(classified), 2)
    assert np.allclose(p.sum(1), 1, atol=1e-5)
    inside = coverage(classified.boxes, sample.plan.planted) > 0.5
    assert np.median(p[inside, 1]) > 0.7
    assert np.median(p[coverage(classified.boxes, sample.plan.planted) == 0, 1]) < 0.3


def test_classified_map_has_an_aligned_pyramid_per_class(classified):
    for k in range(2):
        levels = [np.asarray(level) for level in classified.class_levels(k)]
        assert [level.shape for level in levels] == [level.shape for level in classified.levels]
        assert np.array_equal(np.isnan(levels[0]), np.isnan(np.asarray(classified.levels[0])))
        assert np.array_equal(levels[0], classified.field(f"probability_{k}"), equal_nan=True)
        assert np.nanmin(levels[0]) >= 0
        assert np.nanmax(levels[0]) <= 1 + 1e-5
        for finer, coarser in pairwise(levels):  # means of what is scored, as in the anomaly's pyramid
            for y, x in np.ndindex(coarser.shape):
                cells = finer[2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
                expected = np.nan if np.isnan(cells).all() else np.nanmean(cells)
                assert coarser[y, x] == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_csv_export_has_a_column_per_class(classified, tmp_path):
    CsvExport().write(classified, tmp_path / "tiles.csv")
    with (tmp_path / "tiles.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert float(rows[0]["p_Anomaly"]) == pytest.approx(classified.probabilities[0, 1], abs=1e-5)


def test_classified_map_has_the_same_bytes_after_an_interruption(classified, sample, bundle, tmp_path):
    options = {"detector": load_model(bundle), "stride_px": 64, "cell_um": 2.0, "device": "cpu"}
    with open_slide(sample.path) as slide:
        job = map_job(slide, tmp_path, **options)
        for progress in job:
            if progress.stage == "Mapping" and progress.done > 100:
                break
        job.close()
        result = run(map_job(slide, tmp_path, **options))
    first, second = (
        {p.relative_to(m.path): p.read_bytes() for p in m.path.rglob("*") if p.is_file()} for m in (classified, result)
    )
    assert first == second


def test_map_refuses_to_continue_with_another_classifier(classified, sample, bundle, detector_file, tmp_path):
    other = load_classifier(bundle)
    other.temperatures = other.temperatures * 2
    file = save_model(ClassifyingDetector(other), tmp_path / "other.safetensors")
    with pytest.raises(OtherMapError, match="detector"):
        map_slide(sample.path, classified.path.parent, model=file, stride_px=64, cell_um=2.0, device="cpu")
    with pytest.raises(OtherMapError, match="classes"):
        map_slide(sample.path, classified.path.parent, model=detector_file, stride_px=64, cell_um=2.0, device="cpu")


def test_cluster_gives_the_same_probabilities(classified, sample, bundle, tmp_path):
    from distributed import LocalCluster

    from napari_histoad.engine.mapping._cluster import Cluster

    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as local,
        Cluster(local.scheduler_address) as cluster,
        open_slide(sample.path) as slide,
    ):
        spread = run(map_job(slide, tmp_path, detector=load_model(bundle), stride_px=64, device="cpu", cluster=cluster))
    assert np.array_equal(spread.probabilities, classified.probabilities)


def test_load_model_returns_a_detector_or_a_classifying_detector(bundle, detector_file, tmp_path):
    both, alone = load_model(bundle), load_model(detector_file)
    assert isinstance(both, ClassifyingDetector)
    assert not isinstance(alone, ClassifyingDetector)
    images = torch.full((2, 64, 64, 3), 180, dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(both.score(images).score, alone.score(images).score)
        assert alone.score(images).probabilities is None
    lonely = load_classifier(bundle)
    lonely.detector = None
    with pytest.raises(BundleError, match="no detector"):
        ClassifyingDetector(lonely)


def test_open_reads_the_classes_of_a_finished_map(classified):
    assert AnomalyMap.open(classified.path).info.classes == ("Normal", "Anomaly")
