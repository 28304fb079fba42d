"""A detector, a slide format, an export and a panel section of another package, all used through the panel."""

import numpy as np
import pytest
from screenshots import shot

from napari_histoad.slide import open_slide


@pytest.fixture
def warnings_shown(monkeypatch):
    shown = []
    monkeypatch.setattr("napari_histoad.gui.panel.show_warning", shown.append)
    return shown


def test_panel_uses_what_another_package_registers(
    toy_package, warnings_shown, viewer, panel, words, qtbot, sample, tmp_path, choose_method
):
    assert list(panel.sections)[:3] == ["slide", "slide_name", "tissue"]
    assert "FaultySection" in warnings_shown[0]
    assert "it is faulty" in warnings_shown[0]
    with open_slide(sample.path) as slide:
        np.save(tmp_path / "case.npy", slide.read(0, 0, 0, *slide.shape))
    viewer.open(str(tmp_path / "case.npy"), plugin="napari")  # whose reader takes arrays; the panel opens the file as a slide
    assert panel["slide"].info.text().startswith("NumPy array")
    assert panel["slide_name"].label.text() == "case"
    panel["slide"].mpp_row.usual["×20"].native.click()
    panel.context.outlines.add(sample.plan.normal)

    choose_method("grey")
    assert panel["detector"].method_box.native.currentText() == "Grey values"
    assert panel["detector"].method_box.tooltip == "Compares grey values."
    assert not panel["detector"].steps_box.enabled
    panel["detector"].train_button.native.click()
    qtbot.waitUntil(lambda: "Ready" in panel["detector"].info.text() or bool(words))
    assert words == []
    assert panel["map"].model_box.value == "case.grey.safetensors"
    panel["map"].map_button.native.click()
    qtbot.waitUntil(lambda: "p ≤" in panel["review"].rate_info.text() or bool(words))
    assert words == []
    shot(viewer, "extensions")

    section = panel["save"]
    for row in range(section.kinds.count()):
        item = section.kinds.item(row)
        item.setCheckState(item.checkState().Checked if "Number of tiles" in item.text() else item.checkState().Unchecked)
    assert section.chosen() == ["tile-count"]
    section.save_button.native.click()
    qtbot.waitUntil(lambda: bool(words))
    assert "case.count.json" in words[0]
    assert (tmp_path / "anomaly-maps" / "case.count.json").stat().st_size > 0
