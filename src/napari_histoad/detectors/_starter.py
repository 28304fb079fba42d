"""The starter model in the wheel: see ``models/README.md`` for what it was trained on and what it can do."""

from __future__ import annotations

from pathlib import Path

__all__ = ["starter_path"]


def starter_path() -> Path:
    """Return the path of the starter model, a conv-32 VQ-VAE."""
    return Path(__file__).parents[1] / "models" / "starter-conv-32.safetensors"
