"""A package that adds a detector, a slide format, an export and panel sections; the fixture `toy_package` installs it.

Its classes are made when they are asked for: torch must not be loaded in the window's process, nor Qt in others.
"""

import json

import numpy as np

from napari_histoad.results import Export
from napari_histoad.slide import ArraySlide, UnsupportedVariantError

ENTRY_POINTS = {
    "napari_histoad.detectors": {"grey": "toy_package:GreyDetector"},
    "napari_histoad.slide_formats": {"numpy": "toy_package:NumpySlide"},
    "napari_histoad.exports": {"tile-count": "toy_package:CountExport"},
    "napari_histoad.panel_sections": {"slide_name": "toy_package:SlideNameSection", "faulty": "toy_package:FaultySection"},
}


class NumpySlide(ArraySlide):
    """An array that `numpy.save` has written."""

    format = "NumPy array"
    patterns = ("*.npy",)
    on_disk = True

    def __init__(self, path, mpp=None):
        array = np.load(path, mmap_mode="r")
        if array.ndim != 3:
            raise UnsupportedVariantError(f"it has {array.ndim} axes", remedy="save an array of 3 axes", final=True)
        super().__init__([array], path, mpp=mpp)

    @classmethod
    def supports(cls, path, head):
        return head is not None and head.startswith(b"\x93NUMPY")


class CountExport(Export):
    name = "tile-count"
    title = "Number of tiles (JSON)"
    ending = "count.json"

    def write(self, source, path, *, slide=None, rate=None):
        path.write_text(json.dumps({"tiles": len(source), "rate": rate}), encoding="utf-8")


def _detector():
    from napari_histoad.detectors.colour import ColourDetector

    class GreyDetector(ColourDetector):
        name = "grey"
        title = "Grey values"
        summary = "Compares grey values."

    GreyDetector.__module__ = __name__
    return GreyDetector


def _sections():
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

    class FaultySection(Section):
        name, title, order = "faulty", "Faulty", 16

        def __init__(self, context):
            raise ValueError("it is faulty")

    return SlideNameSection, FaultySection


def __getattr__(name):
    if name == "GreyDetector":
        globals()[name] = _detector()
    elif name in ("SlideNameSection", "FaultySection"):
        globals()["SlideNameSection"], globals()["FaultySection"] = _sections()
    else:
        raise AttributeError(name)
    return globals()[name]
