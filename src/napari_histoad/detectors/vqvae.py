"""VQ-VAE: a network trained on normal tissue reconstructs other tissue badly.

By default it reconstructs features of a frozen encoder, for the error of pixels mostly measures how much detail a tile has: plain
tumours are reconstructed better than normal tissue. The VQ-VAE of pixels, ``target: pixels``, is in ``_pixel_vqvae.py``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from napari_histoad.detectors._feature_vqvae import FeatureVqVaeDetector, FeatureVqVaeSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_histoad.detectors._base import Detector

__all__ = ["VqVaeDetector", "VqVaeSettings"]


class VqVaeSettings(FeatureVqVaeSettings):
    """Settings of the VQ-VAE of features.

    Attributes
    ----------
    target : {"features", "pixels"}
        What the network reconstructs: mid-level features of EfficientNet-Lite0; or pixels, with the settings of
        `PixelVqVaeSettings`.
    error : {"fused", "relative", "residuals"}
        The tile score: ``relative``, the mean over the cells of |x − x̂|² / |x|²; ``residuals``, how unusual the pattern of the
        residuals x − x̂ is among normal tiles; or ``fused``, both.
    """

    target: Literal["features", "pixels"] = "features"
    error: Literal["fused", "relative", "residuals"] = "fused"


class VqVaeDetector(FeatureVqVaeDetector):
    """Size and pattern of the residual of the reconstruction of an encoder's features."""

    name: ClassVar[str] = "vqvae"
    title: ClassVar[str] = "VQ-VAE"
    summary: ClassVar[str] = "Measures how badly, and how unusually, a network trained on normal tissue reconstructs a tile."
    learns_by_steps: ClassVar[bool] = True
    exports_onnx: ClassVar[bool] = True
    earlier: ClassVar[dict[str, Any]] = {"target": "pixels"}
    Settings = VqVaeSettings
    settings: VqVaeSettings

    @classmethod
    def variant(cls, settings: Mapping[str, Any]) -> type[Detector]:
        # A preset is a network of pixels.
        if settings.get("target", "pixels" if "preset" in settings else "features") != "pixels":
            return cls
        return import_module("napari_histoad.detectors._pixel_vqvae").PixelVqVaeDetector  # type: ignore[no-any-return]

    @property
    def error(self) -> str:
        return self.settings.error
