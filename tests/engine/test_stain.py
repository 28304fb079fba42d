"""Stain normalisation from training to map, on one machine and on a cluster."""

import csv

import numpy as np
import pytest
from PIL import Image

from napari_histoad import find_tissue, load_detector, map_slide, open_slide, train
from napari_histoad.engine import DetectorView, TrainingSource, gather_labelled_job, score_files_job
from napari_histoad.errors import SettingsError
from napari_histoad.jobs import run
from napari_histoad.regions import Region
from napari_histoad.slide import convert_job
from napari_histoad.slide._array import ArraySlide
from napari_histoad.tiles import Stain, list_tile_files


@pytest.fixture(scope="module")
def other_lab(sample, tmp_path_factory):
    """The sample slide as a laboratory with a stronger, bluer stain would give it."""
    path = tmp_path_factory.mktemp("lab") / "other.tif"
    with open_slide(sample.path) as slide:
        pixels = slide.read(0, 0, 0, *slide.shape) / 255
    bluer = np.exp(np.log(np.maximum(pixels, 1 / 255)) @ np.array([[1.3, 0.1, 0.0], [0.05, 1.2, 0.0], [0.0, 0.0, 1.0]]))
    run(convert_job(ArraySlide([np.rint(255 * bluer.clip(0, 1)).astype(np.uint8)], "other", mpp=0.5), path))
    return path


@pytest.fixture(scope="module", params=["none", "macenko"])
def detector_at(request, sample, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "d.safetensors"
    train(sample.path, path, normal=sample.plan.normal, detector="colour", tile_px=64, mpp=1.0, stain=request.param)
    return path


def test_normalised_scores_do_not_depend_on_the_stain(sample, other_lab, detector_at, tmp_path):
    detector = load_detector(detector_at)
    assert bool(detector.stain_target) == (detector.settings.stain == "macenko")
    here, there = (map_slide(p, tmp_path, model=detector_at, stride_px=64) for p in (sample.path, other_lab))
    flagged = [float((m.p_values <= 0.01).mean()) for m in (here, there)]
    assert bool(here.info.stain) == (detector.settings.stain == "macenko")
    if detector.settings.stain == "none":
        assert flagged[1] > flagged[0] + 0.4
    else:
        assert flagged[1] < flagged[0] + 0.1


def test_recalibration_and_a_cluster_use_the_same_normalisation(sample, other_lab, tmp_path):
    from distributed import Client, LocalCluster

    from napari_histoad import recalibrate
    from napari_histoad.engine.mapping._cluster import Cluster
    from napari_histoad.engine.mapping._map import map_job

    model, out = tmp_path / "d.safetensors", tmp_path / "r.safetensors"
    train(sample.path, model, normal=sample.plan.normal, detector="colour", tile_px=64, mpp=1.0, stain="reinhard")
    again = recalibrate(model, other_lab, out, normal=sample.plan.normal)
    assert load_detector(out).stain_target == load_detector(model).stain_target != ()
    plain = recalibrate(model, other_lab, out, normal=sample.plan.normal, seed=1)
    assert np.median(again.calibration.scores) == pytest.approx(np.median(plain.calibration.scores), rel=0.2)
    alone = map_slide(other_lab, tmp_path / "alone", model=model, stride_px=64, device="cpu")
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as local,
        Client(local),
        Cluster(local.scheduler_address) as cluster,
        open_slide(other_lab) as slide,
    ):
        spread = run(
            map_job(slide, tmp_path / "spread", detector=load_detector(model), stride_px=64, device="cpu", cluster=cluster)
        )
    assert np.array_equal(alone.scores, spread.scores, equal_nan=True)


def test_tile_files_are_normalised(sample, tmp_path):
    folder = tmp_path / "tiles"
    folder.mkdir()
    with open_slide(sample.path) as slide, (folder / "manifest.csv").open("w", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["file", "label", "group"])
        for k, (y, x) in enumerate(np.random.default_rng(0).integers(500, 1400, (60, 2)).tolist()):
            Image.fromarray(slide.read(0, y, x, 64, 64)).save(folder / f"{k}.png")
            table.writerow([f"{k}.png", 0, k % 6])
    model = tmp_path / "d.safetensors"
    detector = train(folder / "manifest.csv", model, detector="colour", tile_px=64, stain="macenko")
    scores = run(score_files_job(detector, list_tile_files(folder / "manifest.csv"), "cpu")).scores
    assert np.median(scores) < np.quantile(detector.calibration.scores, 0.9)


def test_jitter_without_steps_is_refused(sample, tmp_path):
    with pytest.raises(SettingsError, match="stain_jitter has no effect"):
        train(sample.path, tmp_path / "d.safetensors", detector="texture", stain_jitter=0.2)


def test_stain_jitter_changes_the_weights_and_is_recorded(sample, tmp_path):
    weights = []
    for strength in (0.0, 0.2, 0.2):
        path = tmp_path / "d.safetensors"
        options = {"tile_px": 64, "max_steps": 4, "batch": 4, "device": "cpu", "stain_jitter": strength}
        train(sample.path, path, normal=sample.plan.normal, **options)
        detector = load_detector(path)
        assert detector.settings.stain_jitter == strength
        weights.append(next(iter(detector.network.parameters())).detach().clone())
    assert not np.array_equal(weights[0], weights[1])
    assert np.array_equal(weights[1], weights[2])


def test_classifier_trains_on_tiles_normalised_as_in_a_map(sample, other_lab, detector_at):
    detector = load_detector(detector_at)
    regions = [*sample.plan.normal, *(Region(r.geometry, "Anomaly") for r in sample.plan.planted)]
    plain, given = (
        run(gather_labelled_job([TrainingSource(other_lab, regions)], 64, 1.0, max_tiles=100, stain=stain))
        for stain in (None, DetectorView.of(detector).stain)
    )
    if detector.settings.stain == "none":
        assert np.array_equal(plain.tiles.images, given.tiles.images)
        return
    with open_slide(other_lab) as slide:
        own = Stain.of_slide(slide, find_tissue(slide), "macenko", tile_px=64, mpp=1.0)
    expected = plain.tiles.images.copy()
    own.to(DetectorView.of(detector).stain)(expected)
    # The same but for the order of recolouring and shrinking.
    assert np.abs(given.tiles.images.astype(int) - expected).mean() < 2
    assert np.abs(given.tiles.images.astype(int) - plain.tiles.images).mean() > 5
