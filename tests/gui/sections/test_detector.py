"""Step 4: methods, encoders, training and recalibration, in the real panel."""

import pytest
import safetensors.torch
import torch
from qtpy.QtWidgets import QMessageBox
from screenshots import shot
from shapely import Point

from napari_histoad.detectors import describe_detectors, load_detector
from napari_histoad.detectors._timm import import_timm
from napari_histoad.gui.sections.detector import _DEFAULT
from napari_histoad.gui.sections.review import BY_DISCOVERIES


def test_detector_section_leaves_out_suspicious_tiles(viewer, panel, words, qtbot, choose_method):
    viewer.open_sample("napari-histoad", "planted")
    choose_method("texture")
    assert not panel["detector"].steps_box.enabled
    panel["detector"].recalibrate_button.native.click()
    assert "no trained detector is chosen" in words.pop()
    panel["detector"].refine_box.value = True
    panel["detector"].train_button.native.click()
    qtbot.waitUntil(lambda: "suspicious tiles were left out" in panel["detector"].info.text() or bool(words))
    assert words == []
    suspicious = viewer.layers["Suspicious tiles"]
    assert f"{len(suspicious.data)} suspicious" in panel["detector"].info.text()
    outlines = [region.geometry for region in panel.context.outlines.regions()]
    for square in suspicious.data:
        middle = viewer.layers["sample"].world_to_data(suspicious.data_to_world(square.mean(axis=0)))
        assert any(outline.distance(Point(*middle)) < 128 for outline in outlines)
    shot(viewer, "suspicious")
    panel["detector"].recalibrate_button.native.click()
    qtbot.waitUntil(lambda: bool(words))
    assert "was trained on sample.tif" in words.pop()
    panel["map"].map_button.native.click()
    qtbot.waitUntil(lambda: "regions" in panel["review"].rate_info.text() or bool(words))
    assert words == []
    by_rate = panel["review"].rate()
    panel["review"].rate_kind.value = BY_DISCOVERIES
    qtbot.waitUntil(lambda: "expected to be normal" in panel["review"].rate_info.text())
    assert panel["review"].rate() != by_rate
    shot(viewer, "discoveries")


def test_detector_section_offers_the_default_at_once_and_every_detector_soon(panel, qtbot):
    section = panel["detector"]
    assert section.method_box.value == "combined"
    assert section.method_box.native.currentText() == "Best · Texture and VQ-VAE"
    qtbot.waitUntil(lambda: len(section.method_box.choices) > 1)
    known = {each.name: each.model_dump() for each in describe_detectors()}
    assert set(section.method_box.choices) == set(known)
    assert section.method_box.value == "combined"
    assert {key: known["combined"][key] for key in _DEFAULT} == _DEFAULT


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No hub, and none of its files: what the background process inherits."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))


def test_detector_section_asks_before_a_download_and_takes_weights_from_a_file(
    offline, viewer, panel, words, qtbot, tmp_path, monkeypatch, choose_method
):
    name, asked = "test_vit.r160_in1k", []
    viewer.open_sample("napari-histoad", "planted")
    assert not panel["detector"].encoder_box.isVisible()
    choose_method("embedding")
    assert panel["detector"].encoder_box.isVisible()
    assert not panel["detector"].weights_file.native.isVisible()
    panel["detector"].encoder_box.setCurrentText("own")
    assert panel["detector"].steps_box.enabled
    panel["detector"].encoder_box.setCurrentText(name)
    assert panel["detector"].weights_file.native.isVisible()
    assert not panel["detector"].steps_box.enabled
    monkeypatch.setattr(QMessageBox, "question", lambda *args: asked.append(args[2]) or QMessageBox.StandardButton.No)
    panel["detector"].train_button.native.click()
    qtbot.waitUntil(lambda: "was not downloaded" in panel["detector"].info.text() or bool(words))
    assert words == []
    assert name in asked[0]
    assert "apache-2.0" in asked[0]
    monkeypatch.setattr(QMessageBox, "question", lambda *args: QMessageBox.StandardButton.Yes)
    panel["detector"].train_button.native.click()
    qtbot.waitUntil(lambda: bool(words))
    assert "cannot be downloaded" in words[-1]
    assert "choose the file of its weights in step 4" in words.pop()
    torch.manual_seed(0)
    safetensors.torch.save_file(import_timm().create_model(name).state_dict(), tmp_path / "vit.safetensors")
    panel["detector"].weights_file.value = tmp_path / "vit.safetensors"
    shot(viewer, "encoder")
    panel["detector"].train_button.native.click()
    qtbot.waitUntil(lambda: "Ready" in panel["detector"].info.text() or bool(words))
    assert words == []
    assert load_detector(panel.controller.training.model).backbone.name == name
