"""Step 6: what the rates of a map are valid for, from the choice in the panel to the saved files."""

import json
import shutil
from dataclasses import asdict

import numpy as np
import pytest
import zarr

from napari_histoad import AnomalyMap
from napari_histoad.calibration import CalibrationBasis
from napari_histoad.gui.sections.review import BY_DISCOVERIES, BY_FALSE_POSITIVES

MISSING = "With 8 slides no rate below 11.1% can be promised for a new slide; outline normal tissue on this slide to recalibrate"


@pytest.fixture
def result(map_folder, tmp_path):
    """The map of a slide that is not among the eight of its calibration."""
    path = shutil.copytree(map_folder, tmp_path / "maps" / "sample.ome.zarr")
    group = zarr.open_group(path, mode="r+")
    count = group["calibration"].shape[0]
    group["calibration_slides"][:] = np.arange(count, dtype=np.int32) % 8
    basis = CalibrationBasis("slides", sources=8, tiles=count, groups=8, slides=8, names=("b.tif",))
    about = {**group.attrs["napari_histoad"], "calibration_basis": asdict(basis), "calibration_note": basis.describe("similar")}
    group.attrs["napari_histoad"] = about
    return AnomalyMap.open(path)


def test_choosing_rates_for_a_new_slide_moves_the_threshold_and_says_what_is_missing(viewer, panel, words, sample, result, qtbot):
    review = panel["review"]
    viewer.open(str(sample.path), plugin="napari-histoad")
    panel.controller.maps.show(result)
    qtbot.waitUntil(lambda: "regions" in review.rate_info.text())
    assert review.valid_box.native.isVisible()
    assert review.valid_box.value == "similar"
    assert "on tissue like that of these slides or tiles, which this slide may not be" in review.rate_info.text()
    similar = review.rate()
    assert similar < 0.1
    review.valid_box.value = "new-slide"
    qtbot.waitUntil(lambda: "on a new slide, on average" in review.rate_info.text())
    assert review.rate() == pytest.approx(1 / 9)
    assert MISSING in review.rate_info.text()
    assert "which this slide may not be" not in review.rate_info.text()
    review.rate_slider.setValue(0)
    qtbot.waitUntil(lambda: "(p ≤ 0.111)" in review.rate_info.text())
    assert words == []
    panel["save"].save_button.native.click()
    qtbot.waitUntil(lambda: AnomalyMap.open(result.path).saved_rate == pytest.approx(1 / 9))
    assert AnomalyMap.open(result.path).calibration.valid_for == "new-slide"
    review.valid_box.value = "similar"
    qtbot.waitUntil(lambda: "which this slide may not be" in review.rate_info.text())
    assert review.rate() == pytest.approx(similar)


def test_saved_files_state_what_the_rates_are_valid_for(viewer, panel, words, sample, result, qtbot):
    viewer.open(str(sample.path), plugin="napari-histoad")
    panel.controller.maps.show(result)
    review = panel["review"]
    review.valid_box.value = "new-slide"
    qtbot.waitUntil(lambda: "on a new slide, on average" in review.rate_info.text())
    saved = []
    panel.controller.maps.saved.connect(saved.extend)
    panel["save"].save_button.native.click()
    qtbot.waitUntil(lambda: bool(saved) or bool(words))
    (regions,) = (file for file in saved if file.suffix == ".geojson")
    about = json.loads(regions.read_text())["napari_histoad"]
    assert about["rates_valid_for"] == "new-slide"
    assert about["false_positive_rate"] == pytest.approx(1 / 9)
    assert MISSING in about["calibration"]


def test_false_discovery_rate_states_its_power_and_uses_extrapolated_p_values_where_it_has_none(
    viewer, panel, words, sample, result, qtbot
):
    """Five tiles score far above 600 calibration tiles, all others below them."""
    highest = np.sort(result.scores)[-6:]
    normals = np.sort(highest[:2].mean() - 1e-4 * np.random.default_rng(0).exponential(size=600)).astype(np.float32)
    group, parts = zarr.open_group(result.path, mode="r+"), np.arange(600, dtype=np.int32) % 8
    for name, values in {"calibration": normals, "calibration_groups": parts, "calibration_slides": parts}.items():
        group.create_array(name, data=values, overwrite=True)
    review = panel["review"]
    viewer.open(str(sample.path), plugin="napari-histoad")
    panel.controller.maps.show(AnomalyMap.open(result.path))
    qtbot.waitUntil(lambda: "regions" in review.rate_info.text())
    rate = review.rate()
    review.rate_kind.value = BY_DISCOVERIES
    qtbot.waitUntil(lambda: "A false discovery rate of " in review.rate_info.text())
    text = review.rate_info.text()
    assert "tiles reach the smallest p-value, 0.00017 (extrapolated), at once; 5 do." in text
    assert "P-values below 0.0017 are extrapolated, down to 0.00017" in text
    assert review.rate() < 1 / 601
    words.clear()  # the note that the scores of the slide differ
    panel["save"].save_button.native.click()
    qtbot.waitUntil(lambda: AnomalyMap.open(result.path).calibration.extrapolated or bool(words))
    assert not any("cannot" in said for said in words)
    assert AnomalyMap.open(result.path).saved_rate == pytest.approx(review.rate())
    review.rate_kind.value = BY_FALSE_POSITIVES
    qtbot.waitUntil(lambda: "extrapolated" not in review.rate_info.text())
    assert review.rate() == pytest.approx(rate, rel=0.05)
