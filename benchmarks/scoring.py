"""Compare the scoring rate of each detector with the rate of its network alone. Tiles are in memory.

python benchmarks/scoring.py [--tile-px 256] [--tiles 48] [--device auto]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from napari_histoad.detectors import Detector, create_detector, to_pixels
from napari_histoad.engine import choose_device
from napari_histoad.networks.autoencoder import shrink

ROUNDS = 3
Forward = Callable[[torch.Tensor], object]


def forward_of(detector: Detector) -> Forward:
    """Return a function that runs only the detector's network on a batch of tiles."""
    d = detector
    side = d.settings.tile_px
    return {
        "vqvae": lambda x: d.network(d._standardised(x)),
        "combined": lambda x: (d.network(d._standardised(x)), d.statistics(x)),
        "texture": lambda x: d.statistics(x),
        "embedding": lambda x: d.encoder(to_pixels(x)),
        "deep_isolation_forest": lambda x: d.encoder(to_pixels(x)),
        "kde_autoencoder": lambda x: d.network(shrink(to_pixels(x), d._side)),
        "adversarial_autoencoder": lambda x: d.network["autoencoder"](shrink(to_pixels(x), d.settings.input_px)),
        "perceptual_autoencoder": lambda x: d.distance(to_pixels(x), d.network(2 * to_pixels(x) - 1)),
        "perceptual_gan": lambda x: d.distance(
            (d._pixels(x) + 1) / 2, shrink((d.network(d._pixels(x)) + 1) / 2, min(side, d.settings.input_px))
        ),
        "geometric_transforms": lambda x: [d.network(d._shrunk(x)) for _ in d._scored],
        "colour": lambda x: d.features(x),
    }[d.name]


def rate(function: Forward, batches: list[torch.Tensor]) -> float:
    """Return tiles per second."""
    start = time.perf_counter()
    for batch in batches:
        function(batch)
    if batches[0].device.type == "cuda":
        torch.cuda.synchronize()
    return sum(len(batch) for batch in batches) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tile-px", type=int, default=256)
    parser.add_argument("--tiles", type=int, default=48)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    choice = choose_device(options.device)
    side = options.tile_px
    images = np.random.default_rng(0).integers(0, 256, (options.tiles, side, side, 3), np.uint8)
    batches = list(torch.from_numpy(images).to(choice.device).split(choice.batch))
    print(f"| {choice.title}, {side} px | network alone, tiles/s | scoring, tiles/s | ratio |\n|---|---|---|---|")
    names = ["combined", "vqvae", "texture", "embedding", "deep_isolation_forest", "kde_autoencoder", "adversarial_autoencoder"]
    for name in [*names, "perceptual_autoencoder", "perceptual_gan", "geometric_transforms", "colour"]:
        detector = create_detector(name, tile_px=side)
        detector.to(choice.device)
        detector.prepare(images)
        detector.fit(images)
        if detector.network is not None:
            detector.network.eval()
        forward = forward_of(detector)
        with torch.inference_mode(), choice.autocast(detector):
            forward(batches[0])
            detector.score(batches[0])
            # In turns, so that other load on the machine affects both.
            rates = [(rate(forward, batches), rate(detector.score, batches)) for _ in range(ROUNDS)]
        alone, scoring = (float(np.median(r)) for r in zip(*rates, strict=True))
        print(f"| {name} | {alone:,.0f} | {scoring:,.0f} | {scoring / alone:.2f} |", flush=True)


if __name__ == "__main__":
    main()
