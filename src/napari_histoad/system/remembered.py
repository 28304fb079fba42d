"""Answers of the user that are remembered between sessions: one small JSON file per kind, in the user's config folder.

A file that cannot be read counts as empty: the user is asked again.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from platformdirs import user_config_path

from napari_histoad.errors import OutputError
from napari_histoad.system.atomic import atomic_path

if TYPE_CHECKING:
    from pathlib import Path


def recall(kind: str, key: str) -> Any:
    """Return the value remembered for ``key`` in the table ``kind``, or None."""
    return _read(_file(kind)).get(key)


def remember(kind: str, key: str, value: Any) -> bool:
    """Store a JSON value for ``key`` in the table ``kind``; return whether it could be stored."""
    file = _file(kind)
    try:
        with atomic_path(file) as partial:
            partial.write_text(json.dumps(_read(file) | {key: value}), encoding="utf-8")
    except OutputError:
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
