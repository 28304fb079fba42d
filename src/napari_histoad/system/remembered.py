"""What the user told us once and should not be asked again: one small JSON table per kind, in the user's own folder.

A convenience only: a table that cannot be read or written is as good as empty, and the user is asked again.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from platformdirs import user_config_path

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["recall", "remember"]


def recall(kind: str, key: str) -> Any:
    """Return what was remembered of ``key`` in the table ``kind``, or None."""
    return _read(_file(kind)).get(key)


def remember(kind: str, key: str, value: Any) -> bool:
    """Keep a JSON value for ``key`` in the table ``kind``, and return whether it was stored."""
    file = _file(kind)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(_read(file) | {key: value}), encoding="utf-8")
        partial.replace(file)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        return False
    return True


def _file(kind: str) -> Path:
    return user_config_path("napari-histoad") / f"{kind}.json"


def _read(file: Path) -> dict[str, Any]:
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}
