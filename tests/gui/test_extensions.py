"""A detector, a slide format, an export and a panel section of another package, all used through the panel."""

import os

import numpy as np
import pytest
from screenshots import shot

from napari_histoad.slide import open_slide

CODE = '''
import json
import sys

import numpy as np

from napari_histoad.results import Export
from napari_histoad.slide import ArraySlide


class NumpySlide(ArraySlide):
    """An array that `numpy.save` has written."""

    format = "NumPy array"
    patterns = ("*.npy",)
    on_disk = True

    def __init__(self, path, mpp=None):
        super().__init__([np.load(path, mmap_mode="r")], path, mpp=mpp)

    @classmethod
    def supports(cls, path, head):
        return head is not None and head.startswith(b"\\x93NUMPY")


class CountExport(Export):
    name = "count"
    title = "Number of tiles (JSON)"
    ending = "count.json"

    def write(self, source, path, *, slide=None, rate=None):
        path.write_text(json.dumps({"tiles": len(source.scores), "rate": rate}), encoding="utf-8")


def __getattr__(name):
    if name == "GreyDetector":
        from napari_histoad.detectors.colour import ColourDetector

        class GreyDetector(ColourDetector):
            name = "grey"
            title = "Grey values"
            summary = "Compares grey values."

        GreyDetector.__module__ = __name__
        globals()[name] = GreyDetector
        return GreyDetector
    if name == "SlideNameSection":
        from napari_histoad.gui.messages import InfoLabel
        from napari_histoad.gui.section import Section

        class SlideNameSection(Section):
            name, title, order = "slide_name", "Name of the slide", 15

            def __init__(self, context):
                super().__init__(context)
                self.label = InfoLabel()
                self.add(self.label, self.message)

            def refresh(self):
                slide = self.controller.chosen.slide
                self.label.setText("" if slide is None else slide.name)

        return SlideNameSection
    if name == "FaultySection":
        from napari_histoad.gui.section import Section

        class FaultySection(Section):
            name, title, order = "faulty", "Faulty", 16

            def __init__(self, context):
                raise ValueError("it is faulty")

        return FaultySection
    raise AttributeError(name)
'''
POINTS = {
    "napari_histoad.detectors": {"grey": "histoad_toys:GreyDetector"},
    "napari_histoad.slide_formats": {"numpy": "histoad_toys:NumpySlide"},
    "napari_histoad.exports": {"count": "histoad_toys:CountExport"},
    "napari_histoad.panel_sections": {"slide_name": "histoad_toys:SlideNameSection", "faulty": "histoad_toys:FaultySection"},
}


@pytest.fixture
def package(add_package, monkeypatch):
    folder = add_package("histoad-toys", CODE, POINTS)
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))  # of the background process


@pytest.fixture
def warnings_shown(monkeypatch):
    shown = []
    monkeypatch.setattr("napari_histoad.gui.panel.show_warning", shown.append)
    return shown


def test_panel_uses_what_another_package_registers(
    package, warnings_shown, viewer, panel, words, qtbot, sample, tmp_path, choose_method
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
    assert section.chosen() == ["count"]
    section.save_button.native.click()
    qtbot.waitUntil(lambda: bool(words))
    assert "case.count.json" in words[0]
    assert (tmp_path / "anomaly-maps" / "case.count.json").stat().st_size > 0
