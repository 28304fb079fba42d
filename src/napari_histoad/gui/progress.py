"""The row below the sections that shows the progress of the running job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magicgui.widgets import PushButton
from qtpy.QtWidgets import QHBoxLayout, QProgressBar, QVBoxLayout, QWidget

from napari_histoad.gui.messages import InfoLabel
from napari_histoad.jobs import speed_words

if TYPE_CHECKING:
    from napari_histoad.gui.controller.runner import JobRunner
    from napari_histoad.jobs import Progress


class ProgressRow(QWidget):
    """A progress bar, a line of text, and a button that cancels; visible while a job runs."""

    def __init__(self, runner: JobRunner) -> None:
        super().__init__()
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.info = InfoLabel()
        self.cancel_button = PushButton(text="Cancel", tooltip="Stop the run; finished parts are kept")
        line = QHBoxLayout()
        line.addWidget(self.bar)
        line.addWidget(self.cancel_button.native)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 0, 4, 4)
        layout.addWidget(self.info)
        layout.addLayout(line)
        self.setVisible(False)
        self.cancel_button.changed.connect(runner.cancel)
        runner.busy_changed.connect(self._on_busy)
        runner.progressed.connect(self._on_progress)

    def _on_busy(self, busy: bool) -> None:  # noqa: FBT001 - a slot takes what its signal sends
        self.setVisible(busy)
        if busy:
            self.bar.setRange(0, 0)
            self.info.setText("Starting …")
            self.info.setToolTip("")

    def _on_progress(self, progress: Progress, rate: float, left: float | None) -> None:
        self.bar.setRange(0, progress.total)
        self.bar.setValue(progress.done)
        self.info.setText(progress_words(progress, rate, left))
        if progress.note and progress.stage == "Mapping":
            self.info.setToolTip(progress.note)


def progress_words(progress: Progress, rate: float, left: float | None) -> str:
    """Return how much is done, how fast, and the remaining time."""
    counted = f"{progress.stage}: {progress.done:,} of {progress.total:,} {progress.unit}" if progress.total else progress.stage
    return " · ".join([counted, *speed_words(progress, rate, left)])


def metric_words(metrics: dict[str, float]) -> str:
    """Return the losses of a training step in one line."""
    loss = "reconstruction" if "reconstruction" in metrics else "loss"
    names = {loss: "loss", "held-out loss": "held-out", "perplexity": "perplexity", "accuracy": "accuracy"}
    return " · ".join(f"{title} {metrics[key]:.3g}" for key, title in names.items() if key in metrics)
