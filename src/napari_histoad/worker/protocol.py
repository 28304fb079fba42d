"""Messages between the window and its background process: one JSON document per line, no pickle.

===========================  =============================================================================
in                           ``{"id": 1, "job": "map", "args": {…}}`` · ``{"cancel": 1}``
out                          ``{"id": 1, "event": "progress" | "result" | "error" | "cancelled", …}``
===========================  =============================================================================
"""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

from napari_histoad.jobs import Progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["as_picture", "as_png", "progress_event", "progress_of"]


def progress_event(progress: Progress) -> dict[str, Any]:
    """Return the fields of a progress event."""
    return {
        "stage": progress.stage,
        "done": progress.done,
        "total": progress.total,
        "unit": progress.unit,
        "metrics": progress.metrics,
        "updated": progress.updated,
        "path": progress.path,
        "note": progress.note,
        "preview": None if progress.preview is None else as_png(progress.preview),
    }


def as_png(picture: NDArray[np.uint8]) -> str:
    """Return a picture as base64 of a PNG, which the GUI's end reads with `as_picture`."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def as_picture(words: str) -> NDArray[np.uint8]:
    """Return the picture (H, W, 3) uint8 that an event carries as base64 of a PNG."""
    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(words))))


def progress_of(event: dict[str, Any]) -> Progress:
    """Return the `Progress` that a progress event carries."""
    preview = event.get("preview")
    updated = event.get("updated")
    return Progress(
        stage=event["stage"],
        done=event["done"],
        total=event["total"],
        unit=event["unit"],
        metrics=event["metrics"],
        preview=as_picture(preview) if preview else None,
        updated=tuple(updated) if updated else None,
        path=event["path"],
        note=event["note"],
    )
