"""What the error rates of a map are valid for: stored with it, chosen anew, and saved with its regions."""

import json

import numpy as np
import pyarrow.csv
import pytest
from map_makers import fill, fill_evenly, finish, make_map

from napari_histoad import AnomalyMap
from napari_histoad.calibration import Calibration, CalibrationBasis
from napari_histoad.errors import SettingsError
from napari_histoad.maps import save_labels
from napari_histoad.results import exports, provenance, write_exports, write_report


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A map of a slide that is not among the 25 of the calibration, whose scores differ."""
    scores = np.linspace(0, 0.9, 250).reshape(25, 10)
    slides = np.repeat(np.arange(25), 10)
    basis = CalibrationBasis("slides", sources=25, names=("b.tif",))
    calibration = Calibration.from_scores(scores, groups=slides, slides=slides, basis=basis)
    path = tmp_path_factory.mktemp("rates") / "a.ome.zarr"
    result = make_map(path, calibration=calibration, calibration_basis=calibration.basis)
    fill(result, range(result.block_count))
    finish(result)
    return result.path


def test_map_keeps_the_groups_of_its_calibration_and_gives_either_p_value(folder):
    result = AnomalyMap.open(folder)
    assert result.calibration.valid_for == "similar"
    assert np.array_equal(result.p_values, result.calibration.p_value(result.scores))
    similar = result.p_values
    result.use_rates_for("new-slide")
    assert result.calibration.smallest_rate == pytest.approx(1 / 26)
    assert np.array_equal(result.p_values, result.calibration.p_value(result.scores))
    assert not np.array_equal(result.p_values, similar)
    assert result.default_rate == pytest.approx(1 / 26)
    assert "valid, on average, for a new slide" in result.calibration_note
    result.use_rates_for(None)
    assert result.calibration.valid_for == "new-slide"
    assert provenance(result, 0.1)["rates_valid_for"] == "new-slide"
    assert provenance(result, 0.1)["left_out_rates"]["groups"] == 25


def test_the_choice_is_saved_with_the_regions(folder, tmp_path):
    result = AnomalyMap.open(folder)
    result.use_rates_for("new-slide")
    save_labels(result, 0.1)
    again = AnomalyMap.open(folder)
    assert (again.calibration.valid_for, again.saved_rate, again.default_rate) == ("new-slide", 0.1, 0.1)
    assert np.array_equal(np.asarray(again.saved_labels), result.flag(0.1))
    again.use_rates_for("similar")
    assert again.default_rate == again.calibration.default_rate  # the saved rate is one for a new slide
    write_report([(result, None)], tmp_path / "r.html")
    words = (tmp_path / "r.html").read_text()
    assert "10% nominal; " in words
    assert "over 90% of 25 slides (each left out of the calibration in turn)" in words
    assert "25 slides, each of which counts equally" in words


def test_a_map_of_an_earlier_version_has_rates_for_similar_tissue_only(tmp_path):
    result = make_map(tmp_path / "a.ome.zarr")
    described = json.loads((result.path / "zarr.json").read_text())
    del described["attributes"]["napari_histoad"]["valid_for"]
    (result.path / "zarr.json").write_text(json.dumps(described))
    old = AnomalyMap.open(result.path)
    assert old.calibration.valid_for == "similar"
    assert old.calibration.rate_interval(0.1) is None
    with pytest.raises(SettingsError, match="not known"):
        old.use_rates_for("new-slide")


@pytest.fixture
def rare(tmp_path):
    """A map with thirty tiles that score far above its 1,000 calibration tiles, of ten outlines, and all others below."""
    rng = np.random.default_rng(0)
    groups, basis = np.arange(1000) % 10, CalibrationBasis("outlines", sources=1, outlined=True, names=("a.tif",))
    calibration = Calibration.from_scores(rng.normal(size=1000), groups=groups, slides=0 * groups, basis=basis)
    result = make_map(tmp_path / "a.ome.zarr", calibration=calibration, calibration_basis=calibration.basis, stride_px=64)
    high = iter([40.0] * 30)
    fill_evenly(result, lambda n: np.array([next(high, -1.0) for _ in range(n)]))
    finish(result)
    return AnomalyMap.open(result.path)


def test_false_discoveries_of_few_tiles_are_found_by_extrapolated_p_values_which_are_saved_and_marked(rare, tmp_path):
    assert len(rare) > 500
    (csv, parquet) = (export for export in exports() if export.name in ("csv", "parquet"))
    write_exports(rare, [csv], tmp_path / "plain")
    assert provenance(rare)["extrapolated_below"] is None
    assert "extrapolated" not in pyarrow.csv.read_csv(tmp_path / "plain" / "a.tiles.csv").column_names
    found = rare.use_discovery_rate(0.01)
    assert (found.flagged, found.reached) == (30, 30)
    assert found.rate < 1 / 1001
    assert ((rare.p_values <= found.rate) == (rare.scores == 40)).all()
    save_labels(rare, found.rate)
    for result in (rare, AnomalyMap.open(rare.path)):
        assert result.default_rate == found.rate
        assert result.calibration.extrapolated
        assert np.count_nonzero(result.flag()) == np.count_nonzero(np.asarray(rare.saved_labels)) > 0
        assert "P-values below 0.001 are extrapolated" in result.calibration_note
        assert provenance(result)["extrapolated_below"] == pytest.approx(1 / 1001)
        files = write_exports(result, [csv, parquet], tmp_path / "finer")
        table = pyarrow.csv.read_csv(files[0])
        assert np.array_equal(table["extrapolated"].to_numpy(zero_copy_only=False), result.scores == 40)
    write_report([(rare, None)], tmp_path / "r.html")
    assert "(extrapolated)</td>" in (tmp_path / "r.html").read_text()
    rare.use_tail(used=False)
    assert not rare.flag(found.rate).any()
