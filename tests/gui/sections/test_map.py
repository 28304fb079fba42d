"""Step 5: choosing a detector and computing the map, in the real panel."""

import shutil

import numpy as np
import safetensors.numpy


def test_map_section_computes_without_training_and_cancels(viewer, panel, words, qtbot):
    viewer.open_sample("napari-histoad", "planted")
    panel["map"].map_button.native.click()
    qtbot.waitUntil(panel.progress.isVisible)
    panel.progress.cancel_button.native.click()
    qtbot.waitUntil(lambda: not panel.progress.isVisible())
    assert "Cancelled" in words[-1]
    panel["map"].map_button.native.click()
    qtbot.waitUntil(panel["review"].isEnabled)
    assert "on the mapped slide itself" in panel.controller.maps.map.info.calibration_note


def test_map_section_reports_a_map_deleted_while_it_is_computed(viewer, panel, words, qtbot):
    viewer.open_sample("napari-histoad", "planted")
    with qtbot.waitSignal(panel.controller.maps.updated, timeout=600_000):
        panel["map"].map_button.native.click()
    shutil.rmtree(panel.controller.maps.map.path, ignore_errors=True)  # what is written meanwhile is left, and in the way
    qtbot.waitUntil(lambda: any("put" in word for word in words))
    assert "was deleted or moved" in words[-1] or "does not exist any more" in words[-1]
    panel["map"].map_button.native.click()
    qtbot.waitUntil(panel["review"].isEnabled)


def test_map_section_offers_only_files_that_hold_a_detector(viewer, panel, words, qtbot, sample, detector_file, tmp_path):
    viewer.open(str(sample.path), plugin="napari-histoad")
    message, before = panel["map"].message, panel["map"].model_box.choices
    tensors, broken = tmp_path / "weights.safetensors", tmp_path / "broken.safetensors"
    safetensors.numpy.save_file({"weight": np.zeros(3, np.float32)}, tensors)
    broken.write_bytes(detector_file.read_bytes()[:2000])
    (tmp_path / "notes.txt").write_text("no detector")
    for file in (tensors, broken, tmp_path / "notes.txt"):
        panel["map"].model_file.value = file
        qtbot.waitUntil(lambda file=file: file.name in message.text() and not panel.controller.runner.busy)
        assert panel["map"].model_box.choices == before
        assert panel.controller.training.model is None
        assert "histoad train" not in message.text()
    panel["map"].model_file.value = detector_file
    qtbot.waitUntil(lambda: panel.controller.training.model == detector_file)
    assert message.isHidden()
    assert panel["map"].model_box.value == detector_file.name


def test_map_section_maps_with_the_choice_about_artefacts_and_shows_their_layer(
    viewer, panel, words, qtbot, sample, detector_file
):
    viewer.open(str(sample.path), plugin="napari-histoad")
    panel["map"].model_file.value = detector_file
    qtbot.waitUntil(lambda: panel.controller.training.model == detector_file)
    assert panel["map"].artefacts_box.value == "mark"
    panel["map"].artefacts_box.value = "leave-out"
    panel["map"].map_button.native.click()
    qtbot.waitUntil(panel["review"].isEnabled)
    assert panel.controller.maps.map.info.artefacts == "leave-out"
    assert "Artefacts of sample.tif" in viewer.layers
