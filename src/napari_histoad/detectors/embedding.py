"""Features of an encoder with a model of the normal subspace; the strongest published approach on H&E.

Residuals of features of frozen self-supervised transformers: Pocevičiūtė et al. 2025. Nearest neighbours of tiles and of
their parts: Roth et al. 2021 (arXiv:2106.08265, PatchCore).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import nn

from napari_histoad.detectors._base import DetectorSettings, TileScores
from napari_histoad.detectors._encoders import LITE, OWN, STARTER, open_encoder
from napari_histoad.detectors._features import FeatureDetector, features_of, in_full_precision, to_pixels
from napari_histoad.detectors._known_encoders import name_of_folder
from napari_histoad.detectors._neighbours import Bank
from napari_histoad.detectors._normal_model import Measure, NormalModel
from napari_histoad.networks.augment import colour_jitter, resized_crop, stain_jitter
from napari_histoad.networks.encoder import Projector, contrast

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["EmbeddingDetector", "EmbeddingSettings", "EncoderDetector", "EncoderSettings"]

_VIEW_PX = 96
_CELLS_PER_TILE = 16
_CELL_PX = 16


class EncoderSettings(DetectorSettings):
    """Settings that detectors with an encoder share.

    Attributes
    ----------
    backbone : str
        The encoder: ``efficientnet-lite0``, trained on ImageNet and installed with this package; ``own``, a small one that is
        trained on the normal tiles by self-supervision; a timm model such as ``vit_small_patch14_reg4_dinov2.lvd142m``;
        ``starter``, that of the starter model; ``hf-hub:owner/name`` of the Hugging Face hub; or a folder that was
        downloaded from there, whose path is not saved.
    backbone_weights : Path or None
        File of the encoder's weights, or a folder of the hub's layout, if they were neither installed nor downloaded. Not
        saved.
    max_steps, batch, learning_rate : int, int, float
        Training of ``own``.
    """

    backbone: str = LITE
    backbone_weights: Path | None = Field(None, exclude=True)
    max_steps: int = Field(400, ge=1, le=1_000_000)
    batch: int = Field(32, ge=4, le=1024)
    learning_rate: float = Field(1e-3, gt=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _name_folder(cls, values: Any) -> Any:
        """Replace the path of a folder by its name: a path of this machine is of no use in a file."""
        backbone = values.get("backbone") if isinstance(values, dict) else None
        name = name_of_folder(Path(backbone)) if isinstance(backbone, str) and backbone else None
        return values if name is None else {**values, "backbone": name, "backbone_weights": Path(str(backbone))}


class EncoderDetector(FeatureDetector):
    """A detector on the features of an encoder, which is frozen or trained on the normal tiles."""

    settings: EncoderSettings
    network: nn.ModuleDict | None

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__(settings)
        self.encoder, self.backbone = open_encoder(settings.backbone, settings.tile_px, settings.backbone_weights)
        with torch.inference_mode():
            probe = self.encoder(torch.zeros(1, 3, settings.tile_px, settings.tile_px))
        self.dimensions, self.cell_dimensions = probe.tile.shape[1], probe.cells.shape[1]
        self.unsaved = ("encoder.",)  # frozen weights
        if settings.backbone == OWN:
            self.unsaved = ("network.",)  # the same encoder, and a projector for training
            self.network = nn.ModuleDict({"encoder": self.encoder, "projector": Projector(self.dimensions)})

    @property
    def allows_bfloat16(self) -> bool:
        # Measured: 0.998 (embedding) and 0.996 (forest) with the starter's encoder, 50 tiles of oral mucosa;
        # 0.9988 and 0.9938 with EfficientNet-Lite0, 90 tiles of colon.
        return self.settings.backbone not in (LITE, OWN, STARTER)

    @property
    def steps(self) -> int:
        return self.settings.max_steps if self.network is not None else 0

    def optimizers(self) -> list[torch.optim.Optimizer]:
        assert self.network is not None
        return [torch.optim.AdamW(self.network.parameters(), lr=self.settings.learning_rate, weight_decay=1e-4)]

    def losses(self, images: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        assert self.network is not None
        pixels = to_pixels(images)
        side = min(_VIEW_PX, self.settings.tile_px)
        # Two views of a tile with different position, size, orientation and stain: what they share is the tissue.
        views = [colour_jitter(stain_jitter(resized_crop(pixels, side, 0.3), 0.15), 0.2, 0.1) for _ in range(2)]
        features = self.encoder(torch.cat(views)).tile
        one, other = self.network["projector"](features).chunk(2)
        return contrast(one, other, weights)

    def features(self, images: Tensor) -> Tensor:
        return self.encoder(to_pixels(images)).tile.float()  # type: ignore[no-any-return]


class EmbeddingSettings(EncoderSettings):
    """Settings of the embedding detector.

    Attributes
    ----------
    measure : {"fused", "mahalanobis", "neighbours"}
        Distance from normal tiles: Mahalanobis of the residual to their subspace, with a shrunk covariance; to the nearest
        normal tile; or both.
    subspace : float
        Share of the variance that the subspace of normal tiles explains.
    cells : int
        Number of parts of normal tiles that the error map compares with; 0 gives no error map. They are chosen at random:
        a coreset of a few hundred would contain mostly rare tissue.
    """

    measure: Measure = "fused"
    subspace: float = Field(0.5, ge=0, lt=1)
    cells: int = Field(512, ge=0, le=200_000)


class EmbeddingDetector(EncoderDetector):
    """Residual to the subspace of normal features, fused with the distance to the nearest of them."""

    name: ClassVar[str] = "embedding"
    title: ClassVar[str] = "Embedding"
    summary: ClassVar[str] = "Measures the distance of the encoder's features of a tile from those of normal tissue."
    uses_encoder: ClassVar[bool] = True
    exports_onnx: ClassVar[bool] = True
    Settings = EmbeddingSettings
    settings: EmbeddingSettings

    def __init__(self, settings: EmbeddingSettings) -> None:
        super().__init__(settings)
        self.model = NormalModel(self.dimensions, settings.measure, subspace=settings.subspace)
        self.cells = Bank(self.cell_dimensions, max_size=max(1, settings.cells))

    def fit_error_map(self, images: NDArray[np.uint8]) -> None:
        if self.settings.cells:
            cells = features_of(self._some_cells, images, self.device).reshape(-1, self.cell_dimensions)
            drawn = torch.randperm(len(cells), generator=torch.Generator().manual_seed(0))
            self.cells.fit(cells[drawn[: self.settings.cells]])

    def _some_cells(self, images: Tensor) -> Tensor:
        cells = self._coarse(self.encoder(to_pixels(images)).cells).flatten(2)
        step = max(1, cells.shape[2] // _CELLS_PER_TILE)
        return cells[:, :, ::step].transpose(1, 2).contiguous()

    def score(self, images: Tensor) -> TileScores:
        features = self.encoder(to_pixels(images))
        with in_full_precision(images):
            distance = self.model.distance(features.tile.float())
            if not self.settings.cells:
                return TileScores(distance)
            cells = self._coarse(features.cells).movedim(1, 3)
            return TileScores(distance, self.cells.distance(cells.flatten(0, 2)).reshape(cells.shape[:3]))

    def _coarse(self, cells: Tensor) -> Tensor:
        """Return the cells (B, C, h, w) float32 averaged to at least 16 px: smaller ones are slow and show no more."""
        side = cells.shape[2]
        return F.adaptive_avg_pool2d(cells.float(), min(side, -(-self.settings.tile_px // _CELL_PX)))
