import numpy as np
import pytest
from shapely.geometry import box

from napari_histoad import AnomalyMap, evaluate
from napari_histoad.errors import RegionError, SettingsError
from napari_histoad.evaluation import bootstrap, evaluate_scores
from napari_histoad.regions import Region


def test_perfect_and_useless_scores():
    labels = np.arange(400) % 4 == 0
    groups = np.arange(400) // 10
    good = evaluate_scores(labels, labels + 0.0, np.where(labels, 0.001, 0.5), groups)
    assert good.auroc.value == good.average_precision.value == good.f1 == good.sensitivity == 1
    assert good.false_positive_rate == 0
    bad = evaluate_scores(labels, np.random.default_rng(0).random(400), np.full(400, 0.5), groups)
    assert bad.auroc.low < 0.5 < bad.auroc.high
    assert bad.sensitivity == 0


def test_one_kind_of_label_is_refused():
    with pytest.raises(SettingsError, match="all alike"):
        evaluate_scores(np.zeros(9, bool), np.zeros(9), np.zeros(9), np.arange(9))


def test_intervals_over_groups_are_wider_than_over_tiles():
    rng = np.random.default_rng(0)
    offsets = rng.normal(0, 1, 20).repeat(30)
    labels, groups = np.arange(600) % 2 == 0, np.arange(20).repeat(30)

    def mean(_labels, scores):
        return float(scores.mean())

    whole, single = (bootstrap(mean, labels, offsets, g) for g in (groups, np.arange(600)))
    assert whole.high - whole.low > 3 * (single.high - single.low)


def test_a_map_against_its_planted_anomalies(map_folder, sample):
    result = AnomalyMap.open(map_folder)
    ours = evaluate(result, sample.plan.planted, rate=0.1)
    assert 0.5 < ours.auroc.value <= 1
    assert ours.lesions == len(sample.plan.planted)
    assert ours.anomalous_tiles > 0
    assert len(ours.rows()) == 6
    fewer = evaluate(result, sample.plan.planted, exclude=sample.plan.normal)
    assert fewer.tiles < ours.tiles
    assert fewer.anomalous_tiles == ours.anomalous_tiles


def test_outlines_smaller_than_a_tile_count(map_folder):
    result = AnomalyMap.open(map_folder)
    y, x = result.origins[len(result) // 2] + 20
    evaluation = evaluate(result, [Region(box(y, x, y + 5, x + 5), "Tumor")])
    assert evaluation.anomalous_tiles >= 1


def test_normal_regions_are_holes(map_folder, sample):
    result = AnomalyMap.open(map_folder)
    with pytest.raises(RegionError, match="no anomalous region"):
        evaluate(result, sample.plan.normal)
    everything = Region(box(0, 0, 2048, 2048), "Tumor")
    with pytest.raises(RegionError, match="all mapped tiles"):
        evaluate(result, [everything])
    with pytest.raises(RegionError, match="no mapped tile"):
        evaluate(result, [Region(box(0, 0, 20, 20), "Tumor")])
