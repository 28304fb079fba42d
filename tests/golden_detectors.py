"""Small detector files of every method with the scores that they gave when they were written.

The files in ``detectors/golden`` are from version 0.1.0 and are never written again. This writes the file of a new method:

    python tests/golden_detectors.py NAME …

The weights of networks are a periodic pattern and fitted values are rounded to bfloat16, so that they compress well.
"""

import json
import lzma
import sys
from pathlib import Path

import numpy as np
import torch

from napari_histoad.calibration import Calibration
from napari_histoad.classifiers import load_model
from napari_histoad.detectors import create_detector, fingerprint, save_detector

FOLDER = Path(__file__).parent / "detectors" / "golden"
SIDE = 32
OF_PIXELS = {"target": "pixels"}
PIXELS, STARTER = {"features": "pixels"}, {"backbone": "starter"}
CASES = {
    "colour": ("colour", {}),
    "texture": ("texture", {}),
    "embedding": ("embedding", {"cells": 16, **STARTER}),
    "embedding-all": ("embedding", {"cells": 0, "subspace": 0.0, "measure": "mahalanobis", **STARTER}),
    "embedding-own": ("embedding", {"backbone": "own", "cells": 16, "measure": "neighbours"}),
    "deep_isolation_forest": ("deep_isolation_forest", {"trees": 10, **STARTER}),
    "deep_isolation_forest-own": ("deep_isolation_forest", {"trees": 10, "backbone": "own"}),
    "geometric_transforms": ("geometric_transforms", {"widen": 1, "input_px": 16, "score_transforms": 5}),
    "kde_autoencoder": ("kde_autoencoder", {"components": 2}),
    "kde_autoencoder-raw": ("kde_autoencoder", {"components": 0, "criterion": "density", "bandwidth": 0.5}),
    "adversarial_autoencoder": ("adversarial_autoencoder", {"input_px": 16, "code": 2}),
    "adversarial_autoencoder-dense": ("adversarial_autoencoder", {"input_px": 16, "code": 2, "encoder": "dense"}),
    "perceptual_autoencoder": ("perceptual_autoencoder", {"width": 4, "stages": 2, "features": "starter"}),
    "perceptual_autoencoder-critic": (
        "perceptual_autoencoder",
        {"width": 4, "stages": 2, "wgan": 0.1, "growing": True, **PIXELS, "tile_px": 64},
    ),
    "perceptual_gan": ("perceptual_gan", {"input_px": 32, "widths": (8, 8), "latent": 4, "features": "starter"}),
    "vqvae": ("vqvae", {**OF_PIXELS, "error": "mahalanobis"}),
    "vqvae-vq": ("vqvae", {**OF_PIXELS, "quantizer": "vq", "error": "latent"}),
    "vqvae-fsq": ("vqvae", {**OF_PIXELS, "quantizer": "fsq", "preset": "vit-32"}),
    "vqvae-features": ("vqvae", {"error": "relative"}),
    "combined": ("combined", {}),
    "classifier": ("vqvae", {**OF_PIXELS, "error": "top_k"}),
}


def tiles(count: int, side: int, start: int = 0) -> np.ndarray:
    """Return tiles (N, S, S, 3) uint8 by a rule in whole numbers: the same on every machine."""
    n, y, x, c = np.ogrid[start : start + count, :side, :side, :3]
    waves = (y // 4 * (3 + n % 5) * 17 + x // 3 * (2 + n % 7) * 13 + 29 * c) % 120
    return (100 + waves + (7 * y * x + 11 * n + 5 * c) % (9 + n % 3)).astype(np.uint8)


def _pattern(shape: torch.Size, size: float, shift: int) -> torch.Tensor:
    values = (torch.arange(shape.numel()) * 57 + shift) % 251
    return ((values - 125) / 125 * size).reshape(shape)


def _patterned(network: torch.nn.Module) -> None:
    with torch.no_grad():
        for k, parameter in enumerate(network.parameters()):
            if parameter.ndim > 1:
                fan_in = parameter[0].numel()
                parameter.copy_(_pattern(parameter.shape, (6 / fan_in) ** 0.5 * 0.9, k))
        for name, buffer in network.named_buffers():
            if name.endswith(("codebook", "embed", "embed_avg")):
                buffer.copy_(_pattern(buffer.shape, 0.1, 3))
            if name.endswith("initted"):
                buffer.fill_(True)
            if name.endswith("cluster_size"):
                buffer.fill_(1)
            if name.endswith(("running_mean", "running_var")):
                buffer.copy_(_pattern(buffer.shape, 0.1, 5) + name.endswith("var"))


def outputs(path: Path) -> dict[str, list[float]]:
    """Return scores, first probabilities, and deviations of error maps and reconstructions of five tiles."""
    detector = load_model(path)
    with torch.inference_mode():
        found = detector(torch.from_numpy(tiles(5, detector.settings.tile_px, 100)))
    spread = {name: getattr(found, name) for name in ("error_map", "reconstruction")}
    values = {"score": found.score, **{name: value.flatten(1).std(1) for name, value in spread.items() if value is not None}}
    if found.probabilities is not None:
        values["probabilities"] = found.probabilities[:, 0]
    return {name: [float(f"{v:.7g}") for v in value.tolist()] for name, value in values.items()}


def write(name: str) -> None:
    """Write the file of a case, and its scores and fingerprint."""
    method, settings = CASES[name]
    torch.manual_seed(0)
    detector = create_detector(method, **{"tile_px": SIDE, **settings})
    normal = tiles(40, detector.settings.tile_px)
    if detector.network is not None:
        _patterned(detector.network)
    detector.prepare(normal)
    detector.eval().balance(normal, np.arange(len(normal)) // 8)
    detector.fit(normal)
    state = detector.saved_state().items()
    detector.load_saved_state({k: v.bfloat16().to(v.dtype) if v.is_floating_point() else v for k, v in state})
    detector.calibration = Calibration.from_scores(np.arange(20.0))
    path = save_detector(detector, FOLDER / f"{name}.safetensors")
    known = json.loads((FOLDER / "scores.json").read_text())
    known[name] = outputs(path) | {"fingerprint": fingerprint(load_model(path))}
    (FOLDER / "scores.json").write_text(json.dumps(known, indent=1) + "\n")
    path.with_suffix(".safetensors.xz").write_bytes(lzma.compress(path.read_bytes(), preset=9))
    path.unlink()


if __name__ == "__main__":
    for case in sys.argv[1:]:
        write(case)
