"""Rates of a finished map that are set by outlines of normal tissue on its slide."""

import numpy as np
import pytest
from map_makers import fill_evenly, finish, make_map
from shapely.geometry import box

from napari_histoad import AnomalyMap
from napari_histoad.calibration import Calibration
from napari_histoad.errors import MapError, RegionError, SettingsError
from napari_histoad.evaluation import evaluate
from napari_histoad.maps import recalibrate_map
from napari_histoad.regions import Region

TOP, BOTTOM = Region(box(0, 0, 900, 1700), "Normal"), Region(box(1000, 0, 2000, 1700), "Normal")


@pytest.fixture
def noise(tmp_path):
    """A map of independent scores, which lie 2 above those of the calibration."""
    rng = np.random.default_rng(0)
    calibration = Calibration.from_scores(rng.normal(size=2000))
    result = make_map(tmp_path / "a.ome.zarr", calibration=calibration, fingerprint=None)
    fill_evenly(result, lambda n: rng.normal(2, 1, n))
    finish(result)
    return result


def test_outlines_set_the_rates_of_tiles_and_of_the_blended_map(noise):
    before, scores = noise.p_values, noise.scores
    assert noise.drift_warning in noise.notes
    blended = noise.score_field()
    assert (blended - 2 > noise.calibration.field_threshold(0.01)).mean() < 0.005  # single tiles vary more than their means
    recalibrate_map(noise, [TOP, BOTTOM])
    for result in (noise, AnomalyMap.open(noise.path)):
        assert result.recalibrated
        assert np.array_equal(result.scores, scores)
        assert not np.array_equal(result.p_values, before)
        assert 0.03 < (result.p_values <= 0.05).mean() < 0.07
        for rate in (0.01, 0.05):
            assert 0.7 * rate < (blended > result.calibration.field_threshold(rate)).mean() < 1.3 * rate
        assert "2 outlines of one slide: they are valid for tissue like that outlined" in result.calibration_note
        assert "area of normal tissue" in result.region_note
        assert result.drift_warning is None
        assert not any("median normal tile" in note for note in result.notes)
        assert result.saved_rate == result.default_rate == 0.01
        assert np.array_equal(np.asarray(result.saved_labels), result.flag(0.01))
        assert str(result.calibration.rate_interval(0.01)).endswith("over 2 outlines")


def test_evaluate_measures_the_flagged_area_of_a_recalibrated_map_by_the_threshold_of_its_regions(noise):
    recalibrate_map(noise, [TOP, BOTTOM])
    found = evaluate(noise, [Region(box(0, 0, 300, 300), "Tumor")], rate=0.05)
    assert 0.7 * 0.05 < found.normal_area_flagged < 1.3 * 0.05


def test_recalibration_can_be_repeated(noise):
    recalibrate_map(noise, [TOP])
    first = noise.calibration.scores
    recalibrate_map(noise, [BOTTOM])
    assert not np.array_equal(noise.calibration.scores, first)
    assert np.array_equal(AnomalyMap.open(noise.path).calibration.scores, noise.calibration.scores)


def test_recalibration_is_refused_where_it_would_set_no_true_rate(noise, tmp_path):
    with pytest.raises(RegionError, match="no mapped tile"):
        recalibrate_map(noise, [Region(box(9000, 9000, 9100, 9100), "Normal")])
    with pytest.raises(MapError, match="not finished"):
        recalibrate_map(make_map(tmp_path / "b.ome.zarr"), [TOP])
    noise.info = noise.info.model_copy(update={"trained_on": ["a.tif"]})
    with pytest.raises(SettingsError, match=r"trained on a\.tif"):
        recalibrate_map(noise, [TOP])
    assert not AnomalyMap.open(noise.path).recalibrated
