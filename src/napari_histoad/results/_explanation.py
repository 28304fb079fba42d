"""Pictures that explain the score or the class of one tile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from napari_histoad.system.atomic import atomic_path

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_SIDE, _GAP, _LINE = 320, 12, 26
_STRONGEST = 0.995
_OPACITY = 0.55


def explanation_panels(
    tile: NDArray[np.uint8],
    reconstruction: NDArray[np.uint8] | None,
    error: NDArray[np.float32] | None,
    relevance: NDArray[np.float32] | None,
    method: str = "Grad-CAM",
) -> list[tuple[str, NDArray[np.uint8]]]:
    """Return the panels that explain a tile: the tile, its reconstruction, its error map and the relevance map.

    Parameters
    ----------
    tile : (H, W, 3) uint8
    reconstruction : (H, W, 3) uint8 or None
        What the detector reconstructed; None leaves out the panel, here and below.
    error : (H, W) float32 or None
        Error map; its 99.5th percentile is shown brightest.
    relevance : (H, W) float32 in [0, 1] or None
        Evidence for the class, drawn over the tile in colours from cold to warm.
    method : str
        How the relevance was computed: the title of its panel.

    Returns
    -------
    list of tuple[str, (H, W, 3) uint8]
        Titles and pictures.
    """
    panels = [("Tile", tile)]
    if reconstruction is not None:
        panels.append(("Reconstruction", reconstruction))
    if error is not None:
        top = float(np.quantile(error, _STRONGEST))
        panels.append(("Error", _coloured(error / max(top, 1e-12), "inferno")))
    if relevance is not None:
        warm = _coloured(relevance, "jet").astype(np.float32)
        weight = _OPACITY * np.clip(relevance, 0, 1)[..., None] ** 0.5
        panels.append((method, np.rint(tile * (1 - weight) + warm * weight).astype(np.uint8)))
    return panels


def draw_explanation(path: Path, panels: list[tuple[str, NDArray[np.uint8]]], headline: str) -> None:
    """Write titled panels (H, W, 3) uint8, see `explanation_panels`, side by side below a headline as a PNG file."""
    width = _GAP + len(panels) * (_SIDE + _GAP)
    picture = Image.new("RGB", (width, _SIDE + 2 * _LINE + 2 * _GAP), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    draw.text((_GAP, _GAP // 2), headline, fill="black", font=font)
    for k, (title, panel) in enumerate(panels):
        x = _GAP + k * (_SIDE + _GAP)
        draw.text((x, _LINE + _GAP // 2), title, fill="#555555", font=font)
        picture.paste(Image.fromarray(panel).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS), (x, 2 * _LINE + _GAP // 2))
    with atomic_path(path) as partial:
        picture.save(partial, format="PNG")


def _coloured(values: NDArray[np.float32], colormap: str) -> NDArray[np.uint8]:
    coloured: NDArray[np.uint8] = mpl.colormaps[colormap](np.clip(values, 0, 1), bytes=True)[..., :3]
    return coloured
