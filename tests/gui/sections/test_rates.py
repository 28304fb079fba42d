"""Step 6: what the rates of a map are valid for, from the choice in the panel to the saved files."""

import json
import shutil
from dataclasses import asdict

import numpy as np
import pytest
import zarr

from napari_histoad import AnomalyMap
from napari_histoad.calibration import CalibrationBasis

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
