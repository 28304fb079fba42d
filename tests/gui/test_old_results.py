"""What is shown is of this slide and of this map; what was finished is not lost."""

import shutil

import pytest

from napari_histoad import AnomalyMap


@pytest.fixture
def case(viewer, panel, words, sample, tmp_path):
    path = tmp_path / "case" / "case.tif"
    path.parent.mkdir()
    path.write_bytes(sample.path.read_bytes())
    return viewer.open(str(path), plugin="napari-histoad")[0]


def flagged(viewer):
    return [y for y in viewer.layers if y.name.startswith("Flagged regions")]


@pytest.mark.parametrize("ending", ["cancelled", "error", "died"])
def test_a_map_that_fails_or_is_cancelled_gives_the_former_review_back(
    viewer, panel, words, case, qtbot, map_folder, tmp_path, ending
):
    former, new = (shutil.copytree(map_folder, tmp_path / f"{name}.ome.zarr") for name in ("case", "new"))
    controller = panel.controller
    controller.show(AnomalyMap.open(former))
    panel.rate_slider.setValue(900)
    qtbot.waitUntil(lambda: "regions" in panel.rate_info.text(), timeout=120_000)
    rate = panel.rate()
    controller._job, controller._job_slide, controller._working, controller._growing = "map", controller.slide, True, False
    assert panel.review_group.isEnabled()  # until there is something new
    aside = former.rename(tmp_path / "case.earlier-1.ome.zarr")  # as the background process does
    controller._on_event({"event": "progress", "stage": "Mapping", "done": 0, "total": 9, "unit": "tiles", "metrics": {}}
                         | {"updated": None, "path": str(new), "note": ""})  # fmt: skip
    assert controller.map.path == new
    assert (panel.region_list.count(), panel.review_group.isEnabled(), len(flagged(viewer))) == (0, False, 0)
    controller._on_event({"event": ending, "kind": "HistoadError", "what": "it broke", "remedy": "", "code": -9})
    assert controller.map.path == aside
    assert panel.review_group.isEnabled()
    assert panel.rate() == rate
    qtbot.waitUntil(lambda: "regions" in panel.rate_info.text() and len(flagged(viewer)) == 1, timeout=120_000)


def test_texts_and_review_go_with_their_slide_and_come_back(viewer, panel, words, case, qtbot, map_folder, write_tiff, sample):
    panel.controller.show(AnomalyMap.open(map_folder))
    panel.rate_slider.setValue(900)
    qtbot.waitUntil(lambda: "regions" in panel.rate_info.text(), timeout=120_000)
    rate = panel.rate()
    for text in (panel.train_info, panel.tissue_info):
        text.setText("of the former slide")
    (other,) = viewer.open(str(sample.path), plugin="napari-histoad")
    assert panel.slide_box.value is other
    assert (panel.train_info.text(), panel.tissue_info.text(), panel.region_list.count()) == ("", "", 0)
    assert panel.rate_info.text() == "Compute a map first."
    assert not panel.review_group.isEnabled()
    assert not any(y.visible for y in flagged(viewer))
    panel.slide_box.value = case
    assert panel.review_group.isEnabled()
    assert panel.rate() == rate
    qtbot.waitUntil(lambda: "regions" in panel.rate_info.text(), timeout=120_000)
    assert flagged(viewer)[0].visible


def test_detectors_of_former_trainings_stay(viewer, panel, words, case, qtbot):
    panel.method_box.value = "colour"
    panel.outline_button.native.click()
    layer = viewer.layers.selection.active
    names = []
    for top in (200, 1300):
        layer.add_rectangles([[[top, 600], [top, 1400], [top + 400, 1400], [top + 400, 600]]])
        panel.train_info.setText("")
        panel.train_button.native.click()
        qtbot.waitUntil(lambda: "Ready" in panel.train_info.text() or bool(words), timeout=240_000)
        assert words == []
        names.append(panel.model_box.value)
    assert names == ["case.colour.safetensors", "case.colour-2.safetensors"]
    assert set(names) < set(panel.model_box.choices)
    for name in ("case.colour.normal.geojson", "case.colour-2.normal.geojson"):
        assert (panel.controller.out / name).exists()
