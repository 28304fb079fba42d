import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score
from striped_tiles import labelled

from napari_histoad.classifiers import ClassifierSettings
from napari_histoad.evaluation import cross_validate_job, report_classes
from napari_histoad.jobs import run


def _draw(classes, n=300, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    raw = rng.random((n, classes)) + 0.8 * np.eye(classes)[labels]
    return labels.astype(np.int64), (raw / raw.sum(1, keepdims=True)).astype(np.float32), rng.integers(0, 30, n)


@pytest.mark.parametrize("classes", [2, 4])
def test_figures_are_those_of_scikit_learn(classes):
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


def test_cross_validation_tests_every_tile_once_and_knows_no_labels_it_should_not():
    data = labelled(60)
    settings = ClassifierSettings(networks=("base_cnn",), tile_px=64, epochs=15, batch=16, learning_rate=3e-3)
    report = run(cross_validate_job(settings, data, folds=3, device="cpu"))
    assert (report.tiles, report.folds) == (60, 3)
    assert report.auroc.value > 0.8
    # Labels that mean nothing must not be predictable.
    shuffled = labelled(60)
    shuffled.labels[:] = np.random.default_rng(0).permutation(shuffled.labels)
    assert run(cross_validate_job(settings, shuffled, folds=3, device="cpu")).auroc.value < 0.75
