"""Jobs of the background process, run in this one."""

import numpy as np
import pytest
import tifffile

from napari_histoad import AnomalyMap, map_slide, train
from napari_histoad.jobs import run
from napari_histoad.slide import open_slide
from napari_histoad.worker.jobs import compute_map, explain
from napari_histoad.worker.protocol import ComputeMap, Explain


@pytest.mark.parametrize("reason", ["another slide", "regions"])
def test_compute_map_renames_a_map_of_another_slide_or_of_regions(sample, detector_file, tmp_path, reason):
    detector = {"model": detector_file, "device": "cpu"}
    first, outlines = tmp_path / "first" / sample.path.name, None
    first.parent.mkdir()
    if reason == "regions":
        first, outlines = sample.path, sample.plan.normal
    else:
        with open_slide(sample.path) as slide:
            pixels = slide.read(0, 0, 0, *slide.shape)
        tifffile.imwrite(first, pixels[::-1], tile=(256, 256), photometric="rgb", resolution=(20000, 20000), resolutionunit=3)
    before = map_slide(first, tmp_path / "out", regions=outlines, stride_px=64, **detector).scores
    args = ComputeMap(slide=str(sample.path), out=tmp_path / "out", model=detector_file, stride_px=64, device="cpu")
    result = run(compute_map(args))
    assert result.path.name == "sample.ome.zarr"
    assert AnomalyMap.open(result.path).find_slide() == sample.path
    assert np.array_equal(AnomalyMap.open(tmp_path / "out" / "sample.earlier-1.ome.zarr").scores, before)
    assert run(compute_map(args)) == result
    assert len(list((tmp_path / "out").glob("[!.]*"))) == 2


def test_explain_opens_slide_and_detector_once_for_many_tiles(sample, detector_file, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("napari_histoad.worker.jobs.open_slide", lambda *a, **more: opened.append(a) or open_slide(*a, **more))
    model = tmp_path / "stained.safetensors"
    train(sample.path, model, normal=sample.plan.normal, tile_px=64, max_steps=2, device="cpu", stain="macenko")
    opened.clear()
    tiles = []
    for chosen in (detector_file, model, model, detector_file):
        args = Explain(slide=str(sample.path), model=chosen, centre=(700, 700), device="cpu")
        panels = run(explain(args)).panels
        assert [title for title, _ in panels] == ["Tile", "Reconstruction", "Error"]
        tiles.append(panels[0][1])
    assert len(opened) == 3
    assert np.array_equal(tiles[1], tiles[2])
    assert np.array_equal(tiles[0], tiles[3])
    assert not np.array_equal(tiles[0], tiles[1])  # stain-normalised for the detector that was trained so
