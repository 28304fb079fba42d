"""Layers that another reader, or nobody, opened are slides too."""

import dask.array as da
import numpy as np
import pytest
import zarr
from napari.layers import Image
from PIL import Image as Picture
from slide_writers import half, picture, write_svs

from napari_histoad import open_slide
from napari_histoad.errors import SlideError
from napari_histoad.gui.reader import get_reader
from napari_histoad.gui.slide_layers import can_be_slide, slide_of_layer

IMAGE = picture(300, 420)


def test_slide_of_layer_takes_the_resolution_from_units():
    layer = Image(IMAGE, rgb=True, name="my layer", scale=(0.5, 0.5), units=("um", "um"))
    slide = slide_of_layer(layer)
    assert slide.mpp == pytest.approx(0.5)
    assert slide.name == "my layer"
    assert np.array_equal(slide.read(0, 10, 20, 30, 40), IMAGE[10:40, 20:60])
    assert slide_of_layer(layer) is slide


@pytest.mark.parametrize(("units", "mpp"), [(("mm", "mm"), 500.0), (("nm", "nm"), None), (("pixel", "pixel"), None)])
def test_slide_of_layer_converts_units_and_ignores_implausible_ones(units, mpp):
    slide = slide_of_layer(Image(IMAGE, rgb=True, scale=(0.0005, 0.0005) if mpp else (0.5, 0.5), units=units))
    assert slide.mpp == (None if mpp is None else pytest.approx(0.5))


def test_slide_of_layer_keeps_the_levels():
    levels = [da.from_array(IMAGE, chunks=(64, 64, 3)), da.from_array(half(IMAGE), chunks=(64, 64, 3))]
    slide = slide_of_layer(Image(levels, rgb=True, multiscale=True))
    assert [level.shape for level in slide.levels] == [(300, 420), (150, 210)]
    assert np.array_equal(slide.read(1, 0, 0, 150, 210), half(IMAGE))


def test_slide_of_layer_refuses_layers_that_are_not_rgb_pictures():
    assert not can_be_slide(Image(IMAGE[..., 0]))
    assert can_be_slide(Image(IMAGE, rgb=True))
    with pytest.raises(SlideError, match="not 8-bit RGB"):
        slide_of_layer(Image(IMAGE / 255.0, rgb=True))
    with pytest.raises(SlideError, match="stack"):
        slide_of_layer(Image(np.stack([IMAGE, IMAGE]), rgb=True))
    with pytest.raises(SlideError, match="shifted or turned"):
        slide_of_layer(Image(IMAGE, rgb=True, translate=(5, 5)))


def test_slide_of_layer_prefers_the_file(viewer, write_tiff):
    path = write_tiff(IMAGE, mpp=0.5)
    (layer,) = viewer.open(str(path), plugin="napari")
    slide = slide_of_layer(layer)
    assert slide.path == path.resolve()
    assert slide.mpp == pytest.approx(0.5, rel=1e-3)


def test_panel_maps_a_picture_that_napari_opened(panel, viewer, words, qtbot, tmp_path, monkeypatch, sample, map_folder):
    """Without a file that we read ourselves, the layer is copied once; the heatmap lies on it."""
    monkeypatch.setattr("pathlib.Path.home", lambda: tmp_path)
    with open_slide(sample.path) as slide:
        pixels = slide.read(0, 400, 400, 1024, 900)
    Picture.fromarray(pixels).save(tmp_path / "photo.png")
    (layer,) = viewer.open(str(tmp_path / "photo.png"), plugin="napari")
    assert panel["slide"].slide_box.value is layer
    assert "resolution unknown" in panel["slide"].info.text()
    panel["slide"].mpp_row.box.value = 0.5
    panel["slide"].mpp_row.button.native.click()
    assert tuple(layer.scale) == (0.5, 0.5)
    panel["map"].map_button.native.click()
    assert not panel["map"].map_button.enabled
    qtbot.waitUntil(lambda: panel["review"].isEnabled() or bool(words))
    assert words == []
    copy = tmp_path / "anomaly-maps" / "photo.tif"
    with open_slide(copy) as slide:
        assert np.array_equal(slide.read(0, 0, 0, 1024, 900), pixels)
        assert slide.mpp == pytest.approx(0.5)
    heat = viewer.layers["Anomaly map of photo.tif"]
    assert np.allclose(heat.extent.world[1] / layer.extent.world[1], 1, atol=0.05)


def test_slide_section_shows_label_and_macro(viewer, panel, words, tmp_path):
    viewer.open(str(write_svs(tmp_path / "case.svs", IMAGE)), plugin="napari-histoad")
    assert panel["slide"].pictures_button.native.isVisibleTo(panel)
    panel["slide"].pictures_button.native.click()
    assert words == []
    slide_layer = viewer.layers["case"]
    for name in ("Label of case", "Macro of case", "Thumbnail of case"):
        layer = viewer.layers[name]
        assert layer.extent.world[1][1] < slide_layer.extent.world[0][1]
        assert not can_be_slide(layer)
    assert panel["slide"].slide_box.value is slide_layer


def test_reader_opens_ome_zarr_slides_and_leaves_others(viewer, tmp_path):
    group = zarr.open_group(tmp_path / "grey.zarr", mode="w")
    group.create_array("0", data=IMAGE[..., 0])
    assert get_reader(str(tmp_path / "grey.zarr")) is None
    group = zarr.open_group(tmp_path / "case.zarr", mode="w")
    group.create_array("0", data=IMAGE, chunks=(64, 64, 3))
    axes = [{"name": "y", "unit": "micrometer"}, {"name": "x", "unit": "micrometer"}, {"name": "c"}]
    scale = [{"type": "scale", "scale": [0.5, 0.5, 1]}]
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}],
    }
    (layer,) = viewer.open(str(tmp_path / "case.zarr"), plugin="napari-histoad")
    assert tuple(layer.scale) == (0.5, 0.5)
    assert slide_of_layer(layer).format == "OME-Zarr"
