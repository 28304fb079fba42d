"""Networks of classifiers, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_histoad.detectors import create_timm
from napari_histoad.errors import SettingsError
from napari_histoad.networks.classifier import (
    TileNetwork,
    TokensToMap,
    base_cnn,
    body_map,
    pooled_head,
    separable_cnn,
    texture_network,
    vggnet,
)

if TYPE_CHECKING:
    from pathlib import Path

_OWN = ("texture", "base_cnn", "vggnet", "separable_cnn")
_TIMM = {
    # name: (timm model with the tag of its weights, width of the hidden layer, dropout)
    "resnet18": ("resnet18.a1_in1k", 0, 0.0),
    "efficientnet_b0": ("efficientnet_b0.ra_in1k", 128, 0.5),
    "efficientnet_lite0": ("tf_efficientnet_lite0.in1k", 128, 0.5),
    "mobilenetv2": ("mobilenetv2_100.ra_in1k", 256, 0.0),
}
NETWORKS = (*_TIMM, *_OWN)
"""Names of networks; any timm model may be used too."""
_MIN_PX = {"base_cnn": 22, "separable_cnn": 86, "texture": 32}
"""Minimum side of tiles: convolutions without padding reduce it."""


def build_network(
    name: str,
    channels: int,
    classes: int,
    side: int,
    *,
    attention: bool = False,
    dropout: float = 0.0,
    pretrained: bool = False,
    weights: Path | None = None,
) -> TileNetwork:
    """Return a network of tiles (B, channels, side, side).

    Parameters
    ----------
    name : str
        One of `NETWORKS`, or a timm model.
    channels, classes, side : int
    attention : bool
        Weigh the centre more, see `TileNetwork`.
    dropout : float
        Dropout of `base_cnn`.
    pretrained : bool
        Load timm's weights; those of the first convolution are adapted to the channels.
    weights : Path, optional
        File of the weights; by default that of an earlier download.

    Raises
    ------
    EncoderError
        If timm has no such model, or the weights are not on this machine.
    SettingsError
        If the tiles are too small, or pretrained weights do not exist.
    """
    if side < _MIN_PX.get(name, 1):
        raise SettingsError(f"{name} needs tiles of at least {_MIN_PX[name]} px, these have {side} px", "use larger tiles")
    if name in _OWN:
        if pretrained:
            raise SettingsError(f"there are no pretrained weights of {name}", f"choose {', '.join(_TIMM)}, or a timm model")
        if name == "texture":
            return texture_network(channels, classes, side)
        if name == "base_cnn":
            return base_cnn(channels, classes, side, attention=attention, dropout=dropout)
        return (vggnet if name == "vggnet" else separable_cnn)(channels, classes, attention=attention)
    timm_name, hidden, drop = _TIMM.get(name, (name, 0, 0.0))
    model = create_timm(timm_name, channels, side, pretrained=pretrained, weights=weights)
    body = TokensToMap(model, int(getattr(model, "num_prefix_tokens", 0)), int(model.num_features))
    return TileNetwork(body, pooled_head(body_map(body, channels, side)[0], classes, hidden, drop), attention=attention)
