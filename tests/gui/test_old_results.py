"""What is shown is of this slide and of this map; what was finished is not lost."""

import shutil

import pytest

from napari_histoad import AnomalyMap
from napari_histoad.jobs import Progress
from napari_histoad.worker.protocol import Cancelled, Failed, Progressed


@pytest.fixture
def case(viewer, panel, words, sample, tmp_path):
    path = tmp_path / "case" / "case.tif"
    path.parent.mkdir()
    path.write_bytes(sample.path.read_bytes())
    return viewer.open(str(path), plugin="napari-histoad")[0]


def flagged(viewer):
    return [y for y in viewer.layers if y.name.startswith("Flagged regions")]


@pytest.mark.parametrize("ending", [Cancelled(id=1), Failed(id=1, kind="HistoadError", what="it broke", remedy="")])
def test_a_map_that_fails_or_is_cancelled_gives_the_former_review_back(
    viewer, panel, words, case, qtbot, map_folder, tmp_path, monkeypatch, ending
):
    former, new = (shutil.copytree(map_folder, tmp_path / f"{name}.ome.zarr") for name in ("case", "new"))
    controller = panel.controller
    controller.maps.show(AnomalyMap.open(former))
    panel["review"].rate_slider.setValue(900)
    qtbot.waitUntil(lambda: "regions" in panel["review"].rate_info.text(), timeout=120_000)
    rate = panel["review"].rate()
    monkeypatch.setattr(controller.runner.client, "submit", lambda *_: 1)  # its events are those below
    controller.maps.compute()
    assert panel["review"].isEnabled()  # until there is something new
    aside = former.rename(tmp_path / "case.earlier-1.ome.zarr")  # as the background process does
    controller.runner._on_event(Progressed(id=1, progress=Progress("Mapping", 0, 9, path=str(new))))
    assert controller.maps.map.path == new
    assert (panel["review"].region_list.count(), panel["review"].isEnabled(), len(flagged(viewer))) == (0, False, 0)
    controller.runner._on_event(ending)
    assert controller.maps.map.path == aside
    assert panel["review"].isEnabled()
    assert panel["review"].rate() == rate
    qtbot.waitUntil(lambda: "regions" in panel["review"].rate_info.text() and len(flagged(viewer)) == 1, timeout=120_000)


def test_texts_and_review_go_with_their_slide_and_come_back(viewer, panel, words, case, qtbot, map_folder, write_tiff, sample):
    panel.controller.maps.show(AnomalyMap.open(map_folder))
    panel["review"].rate_slider.setValue(900)
    qtbot.waitUntil(lambda: "regions" in panel["review"].rate_info.text(), timeout=120_000)
    rate = panel["review"].rate()
    for text in (panel["detector"].info, panel["tissue"].info):
        text.setText("of the former slide")
    (other,) = viewer.open(str(sample.path), plugin="napari-histoad")
    assert panel["slide"].slide_box.value is other
    assert (panel["detector"].info.text(), panel["tissue"].info.text(), panel["review"].region_list.count()) == ("", "", 0)
    assert panel["review"].rate_info.text() == "Compute a map first."
    assert not panel["review"].isEnabled()
    assert not any(y.visible for y in flagged(viewer))
    panel["slide"].slide_box.value = case
    assert panel["review"].isEnabled()
    assert panel["review"].rate() == rate
    qtbot.waitUntil(lambda: "regions" in panel["review"].rate_info.text(), timeout=120_000)
    assert flagged(viewer)[0].visible


def test_detectors_of_former_trainings_stay(viewer, panel, words, case, qtbot, choose_method):
    choose_method("colour")
    panel["normal"].outline_button.native.click()
    layer = viewer.layers.selection.active
    names = []
    for top in (200, 1300):
        layer.add_rectangles([[[top, 600], [top, 1400], [top + 400, 1400], [top + 400, 600]]])
        panel["detector"].info.setText("")
        panel["detector"].train_button.native.click()
        qtbot.waitUntil(lambda: "Ready" in panel["detector"].info.text() or bool(words), timeout=240_000)
        assert words == []
        names.append(panel["map"].model_box.value)
    assert names == ["case.colour.safetensors", "case.colour-2.safetensors"]
    assert set(names) < set(panel["map"].model_box.choices)
    for name in ("case.colour.normal.geojson", "case.colour-2.normal.geojson"):
        assert (panel.controller.chosen.out / name).exists()
