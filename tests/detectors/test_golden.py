"""Detector files that an earlier version wrote give the scores that they gave."""

import json
import lzma

import numpy as np
import pytest
import torch
from golden_detectors import CASES, FOLDER, tiles

from napari_histoad.classifiers import load_model

KNOWN = json.loads((FOLDER / "scores.json").read_text())


@pytest.mark.parametrize("name", CASES)
def test_file_of_an_earlier_version_scores_the_same(name, tmp_path):
    path = tmp_path / "golden.safetensors"
    path.write_bytes(lzma.decompress((FOLDER / f"{name}.safetensors.xz").read_bytes()))
    detector = load_model(path)
    with torch.inference_mode():
        found = detector.score(torch.from_numpy(tiles(5, detector.settings.tile_px, 100)))
    known = KNOWN[name]
    assert np.allclose(found.score, known["score"], rtol=2e-4)
    for output in ("error_map", "reconstruction"):
        values = getattr(found, output)
        assert (values is None) == (output not in known)
        if values is not None:
            assert np.allclose(values.flatten(1).std(1), known[output], rtol=1e-3)
    if "probabilities" in known:
        assert np.allclose(found.probabilities[:, 0], known["probabilities"], rtol=1e-3)


def test_every_method_has_a_golden_file():
    from napari_histoad.detectors import detector_names

    assert {method for method, _ in CASES.values()} == set(detector_names())
