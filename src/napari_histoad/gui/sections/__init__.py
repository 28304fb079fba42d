"""The steps of the panel, one file each; `napari_histoad.gui.section` says how to add one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_histoad.gui.sections.detector import DetectorSection
from napari_histoad.gui.sections.map import MapSection
from napari_histoad.gui.sections.normal import NormalSection
from napari_histoad.gui.sections.review import ReviewSection
from napari_histoad.gui.sections.save import SaveSection
from napari_histoad.gui.sections.slide import SlideSection
from napari_histoad.gui.sections.tissue import TissueSection
from napari_histoad.system.extensions import load_extensions

if TYPE_CHECKING:
    from napari_histoad.gui.section import Section

__all__ = ["BUILT_IN", "panel_sections"]

BUILT_IN: tuple[type[Section], ...] = (
    SlideSection,
    TissueSection,
    NormalSection,
    DetectorSection,
    MapSection,
    ReviewSection,
    SaveSection,
)


def panel_sections() -> list[type[Section]]:
    """Return the built-in sections and those of other packages, in their order."""
    added = load_extensions("napari_histoad.panel_sections").values()
    return sorted((*BUILT_IN, *added), key=lambda section: section.order)
