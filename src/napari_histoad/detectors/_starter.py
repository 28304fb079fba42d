"""The starter model of the package; ``models/README.md`` describes its training data and accuracy."""

from __future__ import annotations

from pathlib import Path

__all__ = ["starter_path"]


def starter_path() -> Path:
    """Return the path of the starter model, a VQ-VAE with the preset conv-32."""
    return Path(__file__).parents[1] / "models" / "starter-conv-32.safetensors"
