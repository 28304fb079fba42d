import json
from dataclasses import replace

import numpy as np
import pytest
from shapely.geometry import box

from napari_histoad import AnomalyMap, evaluate, write_geojson
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


@pytest.mark.parametrize("count", [10, 30, 98, 99, 1000])
def test_default_rate_is_one_that_the_calibration_tiles_allow(count):
    labels = np.arange(40) % 2 == 0
    lowest = float(f"{1 / (count + 1):.6g}")  # as a table holds it
    args = labels, labels + 0.0, np.where(labels, lowest, 0.9), np.arange(40)
    found = evaluate_scores(*args, calibration_tiles=count)
    assert found.rate == max(0.01, 1 / (count + 1))
    assert found.sensitivity == 1
    assert found.notes == ()
    below = evaluate_scores(*args, calibration_tiles=count, rate=0.5 / (count + 1))
    assert below.sensitivity == 0
    assert f"{count:,} calibration tiles support no rate below" in below.notes[0]
    unknown = evaluate_scores(*args)
    assert unknown.rate == 0.01
    assert bool(unknown.notes) == (count < 99)


def test_evaluate_scores_refuses_labels_that_are_all_the_same():
    with pytest.raises(SettingsError, match="all labels are the same"):
        evaluate_scores(np.zeros(9, bool), np.zeros(9), np.zeros(9), np.arange(9))


def test_intervals_over_groups_are_wider_than_over_tiles():
    rng = np.random.default_rng(0)
    offsets = rng.normal(0, 1, 20).repeat(30)
    labels, groups = np.arange(600) % 2 == 0, np.arange(20).repeat(30)

    def mean(_labels, scores):
        return float(scores.mean())

    whole, single = (bootstrap(mean, labels, offsets, g) for g in (groups, np.arange(600)))
    assert whole.high - whole.low > 3 * (single.high - single.low)


def test_evaluate_finds_planted_anomalies(map_folder, sample):
    result = AnomalyMap.open(map_folder)
    ours = evaluate(result, sample.plan.planted, rate=0.1)
    assert 0.5 < ours.auroc.value <= 1
    assert ours.lesions == len(sample.plan.planted)
    assert ours.anomalous_tiles > 0
    assert ours.cell_auroc.low <= ours.cell_auroc.value <= ours.cell_auroc.high
    assert list(ours.found_per_mm2.values()) == sorted(ours.found_per_mm2.values())
    names = [name for name, _ in ours.rows()]
    assert len(names[: names.index("Taken as anomalous")]) == 11
    assert sum(ours.anomalous_classes.values()) == ours.lesions
    fewer = evaluate(result, sample.plan.planted, exclude=sample.plan.normal)
    assert fewer.tiles < ours.tiles
    assert fewer.anomalous_tiles == ours.anomalous_tiles


def test_outlines_smaller_than_a_tile_count(map_folder):
    result = AnomalyMap.open(map_folder)
    y, x = result.origins[len(result) // 2] + 20
    evaluation = evaluate(result, [Region(box(y, x, y + 5, x + 5), "Tumor")])
    assert evaluation.anomalous_tiles >= 1


def test_normal_outlines_are_cut_out_of_anomalies(map_folder, sample):
    result = AnomalyMap.open(map_folder)
    with pytest.raises(RegionError, match="no anomalous region"):
        evaluate(result, sample.plan.normal)
    everything = Region(box(0, 0, 2048, 2048), "Tumor")
    with pytest.raises(RegionError, match="all mapped tiles"):
        evaluate(result, [everything])
    with pytest.raises(RegionError, match="no mapped tile"):
        evaluate(result, [Region(box(0, 0, 20, 20), "Tumor")])


def _squares(result, *names):
    """Return an outline of 2 x 2 tiles for each class, on tissue and apart from each other."""
    side, found = result.info.tile_l0, []
    free = np.ones(len(result), bool)
    for name in names:
        y, x = result.origins[np.flatnonzero(free)[len(result) // 8]]
        free &= (np.abs(result.origins - (y, x)) > 4 * side).any(axis=1)
        found.append(Region(box(y, x, y + 2 * side, x + 2 * side), name))
    return found


def test_only_anomalous_classes_count(map_folder):
    result = AnomalyMap.open(map_folder)
    tumour, negative, ignored, plain = _squares(result, "Tumor: Necrosis", "Negative", "Ignore*", "")
    alone = evaluate(result, [tumour])
    assert alone.anomalous_classes == {"Tumor: Necrosis": 1}
    for other in (negative, ignored, plain):
        both = evaluate(result, [tumour, other])
        assert both.anomalous_classes == alone.anomalous_classes
        assert both.lesions == 1
        assert both.anomalous_tiles == alone.anomalous_tiles
        assert both.tiles < alone.tiles  # neither anomalous nor normal
        assert any("neither normal nor anomalous" in note for note in both.notes)
        if other is not plain:
            with pytest.raises(RegionError, match="no anomalous region"):
                evaluate(result, [other])
    assert evaluate(result, [plain]).anomalous_classes == {"": 1}
    normal = evaluate(result, [tumour, replace(negative, name="Normal: CD3+")])
    assert (normal.tiles, normal.lesions) == (alone.tiles, 1)


def test_cells_and_cores_of_an_annotation_file_are_not_anomalies(map_folder, tmp_path):
    result = AnomalyMap.open(map_folder)
    tumour, other, core = _squares(result, "Tumor", "Tumor", "Tumor")
    write_geojson([tumour, other, core], tmp_path / "a.geojson")
    document = json.loads((tmp_path / "a.geojson").read_text())
    document["features"][1]["properties"]["objectType"] = "cell"
    document["features"][2]["properties"]["objectType"] = "tma_core"
    (tmp_path / "a.geojson").write_text(json.dumps(document))
    found = evaluate(result, tmp_path / "a.geojson")
    assert found.lesions == 1
    assert sum("left out" in note for note in found.notes) == 2
    assert json.loads(json.dumps(found.to_json()))["notes"] == list(found.notes)


def test_evaluate_notes_that_the_detector_was_trained_on_the_slide(map_folder, sample):
    result = AnomalyMap.open(map_folder)
    assert result.info.slide in result.info.trained_on
    found = evaluate(result, sample.plan.planted)
    assert "training tiles are included: expect lower values on other slides" in found.notes[-1]
    assert ("Note", found.notes[-1]) in found.rows()
    assert "are left out" in evaluate(result, sample.plan.planted, exclude=sample.plan.normal).notes[-1]
    result.info = result.info.model_copy(update={"trained_on": ["another.svs"]})
    assert not any("trained on" in note for note in evaluate(result, sample.plan.planted).notes)


@pytest.mark.parametrize("rate", [0, 1, -0.1, 2, float("nan"), float("inf")])
def test_impossible_rates_are_refused(map_folder, sample, rate):
    with pytest.raises(SettingsError, match="not between 0 and 1"):
        evaluate(AnomalyMap.open(map_folder), sample.plan.planted, rate=rate)
    labels = np.arange(40) % 2 == 0
    with pytest.raises(SettingsError, match="not between 0 and 1"):
        evaluate_scores(labels, labels + 0.0, np.full(40, 0.5), np.arange(40), rate=rate)
