"""The slide in view is the one that is worked on, however it was opened, and its layers come and go with it."""

import os
from pathlib import Path

import numpy as np
import pytest
from napari.layers import Image, Shapes
from napari.layers._layer_actions import _duplicate_layer, _split_rgb
from PIL import Image as Picture
from slide_writers import picture

from napari_histoad.gui.slide_layers import slide_of_layer
from napari_histoad.gui.slide_view import owner_of

SHOTS = Path(os.environ.get("HISTOAD_SCREENSHOTS", "test-out"))
BOX = np.array([[100.0, 200], [100, 400], [300, 400], [300, 200]])


def shot(viewer, name):
    SHOTS.mkdir(exist_ok=True, parents=True)
    viewer.window.screenshot(str(SHOTS / f"{name}.png"), canvas_only=False, flash=False)


@pytest.fixture
def two(viewer, panel, words, sample, tmp_path):
    """Two slides of the same name in two folders, the second opened last: (layer, layer)."""
    layers = []
    for folder in "ab":
        path = tmp_path / folder / "skin.tif"
        path.parent.mkdir()
        path.write_bytes(sample.path.read_bytes())
        layers += viewer.open(str(path), plugin="napari-histoad")
    return layers


def outline(panel, box):
    panel["normal"].outline_button.native.click()
    layer = panel.context.viewer.layers.selection.active
    layer.add_rectangles(box)
    return layer


def bounds(panel):
    return [region.geometry.bounds for region in panel.context.outlines.regions()]


def test_slide_view_chooses_the_slide_opened_last(viewer, panel, two):
    first, second = two
    assert panel["slide"].slide_box.value is second
    assert panel.controller.chosen.slide.path.parent.name == "b"
    assert (first.visible, second.visible) == (False, True)
    assert [name for name, _ in panel["slide"].slide_choices()] == ["skin", "skin [1]"]
    shot(viewer, "two-slides")


@pytest.mark.parametrize("how", ["combo", "layer", "eye"])
def test_slide_view_chooses_a_slide_by_list_layer_or_eye(viewer, panel, two, how):
    first, second = two
    if how == "combo":
        panel["slide"].slide_box.value = first
    elif how == "layer":
        viewer.layers.selection.active = first
    else:
        first.visible = True
    assert panel["slide"].slide_box.value is first
    assert panel.controller.chosen.slide.path.parent.name == "a"
    assert (first.visible, second.visible) == (True, False)


def test_outlines_of_the_slide_in_view_are_used(viewer, panel, two):
    first, second = two
    on_second = outline(panel, BOX)
    panel["slide"].slide_box.value = first
    assert bounds(panel) == []
    assert viewer.layers.selection.active is first  # what is drawn now does not get into the other slide's layer
    on_first = outline(panel, BOX / 2)
    assert on_first is not on_second
    assert bounds(panel) == [(50.5, 100.5, 150.5, 200.5)]
    assert (on_first.visible, on_second.visible) == (True, False)
    viewer.layers.selection.active = on_second  # who works with outlines means their slide
    assert panel["slide"].slide_box.value is second
    assert bounds(panel) == [(100.5, 200.5, 300.5, 400.5)]
    assert (on_first.visible, on_second.visible) == (False, True)
    on_second.name = "my areas"
    assert bounds(panel) == [(100.5, 200.5, 300.5, 400.5)]


def test_outlines_drawn_before_any_slide_belong_to_the_first(viewer, panel, words, write_tiff):
    viewer.add_layer(Shapes([BOX], name="Normal tissue", ndim=2, scale=(0.5, 0.5), units=("um", "um")))
    for name in ("one.tif", "two.tif"):
        viewer.open(str(write_tiff(picture(600, 800), name)), plugin="napari-histoad")
    assert bounds(panel) == []
    panel["slide"].slide_box.value = viewer.layers["one"]
    assert bounds(panel) == [(100.5, 200.5, 300.5, 400.5)]


def test_slide_view_keeps_hidden_layers_hidden(viewer, panel, two):
    first, second = two
    outlines = outline(panel, BOX)
    notes = viewer.add_points(np.array([[10.0, 10.0]]), name="notes")
    outlines.visible = False
    panel["slide"].slide_box.value = first
    assert not notes.visible
    panel["slide"].slide_box.value = second
    assert (second.visible, outlines.visible, notes.visible) == (True, False, True)


def test_slide_view_replaces_layers_of_the_same_slide_only(viewer, panel, two, qtbot):
    tissue = []
    for layer in two:
        panel["slide"].slide_box.value = layer
        panel["tissue"].info.setText("")
        panel["tissue"].button.native.click()
        qtbot.waitUntil(lambda: "mm²" in panel["tissue"].info.text())
        tissue.append(next(y for y in reversed(viewer.layers) if y.name.startswith("Tissue of skin")))
    assert tissue[0] in viewer.layers
    assert [y.visible for y in tissue] == [False, True]
    assert [owner_of(y) for y in tissue] == [owner_of(y) for y in two]
    panel["tissue"].info.setText("")
    panel["tissue"].button.native.click()
    qtbot.waitUntil(lambda: "mm²" in panel["tissue"].info.text())
    assert tissue[1] not in viewer.layers
    assert tissue[0] in viewer.layers
    shot(viewer, "two-slides-tissue")


def test_slide_view_restores_the_layers_of_a_reopened_slide(viewer, panel, two):
    first, second = two
    outlines = outline(panel, BOX)
    viewer.layers.remove(second)
    assert panel["slide"].slide_box.value is first
    assert first.visible
    assert not outlines.visible
    (again,) = viewer.open(str(second.source.path), plugin="napari-histoad")
    assert panel["slide"].slide_box.value is again
    assert outlines.visible
    assert bounds(panel) == [(100.5, 200.5, 300.5, 400.5)]


def test_panel_without_a_slide_has_no_outlines(viewer, panel, two):
    outline(panel, BOX)
    for layer in two:
        viewer.layers.remove(layer)
    assert panel["slide"].slide_box.value is None
    assert bounds(panel) == []
    assert not panel["detector"].train_button.enabled


def test_slide_view_treats_a_copied_layer_as_the_same_slide(viewer, panel, two):
    first, second = two
    outlines = outline(panel, BOX)
    viewer.layers.selection.active = second
    _duplicate_layer(viewer.layers)
    copy = viewer.layers["skin [1] copy"]
    assert owner_of(copy) == owner_of(second)
    panel["slide"].slide_box.value = copy
    assert bounds(panel) == [(100.5, 200.5, 300.5, 400.5)]
    assert outlines.visible
    panel["slide"].slide_box.value = first
    assert not copy.visible
    viewer.layers.remove(second)
    panel["slide"].slide_box.value = copy
    assert bounds(panel) == [(100.5, 200.5, 300.5, 400.5)]


def test_outlines_of_copied_layers_count_once(viewer, panel, two):
    outlines = outline(panel, BOX)
    viewer.layers.selection.active = outlines
    _duplicate_layer(viewer.layers)
    assert len(bounds(panel)) == 1
    copy = viewer.layers["Normal tissue copy"]
    copy.add_rectangles(BOX / 2)
    assert sorted(bounds(panel)) == [(50.5, 100.5, 150.5, 200.5), (100.5, 200.5, 300.5, 400.5)]


def test_slide_view_treats_a_cropped_layer_as_another_slide(viewer, panel, two):
    _, second = two
    data, looks, _ = second.as_layer_data_tuple()
    part = Image(np.asarray(data[0][:200, :300]), **{**looks, "multiscale": False, "name": "part"})
    viewer.add_layer(part)
    assert panel["slide"].slide_box.value is part
    assert owner_of(part) != owner_of(second)
    assert slide_of_layer(part).shape == (200, 300)
    viewer.layers.selection.active = part
    _split_rgb(viewer.layers)
    assert all("part" not in name for name, _ in panel["slide"].slide_choices())  # single channels are no slides


def test_slide_view_chooses_layers_of_other_readers(viewer, panel, two, tmp_path):
    Picture.fromarray(picture(300, 420)).save(tmp_path / "photo.png")
    (photo,) = viewer.open(str(tmp_path / "photo.png"), plugin="napari")
    assert panel["slide"].slide_box.value is photo
    twins = [viewer.add_image(picture(300, 420, seed=k), name="array") for k in (2, 3)]
    assert panel["slide"].slide_box.value is twins[1]
    assert owner_of(twins[0]) != owner_of(twins[1])
    assert [y.visible for y in (*two, photo, *twins)] == [False] * 4 + [True]
    twins[1].name = "renamed"
    assert panel["slide"].slide_box.native.currentText() == "renamed"
    assert panel["slide"].slide_box.value is twins[1]
    grey = viewer.add_image(np.zeros((50, 50)))
    panel["slide"].slide_box.value = photo
    assert grey.visible  # nobody said that it belongs to a slide
    assert panel["slide"].slide_box.value is photo


def test_slide_view_is_separate_for_each_window(viewer, panel, two, make_napari_viewer, write_tiff):
    other = make_napari_viewer(show=True)
    _, its_panel = other.window.add_plugin_dock_widget("napari-histoad", "Anomaly mapping")
    other.open(str(write_tiff(picture(300, 420), "third.tif")), plugin="napari-histoad")
    assert its_panel.controller.chosen.slide.name == "third"
    assert panel.controller.chosen.slide.path.parent.name == "b"
    assert two[1].visible
    its_panel.controller.close()


def test_slide_view_keeps_the_camera_of_each_slide(viewer, panel, two):
    first, second = two
    viewer.scene.camera.center, viewer.scene.camera.zoom = (30.0, 40.0), 7.0
    panel["slide"].slide_box.value = first
    panel["slide"].slide_box.value = second
    assert np.allclose(viewer.scene.camera.center[-2:], (30, 40))
    assert viewer.scene.camera.zoom == pytest.approx(7)
