"""What a running job has done, how fast it goes and how long it will take, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_histoad.jobs import speed_words

if TYPE_CHECKING:
    from napari_histoad.jobs import Progress

__all__ = ["metric_words", "progress_words"]


def progress_words(progress: Progress, rate: float, left: float | None) -> str:
    """Return what is done, how fast, and how long it will take."""
    counted = f"{progress.stage}: {progress.done:,} of {progress.total:,} {progress.unit}" if progress.total else progress.stage
    return " · ".join([counted, *speed_words(progress, rate, left)])


def metric_words(metrics: dict[str, float]) -> str:
    """Return the losses of a training step in a line."""
    loss = "reconstruction" if "reconstruction" in metrics else "loss"
    names = {loss: "loss", "held-out loss": "held-out", "perplexity": "perplexity", "accuracy": "accuracy"}
    return " · ".join(f"{title} {metrics[key]:.3g}" for key, title in names.items() if key in metrics)
