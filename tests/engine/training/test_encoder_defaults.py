import json

import safetensors.torch
import torch

from napari_histoad import train
from napari_histoad.detectors import import_timm


def test_training_on_a_known_encoder_takes_its_tile_size_and_resolution(sample, tmp_path):
    folder = tmp_path / "phikon"
    folder.mkdir()
    torch.manual_seed(0)
    model = import_timm().create_model("vit_tiny_patch16_224", embed_dim=24, depth=1, num_classes=0)
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
    config = {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (folder / "config.json").write_text(json.dumps(config))
    found = train(sample.path, tmp_path / "d.safetensors", detector="embedding", backbone=str(folder), device="cpu")
    assert (found.settings.tile_px, found.settings.mpp) == (224, 0.5)
    assert found.settings.backbone == "folder:phikon"
    given = {"backbone": str(folder), "tile_px": 64, "mpp": 1.0}
    found = train(sample.path, tmp_path / "e.safetensors", detector="embedding", device="cpu", **given)
    assert (found.settings.tile_px, found.settings.mpp) == (64, 1.0)
