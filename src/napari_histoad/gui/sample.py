"""*File > Open Sample*: the sample slide, drawn once in a child process."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEventLoop, QObject, Qt
from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QProgressDialog

from napari_histoad.errors import JobCancelledError
from napari_histoad.gui.layer_data import NORMAL_COLOUR, NORMAL_NAME, regions_layer
from napari_histoad.gui.slide_layers import slide_layer
from napari_histoad.samples import SlidePlan
from napari_histoad.slide import open_slide
from napari_histoad.worker import protocol
from napari_histoad.worker.client import WorkerClient

if TYPE_CHECKING:
    LayerData = tuple[Any, dict[str, Any], str]

SAMPLE_PX = 6144


class _Events(QObject):
    came = QtSignal(object)


def open_sample() -> list[LayerData]:
    """Return the sample slide with its outlines of normal tissue and of the synthetic anomalies."""
    plan = SlidePlan(SAMPLE_PX)
    path = Path(tempfile.gettempdir()) / f"napari-histoad-sample-{SAMPLE_PX}-v1" / "sample.tif"
    if not path.exists():
        _draw(path)
    slide = open_slide(path)
    truth = regions_layer(plan.planted, slide.mpp, "Synthetic anomalies", "#39ff14")
    truth[1]["visible"] = False  # for looking at afterwards
    return [slide_layer(slide), truth, regions_layer(plan.normal, slide.mpp, NORMAL_NAME, NORMAL_COLOUR)]


def _draw(path: Path) -> None:
    """Draw the slide in a child process. napari wants the layers at once; meanwhile the window goes on to answer."""
    events, loop = _Events(), QEventLoop()
    ended: list[protocol.Event] = []
    client = WorkerClient(events.came.emit)
    dialog = QProgressDialog("Drawing the sample slide, once …", "Cancel", 0, 0)
    dialog.setWindowModality(Qt.WindowModality.ApplicationModal)
    dialog.setMinimumDuration(0)
    dialog.setAutoClose(False)

    def on_event(event: protocol.Event) -> None:
        if isinstance(event, protocol.Progressed):
            dialog.setRange(0, event.progress.total)
            dialog.setValue(event.progress.done)
        else:
            ended.append(event)
            loop.quit()

    events.came.connect(on_event, Qt.ConnectionType.QueuedConnection)
    dialog.canceled.connect(client.cancel)
    try:
        client.submit(protocol.DrawSample(path=path, size_px=SAMPLE_PX))
        dialog.show()
        loop.exec()
    finally:
        client.close()
        dialog.close()
        dialog.deleteLater()
    if isinstance(ended[0], protocol.Cancelled):
        raise JobCancelledError("drawing the sample slide was cancelled", "open it again to draw it")
    if isinstance(ended[0], protocol.Failed):
        raise ended[0].error
