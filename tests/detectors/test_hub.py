"""Encoders in folders of the hub's layout: tiny random networks of each published architecture."""

import json
import re
from functools import partial

import numpy as np
import pytest
import safetensors.torch
import torch
from hostile_pickles import Bomb

from napari_histoad.calibration import Calibration
from napari_histoad.detectors import (
    KNOWN_ENCODERS,
    create_detector,
    describe_encoder,
    fetch_weights,
    import_timm,
    known_encoder,
    load_detector,
    read_header,
    save_detector,
)
from napari_histoad.detectors._encoders import open_encoder
from napari_histoad.detectors._known_encoders import name_of_folder
from napari_histoad.errors import BundleError, EncoderError

timm = import_timm()
GATED = {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": torch.nn.SiLU}
HIBOU = {"num_register_tokens": 4, "use_swiglu_ffn": True, "patch_size": 14}
TIMM = {
    # folder: (architecture, what the configuration on the hub states, what makes the network small or is not stated there)
    "H-optimus-0": ("vit_giant_patch14_reg4_dinov2", {}, {"img_size": 224, "embed_dim": 48}),
    "H0-mini": ("vit_base_patch14_reg4_dinov2", {"img_size": 224}, {"embed_dim": 48, "mlp_ratio": 5.33334, **GATED}),
    "Virchow": (
        "vit_huge_patch14_224",
        {"img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.3375, "global_pool": "", "dynamic_img_size": True},
        {"embed_dim": 32, **GATED},
    ),
    "Virchow2": (
        "vit_huge_patch14_224",
        {"img_size": 224, "init_values": 1e-5, "reg_tokens": 4, "mlp_ratio": 5.3375, "global_pool": "", "num_classes": 0},
        {"embed_dim": 32, **GATED},
    ),
    "UNI": ("vit_large_patch16_224", {"img_size": 224}, {"init_values": 1e-5, "embed_dim": 32}),
    "uni2-h": (
        "vit_giant_patch14_224",
        {},
        {
            "embed_dim": 48,
            "num_heads": 24,
            "mlp_ratio": 5.33334,
            "reg_tokens": 8,
            "no_embed_class": True,
            "init_values": 1e-5,
            **GATED,
        },
    ),
    "prov-gigapath": (
        "vit_giant_patch14_dinov2",
        {"img_size": 224, "in_chans": 3, "patch_size": 16, "num_heads": 24, "init_values": 1e-5, "mlp_ratio": 5.33334},
        {"embed_dim": 48},
    ),
    "of my own": ("vit_small_patch16_224", {"img_size": 64, "num_heads": 2}, {"embed_dim": 32}),
}
TRANSFORMERS = {
    # folder: (model type, its configuration beyond the sizes, arguments of the same network in timm)
    "phikon": ("vit", {"patch_size": 16, "layer_norm_eps": 1e-12}, {"patch_size": 16}),
    "phikon-v2": ("dinov2", {"patch_size": 16, "use_swiglu_ffn": False}, {"patch_size": 16, "init_values": 1.0}),
    "midnight": ("dinov2", {"patch_size": 14, "use_swiglu_ffn": True}, {"patch_size": 14, "init_values": 1.0, **GATED}),
    "hibou-b": ("dinov2", HIBOU, {"patch_size": 14, "init_values": 1.0, "reg_tokens": 4, "no_embed_class": True, **GATED}),
}
SCALING = {"mean": [0.6, 0.5, 0.7], "std": [0.2, 0.25, 0.3]}


def _shaken(model):
    """Make every parameter count: many start as zeros or ones, and LayerScale as almost nothing."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.5 if parameter.ndim != 2 else 0.05))
    return model.eval()


def _write(folder, state, config=None, *, name="model.safetensors", **others):
    folder.mkdir()
    if name.endswith(".safetensors"):
        safetensors.torch.save_file({key: value.contiguous() for key, value in state.items()}, folder / name)
    else:
        torch.save(state, folder / name)
    for file, document in {"config": config, **others}.items():
        if document is not None:
            (folder / f"{file}.json").write_text(json.dumps(document))
    return folder


def _timm_folder(tmp_path, name):
    architecture, stated, hidden = TIMM[name]
    model = _shaken(timm.create_model(architecture, **{**stated, "depth": 2, "num_classes": 0, **hidden}))
    config = {"architecture": architecture, "model_args": stated, "pretrained_cfg": {**SCALING, "license": "mine"}}
    return _write(tmp_path / name, model.state_dict(), config), model


def _expected(model, pixels, name, scaling):
    mean, std = (torch.tensor(scaling[part])[:, None, None] for part in ("mean", "std"))
    with torch.inference_mode():
        out = model.forward_features((pixels - mean) / std)
    pooling = known_encoder(f"folder:{name}").pooling if known_encoder(f"folder:{name}") else "class+mean"
    pooled = {"class": out[:, 0], "mean": out[:, model.num_prefix_tokens :].mean(1)}
    return torch.nn.functional.normalize(torch.cat([pooled[part] for part in pooling.split("+")], 1), dim=1)


@pytest.mark.parametrize("name", TIMM)
def test_timm_folder_gives_the_features_of_timm(name, tmp_path):
    folder, model = _timm_folder(tmp_path, name)
    side = 64 if name == "of my own" else 224
    pixels = torch.rand(2, 3, side, side)
    encoder, record = open_encoder(name_of_folder(folder), side, folder)
    with torch.inference_mode():
        found = encoder(pixels)
    assert torch.allclose(found.tile, _expected(model, pixels, name, SCALING), atol=1e-4)
    assert found.cells.shape == (2, model.num_features, *model.patch_embed.grid_size)
    assert record.name == f"folder:{name}"
    assert record.licence == (known_encoder(record.name).licence if name != "of my own" else "mine")


def _transformers_names(state, heads_of_names):
    """Return timm's state by transformers' names."""
    renamed = {"embeddings.mask_token": torch.zeros(1, 1), "pooler.dense.weight": torch.zeros(2, 2)}
    for name, value in state.items():
        if ".attn.qkv." in name:
            before, kind = name.split(".attn.qkv.")
            for part, chunk in zip(("query", "key", "value"), value.chunk(3), strict=True):
                renamed[f"{before.replace('blocks', 'encoder.layer')}.attention.attention.{part}.{kind}"] = chunk
            continue
        for old, new in (
            ("blocks.", "encoder.layer."), ("attn.proj", "attention.output.dense"), ("cls_token", "embeddings.cls_token"),
            ("reg_token", "embeddings.register_tokens"), ("pos_embed", "embeddings.position_embeddings"),
            ("patch_embed.proj", "embeddings.patch_embeddings.projection"), *heads_of_names,
        ):  # fmt: skip
            name = name.replace(old, new)
        renamed[re.sub(r"^norm\.", "layernorm.", name)] = value
    return renamed


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_folder_gives_the_features_of_the_same_network_in_timm(name, tmp_path):
    kind, stated, arguments = TRANSFORMERS[name]
    sizes = {"img_size": 224, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 0}
    epsilon = stated.get("layer_norm_eps", 1e-6)
    model = timm.models.vision_transformer.VisionTransformer(
        **sizes, **arguments, norm_layer=partial(torch.nn.LayerNorm, eps=epsilon)
    )
    state = _shaken(model).state_dict()
    if kind == "vit":
        names = (
            ("norm1", "layernorm_before"),
            ("norm2", "layernorm_after"),
            ("mlp.fc1", "intermediate.dense"),
            ("mlp.fc2", "output.dense"),
        )
    else:
        names = (("ls1.gamma", "layer_scale1.lambda1"), ("ls2.gamma", "layer_scale2.lambda1"))
        names += (("mlp.fc1", "mlp.weights_in"), ("mlp.fc2", "mlp.weights_out")) if stated["use_swiglu_ffn"] else ()
    written = dict(state)
    if model.reg_token is not None:  # transformers gives the class token a position, registers none
        written["cls_token"] = state["cls_token"] - 0.5
        written["pos_embed"] = torch.cat([torch.full_like(state["cls_token"], 0.5), state["pos_embed"]], 1)
    config = {"model_type": kind, "hidden_size": 48, "num_attention_heads": 3, "image_size": 224, **stated}
    scaling = {f"image_{part}": value for part, value in SCALING.items()}
    folder = _write(tmp_path / name, _transformers_names(written, names), config, preprocessor_config=scaling)
    pixels = torch.rand(2, 3, 224, 224)
    encoder, _ = open_encoder(f"folder:{name}", 224, folder)
    with torch.inference_mode():
        assert torch.allclose(encoder(pixels).tile, _expected(model, pixels, name, SCALING), atol=1e-4)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_folder_gives_the_features_of_transformers(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    kind, stated, _ = TRANSFORMERS[name]
    stated = dict(stated)
    if "num_register_tokens" in stated:
        kind = "dinov2_with_registers"
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96, "image_size": 224}
    config = transformers.AutoConfig.for_model(kind, **sizes, **stated)
    model = _shaken(transformers.AutoModel.from_config(config, attn_implementation="eager"))
    folder = tmp_path / name
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({f"image_{part}": value for part, value in SCALING.items()}))
    pixels = torch.rand(2, 3, 224, 224)
    encoder, _ = open_encoder(f"folder:{name}", 224, folder)
    mean, std = (torch.tensor(SCALING[part])[:, None, None] for part in ("mean", "std"))
    with torch.inference_mode():
        tokens = model(pixel_values=(pixels - mean) / std).last_hidden_state
        found = encoder(pixels).tile
    prefix = 1 + stated.get("num_register_tokens", 0)
    pooled = {"class": tokens[:, 0], "mean": tokens[:, prefix:].mean(1)}
    parts = [pooled[part] for part in known_encoder(f"folder:{name}").pooling.split("+")]
    assert torch.allclose(found, torch.nn.functional.normalize(torch.cat(parts, 1), dim=1), atol=1e-3)


def test_image_tower_of_conch_is_read_without_a_configuration(tmp_path):
    trunk = _shaken(timm.create_model("vit_base_patch16_224", img_size=448, embed_dim=48, depth=2, num_classes=0))
    state = {f"visual.trunk.{key}": value for key, value in trunk.state_dict().items()} | {"text.token": torch.zeros(3)}
    folder = _write(tmp_path / "conch", state, name="pytorch_model.bin")
    pixels = torch.rand(1, 3, 448, 448)
    encoder, record = open_encoder("folder:conch", 448, folder)
    mean, std = known_encoder("folder:conch").scaling
    with torch.inference_mode():
        expected = _expected(trunk, pixels, "conch", {"mean": mean, "std": std})
        assert torch.allclose(encoder(pixels).tile, expected, atol=1e-4)
    assert record.licence == "cc-by-nc-nd-4.0"


def test_convolutional_network_of_a_folder_takes_tiles_as_they_are(tmp_path):
    model = _shaken(timm.create_model("test_resnet", num_classes=3))
    config = {"architecture": "test_resnet", "num_classes": 3, "pretrained_cfg": SCALING}
    folder = _write(tmp_path / "net", model.state_dict(), config)
    encoder, _ = open_encoder("folder:net", 64, folder)
    pixels = torch.rand(1, 3, 64, 64)
    mean, std = (torch.tensor(SCALING[part])[:, None, None] for part in ("mean", "std"))
    with torch.inference_mode():
        assert torch.allclose(encoder(pixels).cells, model.forward_features((pixels - mean) / std), atol=1e-4)


def test_detector_names_the_folder_without_its_path_and_finds_it_again(tmp_path, monkeypatch):
    folder, _ = _timm_folder(tmp_path, "of my own")
    detector = create_detector("embedding", tile_px=64, backbone=str(folder))
    images = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), np.uint8)
    detector.fit(images)
    detector.calibration = Calibration.from_scores(np.arange(20.0))
    file = save_detector(detector, tmp_path / "d.safetensors")
    assert read_header(file).settings["backbone"] == "folder:of my own"
    assert str(tmp_path) not in read_header(file).model_dump_json()
    with torch.inference_mode():
        assert torch.equal(
            load_detector(file).score(torch.from_numpy(images)).score, detector.score(torch.from_numpy(images)).score
        )
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another user"))
    with pytest.raises(BundleError, match="not on this machine.*give its folder"):
        load_detector(file)
    assert load_detector(file, backbone_weights=folder).backbone == detector.backbone


def test_folder_in_the_cache_of_the_hub_has_the_name_of_its_repository(tmp_path):
    folder = tmp_path / "models--paige-ai--Virchow2" / "snapshots" / "0123abc"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    assert name_of_folder(folder) == "hf-hub:paige-ai/Virchow2"
    assert name_of_folder(tmp_path) is None


def test_hub_name_finds_what_was_fetched(tmp_path, monkeypatch):
    import huggingface_hub

    folder, _ = _timm_folder(tmp_path, "Virchow2")
    asked = []

    def download(repository, file):
        asked.append((repository, file))
        if not (folder / file).is_file():
            raise huggingface_hub.errors.RemoteEntryNotFoundError(file, response=_Response())
        return str(folder / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert fetch_weights("hf-hub:paige-ai/Virchow2") == folder / "model.safetensors"
    assert ("paige-ai/Virchow2", "config.json") in asked

    def cached(_, file):
        return str(folder / file) if (folder / file).is_file() else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    assert describe_encoder("hf-hub:paige-ai/Virchow2")["file"] == str(folder / "model.safetensors")
    _, record = open_encoder("hf-hub:paige-ai/Virchow2", 224)
    assert (record.name, record.licence) == ("hf-hub:paige-ai/Virchow2", "cc-by-nc-nd-4.0")


class _Response:
    """What the hub's errors expect of an answer."""

    headers: dict = {}  # noqa: RUF012 - never changed
    request = None
    status_code = 404


def test_gated_download_says_how_to_get_access(monkeypatch):
    import huggingface_hub

    def refuse(*_):
        raise huggingface_hub.errors.GatedRepoError("403", response=_Response())

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(EncoderError, match="registered users only.*huggingface.co/MahmoodLab/UNI.*hf auth login"):
        fetch_weights("hf-hub:MahmoodLab/UNI")


def test_licence_and_access_are_known_before_any_download(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    known = describe_encoder("hf-hub:MahmoodLab/UNI2-h")
    assert "cc-by-nc-nd-4.0" in known["licence"]
    assert "requested" in known["licence"]
    assert known["file"] == ""
    assert "read https://huggingface.co/someone/else" in describe_encoder("hf-hub:someone/else")["licence"]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "no config.json"),
        ({"model_type": "dinov3_vit"}, "type is dinov3_vit"),
        ({"architecture": "hf-hub:someone/else"}, "no architecture named hf-hub"),
        ({"architecture": "vit_small_patch16_224", "model_args": {"num_heads": 2}}, "states the mean"),
        ({"architecture": "vit_small_patch16_224", "model_args": {"no_such": 2}, "pretrained_cfg": SCALING}, "no_such"),
        ({"model_type": "vit", "num_attention_heads": 2, "hidden_act": "relu"}, "relu instead of gelu"),
    ],
)
def test_folder_that_cannot_be_read_is_reported_in_one_line(config, words, tmp_path):
    model = timm.create_model("vit_small_patch16_224", img_size=64, embed_dim=32, depth=1, num_heads=2, num_classes=0)
    folder = _write(tmp_path / "net", model.state_dict(), config)
    with pytest.raises(EncoderError, match=words) as caught:
        create_detector("embedding", tile_px=64, backbone=str(folder))
    assert "\n" not in str(caught.value)


def test_files_that_a_configuration_names_are_not_loaded(tmp_path):
    folder, _ = _timm_folder(tmp_path, "of my own")
    torch.save({"more": Bomb(tmp_path / "exploded")}, tmp_path / "bomb.pth")
    config = json.loads((folder / "config.json").read_text())
    config["model_args"] |= {"checkpoint_path": str(tmp_path / "bomb.pth"), "pretrained": True, "pretrained_cfg": {"file": "x"}}
    (folder / "config.json").write_text(json.dumps(config))
    open_encoder("folder:of my own", 64, folder)
    assert not (tmp_path / "exploded").exists()


def test_code_in_the_weights_of_a_folder_is_not_run(tmp_path):
    state = {"blocks.0.mlp.fc1.weight": torch.zeros(3), "more": Bomb(tmp_path / "exploded")}
    folder = _write(tmp_path / "net", state, {"architecture": "vit_small_patch16_224"}, name="pytorch_model.bin")
    with pytest.raises(EncoderError, match="does not contain weights"):
        open_encoder("folder:net", 64, folder)
    assert not (tmp_path / "exploded").exists()


def test_known_encoders_are_consistent():
    names = [known.repository.casefold() for known in KNOWN_ENCODERS]
    assert len(set(names)) == len(names)
    for known in KNOWN_ENCODERS:
        assert known_encoder(f"hf-hub:{known.repository.upper()}") == known
        assert known.side % 8 == 0  # it is a size of tiles
        assert known.licence
