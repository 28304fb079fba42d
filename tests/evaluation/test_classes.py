from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score
from striped_tiles import labelled

from napari_histoad.classifiers import ClassifierSettings
from napari_histoad.engine import fit_classifier_job, predict_job
from napari_histoad.evaluation import cross_validate_job, notes_on_classes, report_classes
from napari_histoad.jobs import run
from napari_histoad.tiles import TilePlace


def _draw(classes, n=300, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    raw = rng.random((n, classes)) + 0.8 * np.eye(classes)[labels]
    return labels.astype(np.int64), (raw / raw.sum(1, keepdims=True)).astype(np.float32), rng.integers(0, 30, n)


@pytest.mark.parametrize("classes", [2, 4])
def test_report_classes_matches_scikit_learn(classes):
    labels, probabilities, groups = _draw(classes)
    report = report_classes(labels, probabilities, groups)
    said = probabilities.argmax(1)
    assert report.accuracy.value == pytest.approx((said == labels).mean())
    assert report.f1.value == pytest.approx(f1_score(labels, said, average="binary" if classes == 2 else "macro"))
    expected = (
        roc_auc_score(labels, probabilities[:, 1]) if classes == 2 else roc_auc_score(labels, probabilities, multi_class="ovr")
    )
    assert report.auroc.value == pytest.approx(expected, abs=1e-6)
    for interval in (report.accuracy, report.precision, report.recall, report.f1, report.auroc):
        assert interval.low <= interval.value <= interval.high
    assert (report.tiles, report.groups) == (300, 30)


def test_cross_validation_tests_every_tile_once_without_its_label():
    data = labelled(60)
    settings = ClassifierSettings(networks=("base_cnn",), tile_px=64, epochs=15, batch=16, learning_rate=3e-3)
    report = run(cross_validate_job(settings, data, folds=3, device="cpu"))
    assert (report.tiles, report.folds) == (60, 3)
    assert report.auroc.value > 0.8
    # Labels that mean nothing must not be predictable.
    shuffled = labelled(60)
    shuffled.labels[:] = np.random.default_rng(0).permutation(shuffled.labels)
    assert run(cross_validate_job(settings, shuffled, folds=3, device="cpu")).auroc.value < 0.75


def _of_slides(data, *slides):
    places = tuple(TilePlace("s", (0.0, 0.0, 1.0, 1.0)) for _ in data.labels)
    return replace(data, tiles=replace(data.tiles, sources=slides, places=places))


def test_notes_on_classes_state_the_limits():
    even = labelled(40)
    detector = SimpleNamespace(trained_on=("b.tif",))
    assert notes_on_classes(even, None) == ()
    assert notes_on_classes(_of_slides(even, "a.tif", "c.tif"), detector) == ()
    (note,) = notes_on_classes(_of_slides(even, "a.tif", "b.tif"), detector)
    assert note == "the detector was trained on b.tif: expect lower values on other slides"
    (note,) = notes_on_classes(_of_slides(even, "a.tif"), None)
    assert note.startswith("all tiles are from one slide, a.tif")
    (note,) = notes_on_classes(even, None, judged=True)
    assert "not for the whole slide" in note
    (note,) = notes_on_classes(replace(even, labels=(np.arange(40) % 5 == 0).astype(np.int64)), None)
    assert "that of anomalous is higher than its share" in note


def test_rare_class_gets_a_higher_probability():
    """If tiles are identical, the probability of a class with a fifth of the tiles is a half, not a fifth."""
    data = labelled(60)
    rare = replace(data, labels=(np.random.default_rng(0).random(60) < 0.2).astype(np.int64))
    grey = replace(rare, tiles=replace(rare.tiles, images=np.full_like(rare.tiles.images, 128)))
    settings = ClassifierSettings(networks=("base_cnn",), tile_px=64, epochs=3, batch=16)
    said = run(predict_job(run(fit_classifier_job(settings, grey, device="cpu")), grey.tiles.images[:4], "cpu"))
    assert said[:, 1].min() > grey.labels.mean() + 0.1
