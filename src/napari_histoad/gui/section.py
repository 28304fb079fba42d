"""A section of the panel, and what the sections of one panel share: all that a new section needs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from napari.utils.notifications import show_error
from psygnal import Signal
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QGroupBox, QVBoxLayout, QWidget

from napari_histoad.gui.autosave import Autosave
from napari_histoad.gui.messages import Message, scroll_to
from napari_histoad.gui.outlines import NormalOutlines
from napari_histoad.gui.slide_view import SlideView

if TYPE_CHECKING:
    from collections.abc import Callable

    from magicgui.widgets import PushButton
    from napari.layers import Layer
    from napari.viewer import Viewer

    from napari_histoad.gui.controller import Controller

SAMPLE_MENU = "File > Open Sample > H&E slide with synthetic anomalies (napari-histoad)"
NO_SLIDE = f"Drop a slide on the window, or use {SAMPLE_MENU}."


class PanelContext:
    """What the sections of one panel share."""

    slide_left = Signal()
    """Another slide is about to be shown, or none: texts about the former one are out of date."""
    slide_shown = Signal()
    """The chosen slide is shown now; emitted without a slide too."""
    changed = Signal()
    """The slide, its resolution, the running job or the map has changed: sections update what can be clicked."""
    failed = Signal(str, str)
    """An error and its remedy; name of the section that shows it."""
    slide_asked = Signal(object)
    """Layer of a slide that shall be chosen."""
    map_asked = Signal(object)
    """Finished AnomalyMap of the chosen slide that shall be reviewed."""
    map_reviewed = Signal()
    """The regions of a map are shown for the first time."""
    resolved = Signal(str)
    """Name of a section whose error does not hold any more; empty for all sections."""
    layer_added = Signal(object)
    """Layer that was added to the viewer."""
    layer_removed = Signal()
    layer_renamed = Signal()

    def __init__(self, viewer: Viewer, controller: Controller, parent: QWidget) -> None:
        self.viewer, self.controller, self.parent = viewer, controller, parent
        self.view = SlideView(viewer, self.slide_asked.emit, self.layer_renamed.emit)
        autosave = Autosave(parent, lambda words: self.failed.emit(words, "normal"))
        self.outlines = NormalOutlines(viewer, lambda: self.view.layer, autosave)
        maps = controller.maps
        for signal in (controller.runner.busy_changed, maps.started, maps.finished, maps.restored, maps.reopened):
            signal.connect(lambda _: self.changed.emit())
        controller.runner.failed.connect(self.failed.emit)
        viewer.layers.events.inserted.connect(self._on_inserted)
        viewer.layers.events.removed.connect(self._on_removed)

    def _on_inserted(self, event: Any) -> None:
        self.view.added(event.value)
        self.outlines.added(event.value)
        self.layer_added.emit(event.value)

    def _on_removed(self, _: Any) -> None:
        self.layer_removed.emit()

    @property
    def slide_layer(self) -> Layer | None:
        """The layer of the chosen slide, or None."""
        return self.view.layer

    def why_not(self) -> str:
        """Return why no job can be started now, empty if one can."""
        slide = self.controller.chosen.slide
        if slide is None:
            return NO_SLIDE
        if slide.mpp is None:
            return "First set the µm per pixel in step 1: this slide does not state it."
        return "Wait for the end of the run below, or cancel it." if self.controller.runner.busy else ""

    def close(self) -> None:
        """Save outlines that are not saved yet, and stop listening to the viewer."""
        self.viewer.layers.events.inserted.disconnect(self._on_inserted)
        self.viewer.layers.events.removed.disconnect(self._on_removed)
        self.view.close()
        self.outlines.close()


class Section(QGroupBox):
    """One step of the panel: a box with a title, widgets, and a line for errors.

    To add a section, write a subclass in one file: set the class attributes, add widgets in ``__init__``, start work through
    ``self.controller``, and override `clear`, `slide_shown` and `refresh` as needed. List it in `napari_histoad.gui.sections`,
    or register it from another package in the entry-point group ``napari_histoad.panel_sections``.

    Parameters
    ----------
    context : PanelContext
        Gives access to the viewer, the controller, the chosen slide and its outlines.

    Attributes
    ----------
    name : str
        Unique name; errors of jobs that are started with ``Handlers(name, …)`` are shown here.
    title : str
        Heading.
    order : int
        Sections are arranged by ascending order; the built-in ones have 10, 20, … 70.

    Examples
    --------
    >>> class SlideName(Section):
    ...     name, title, order = "slide_name", "Slide name", 15
    ...
    ...     def __init__(self, context):
    ...         super().__init__(context)
    ...         self.label = InfoLabel("")
    ...         self.add(self.label, self.message)
    ...
    ...     def refresh(self):
    ...         slide = self.controller.chosen.slide
    ...         self.label.setText("" if slide is None else slide.name)
    """

    name: ClassVar[str]
    title: ClassVar[str]  # type: ignore[assignment]  # hides Qt's getter, which nobody needs for a constant
    order: ClassVar[int]

    def __init__(self, context: PanelContext) -> None:
        super().__init__(type(self).title)
        self.context, self.controller, self.viewer = context, context.controller, context.viewer
        self.message = Message()
        self.settings: list[QWidget] = []
        """Widgets that cannot be changed while a job runs."""
        self._tooltips: dict[Any, str] = {}
        self._rows = QVBoxLayout(self)
        self._rows.setContentsMargins(8, 8, 8, 8)
        self._rows.setSpacing(6)
        context.slide_left.connect(self.clear)
        context.slide_shown.connect(self.slide_shown)
        context.changed.connect(self._on_changed)
        context.failed.connect(self._on_failed)
        context.resolved.connect(self._on_resolved)

    def add(self, *parts: Any) -> None:
        """Add widgets or layouts below each other."""
        for part in parts:
            (self._rows.addWidget if isinstance(part, QWidget) else self._rows.addLayout)(part)

    def clear(self) -> None:
        """Remove what is shown about the former slide."""
        self.message.clear()

    def slide_shown(self) -> None:
        """React to another chosen slide."""

    def refresh(self) -> None:
        """Update what can be clicked: the slide, its resolution, the running job or the map has changed."""

    def enable(self, *buttons: PushButton) -> None:
        """Enable buttons that start a job if one can be started; else their tooltips say why not."""
        reason = self.context.why_not()
        for button in buttons:
            tooltip = self._tooltips.setdefault(button, str(button.tooltip or ""))
            button.enabled, button.tooltip = not reason, reason or tooltip

    def reason(self) -> str:
        """Return why no job can be started, to be shown under a button; empty while a job runs or without a slide."""
        return "" if self.controller.runner.busy or self.controller.chosen.slide is None else self.context.why_not()

    def guarded(self, action: Callable[[], object]) -> Callable[..., None]:
        """Return a slot that shows the error of an action, with its remedy, in this section."""
        return self.message.guarded(action, self.fail)

    def fail(self, words: str) -> None:
        """Show an error here, in view; as a notification too if the panel is hidden."""
        self.message.say(words)
        if self.isVisible():
            QTimer.singleShot(0, partial(scroll_to, self.message))  # once it has its height
        else:
            show_error(words)

    def _on_failed(self, words: str, section: str) -> None:
        if section == self.name:
            self.fail(words)

    def _on_resolved(self, section: str) -> None:
        if section in ("", self.name):
            self.message.clear()

    def _on_changed(self) -> None:
        for setting in self.settings:
            setting.setEnabled(not self.controller.runner.busy)
        self.refresh()
