"""Detector files of earlier versions give the scores that they gave."""

import json
import lzma

import numpy as np
import pytest
from golden_detectors import CASES, FOLDER, outputs

from napari_histoad.classifiers import load_model
from napari_histoad.detectors import detector_names, fingerprint

KNOWN = json.loads((FOLDER / "scores.json").read_text())


@pytest.mark.parametrize("name", CASES)
def test_file_of_an_earlier_version_scores_the_same(name, tmp_path):
    path = tmp_path / "golden.safetensors"
    path.write_bytes(lzma.decompress((FOLDER / f"{name}.safetensors.xz").read_bytes()))
    known, found = dict(KNOWN[name]), outputs(path)
    identity = known.pop("fingerprint", None)
    assert found.keys() == known.keys()
    for output, values in known.items():
        assert np.allclose(found[output], values, rtol=2e-4 if output == "score" else 1e-3)
    if CASES[name][0] != "deep_isolation_forest":  # its thresholds are float32 now
        assert fingerprint(load_model(path)) == identity, "an interrupted map would not be resumed"


def test_every_method_has_a_golden_file():
    assert {method for method, _ in CASES.values()} == set(detector_names())
