"""Weights of vision transformers by timm's names, and what they show of the network's shape.

transformers' ViT and DINOv2 have the same computations as timm's `VisionTransformer` under other names.
"""

from __future__ import annotations

import re
from functools import partial
from math import isqrt
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from napari_histoad.detectors._timm import import_timm

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

__all__ = ["TRANSFORMERS_TYPES", "from_transformers", "vit_arguments"]

TRANSFORMERS_TYPES = ("vit", "dinov2", "dinov2_with_registers")
_DROPPED = ("embeddings.mask_token", "pooler.", "classifier.")
_RENAMED = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.", "blocks."),
    (r"^layernorm\.", "norm."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
)
_QUERY = ".attention.attention.query."


def from_transformers(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return arguments of timm's `VisionTransformer` that the weights do not show, and the weights by its names.

    Parameters
    ----------
    config : mapping
        transformers' ``config.json`` of a model type in `TRANSFORMERS_TYPES`.
    state : mapping of str to Tensor

    Raises
    ------
    ValueError
        If the network has an activation other than GELU, or a tensor is missing.
    """
    if config.get("hidden_act", "gelu") != "gelu":
        raise ValueError(f"its activation is {config['hidden_act']} instead of gelu")
    arguments = {
        "num_heads": int(config["num_attention_heads"]),
        "norm_layer": partial(nn.LayerNorm, eps=float(config.get("layer_norm_eps", 1e-6))),
    }
    inner = {re.sub(r"^(vit|dinov2|dinov2_with_registers)\.", "", name): value for name, value in state.items()}
    renamed = {}
    for name, value in inner.items():
        if name.startswith(_DROPPED) or any(f".attention.attention.{part}." in name for part in ("key", "value")):
            continue
        if _QUERY in name:
            parts = [inner[name.replace(_QUERY, f".attention.attention.{part}.")] for part in ("query", "key", "value")]
            renamed[name.replace("encoder.layer.", "blocks.").replace(_QUERY, ".attn.qkv.")] = torch.cat(parts)
            continue
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return arguments, renamed


def vit_arguments(state: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return arguments of timm's `VisionTransformer` that its weights show, and the weights with timm's position embedding.

    These are sizes, LayerScale, register tokens, and SwiGLU: its two parts make the first linear layer twice as wide as the
    second one expects. A position embedding for the class token but none for the registers becomes part of the class token.

    Raises
    ------
    ValueError
        If the position embedding does not belong to a square of patches.
    """
    projection, first, second = (
        state[n] for n in ("patch_embed.proj.weight", "blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.weight")
    )
    width, patch = projection.shape[0], projection.shape[-1]
    registers = state["reg_token"].shape[1] if "reg_token" in state else 0
    has_class = "cls_token" in state
    arguments: dict[str, Any] = {
        "embed_dim": width,
        "patch_size": patch,
        "depth": 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks.")),
        "mlp_ratio": (first.shape[0] + 0.5) / width,  # timm rounds the product down
        "qkv_bias": "blocks.0.attn.qkv.bias" in state,
        "init_values": 1e-5 if "blocks.0.ls1.gamma" in state else None,
        "reg_tokens": registers,
        "class_token": has_class,
    }
    if first.shape[0] == 2 * second.shape[1]:
        arguments |= {"mlp_layer": import_timm().layers.SwiGLUPacked, "act_layer": nn.SiLU}
    position = state["pos_embed"]
    prefixes = (has_class + registers, int(has_class), 0)
    prefix = next((n for n in prefixes if isqrt(max(0, position.shape[1] - n)) ** 2 == position.shape[1] - n > 0), None)
    if prefix is None:
        raise ValueError(f"its position embedding has {position.shape[1]} entries")
    if registers and prefix == 1:
        state = {**state, "cls_token": state["cls_token"] + position[:, :1], "pos_embed": position[:, 1:]}
    arguments["no_embed_class"] = prefix == 0 or prefix < has_class + registers
    arguments["img_size"] = isqrt(position.shape[1] - prefix) * patch
    return arguments, state
