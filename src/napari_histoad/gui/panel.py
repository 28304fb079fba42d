"""The panel: arranges the sections below each other and connects them to the controller."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_info, show_warning
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QScrollArea, QVBoxLayout, QWidget
from superqt.utils import ensure_main_thread

from napari_histoad.gui.controller import Controller
from napari_histoad.gui.mouse_wheel import WheelGuard
from napari_histoad.gui.progress import ProgressRow
from napari_histoad.gui.section import PanelContext, Section
from napari_histoad.gui.sections import BUILT_IN, panel_sections

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari.viewer import Viewer


@ensure_main_thread
def _call(function: Callable[[], None]) -> None:
    function()


class AnomalyPanel(QWidget):
    """*Plugins > Anomaly mapping*: a scrolling column of sections, and the progress of the running job below."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self.controller = Controller(_call)
        self.context = context = PanelContext(napari_viewer, self.controller, self)
        self.sections: dict[str, Section] = {}
        column = QWidget()
        steps = QVBoxLayout(column)
        steps.setContentsMargins(4, 4, 4, 4)
        for kind in panel_sections():
            if (section := self._create(kind)) is not None:
                self.sections[kind.name] = section
                steps.addWidget(section)
        steps.addStretch(1)
        self.scroll_area = QScrollArea()
        self.scroll_area.setWidgetResizable(True)
        self.scroll_area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.scroll_area.setFrameShape(QScrollArea.Shape.NoFrame)
        self.scroll_area.setWidget(column)
        self.progress = ProgressRow(self.controller.runner)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.scroll_area, 1)
        layout.addWidget(self.progress)
        self.setMinimumWidth(340)
        WheelGuard(self)
        self.controller.chosen.left_behind.connect(show_info)
        self.controller.runner.cancelled.connect(
            lambda: show_info("Cancelled. Finished parts are kept: click again to continue.")
        )
        controller = self.controller

        def leave() -> None:  # refers to what outlives the widget, not to the widget
            controller.close()
            context.close()

        self.destroyed.connect(leave)
        context.changed.emit()

    def __getitem__(self, name: str) -> Any:
        """Return the section of a name."""
        return self.sections[name]

    def _create(self, kind: Any) -> Section | None:
        """Return a new section; one of another package that fails is left out, with a warning."""
        if kind in BUILT_IN:
            return kind(self.context)  # type: ignore[no-any-return]
        try:
            section = kind(self.context)
            assert isinstance(section, Section)
        except Exception as err:  # noqa: BLE001 - a faulty package must not stop this one
            show_warning(f"The panel section {kind!r} is left out: {err}; update or uninstall its package")
            return None
        return section
