"""Step 6: the review of a map, which is restored with its slide and after a failed run."""

import shutil

import numpy as np
import pytest

from napari_histoad import AnomalyMap
from napari_histoad.calibration import Calibration, CalibrationBasis, find_discoveries
from napari_histoad.gui.controller import Review
from napari_histoad.gui.sections.review import rate_words
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
def test_review_returns_to_the_former_map_after_a_failed_run(
    viewer, panel, words, case, qtbot, map_folder, tmp_path, monkeypatch, ending
):
    former, new = (shutil.copytree(map_folder, tmp_path / f"{name}.ome.zarr") for name in ("case", "new"))
    controller = panel.controller
    controller.maps.show(AnomalyMap.open(former))
    panel["review"].rate_slider.setValue(900)
    qtbot.waitUntil(lambda: "regions" in panel["review"].rate_info.text())
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
    qtbot.waitUntil(lambda: "regions" in panel["review"].rate_info.text() and len(flagged(viewer)) == 1)


def test_review_of_a_map_that_was_moved_is_an_error_in_the_section(viewer, panel, words, case, qtbot, map_folder, tmp_path):
    folder = shutil.copytree(map_folder, tmp_path / "case.ome.zarr")
    reviews = []
    panel.controller.maps.thresholds.reviewed.connect(reviews.append)
    panel.controller.maps.show(AnomalyMap.open(folder))
    qtbot.waitUntil(lambda: "regions" in panel["review"].rate_info.text() and bool(reviews))
    assert words == []
    folder.rename(tmp_path / "elsewhere.ome.zarr")
    panel.controller.maps.thresholds.reviewed.emit(reviews[-1])
    assert len(words) == 1
    assert "case.ome.zarr" in words.pop()


def test_review_is_restored_with_its_slide(viewer, panel, words, case, qtbot, map_folder, write_tiff, sample):
    panel.controller.maps.show(AnomalyMap.open(map_folder))
    panel["review"].rate_slider.setValue(900)
    qtbot.waitUntil(lambda: "regions" in panel["review"].rate_info.text())
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
    qtbot.waitUntil(lambda: "regions" in panel["review"].rate_info.text())
    assert flagged(viewer)[0].visible


def test_training_keeps_earlier_detectors(viewer, panel, words, case, qtbot, choose_method):
    choose_method("colour")
    panel["normal"].outline_button.native.click()
    layer = viewer.layers.selection.active
    names = []
    for top in (200, 1300):
        layer.add_rectangles([[[top, 600], [top, 1400], [top + 400, 1400], [top + 400, 600]]])
        panel["detector"].info.setText("")
        panel["detector"].train_button.native.click()
        qtbot.waitUntil(lambda: "Ready" in panel["detector"].info.text() or bool(words))
        assert words == []
        names.append(panel["map"].model_box.value)
    assert names == ["case.colour.safetensors", "case.colour-2.safetensors"]
    assert set(names) < set(panel["map"].model_box.choices)
    for name in ("case.colour.normal.geojson", "case.colour-2.normal.geojson"):
        assert (panel.controller.chosen.out / name).exists()


def _review(basis, warning=None):
    class Source:
        calibration = Calibration(np.arange(900, dtype=np.float32), basis, np.arange(900, dtype=np.int32) // 30)
        calibration_note = calibration.describe("a.svs")
        info = type("Info", (), {"slide": "a.svs"})
        drift_warning, region_note = warning, ""

    return Review(Source(), np.zeros((2, 2), np.uint32), [], 0.01, "no region; 5 of 10 tiles (50.0%) are")


def test_rate_words_promise_no_approximate_rate():
    sure = CalibrationBasis("slides", tiles=900, groups=30, sources=30)
    for basis, most in ((sure, "At most"), (CalibrationBasis("slides", doubts=("self",), tiles=90), "About"), (None, "About")):
        by_rate = rate_words(_review(basis), None)
        review = _review(basis)
        found = find_discoveries(review.map.calibration, np.arange(850.0, 950), 0.1)
        by_discoveries = rate_words(review, found)
        assert f"{most} <b>1.00%</b> of normal tiles are flagged on tissue like that" in by_rate
        assert f"{most} <b>10.00%</b>" in by_discoveries
        assert f"{found.sentence}.<br>" in by_discoveries
        assert ("approximate" in by_rate) == (basis is not None and basis.approximate)
        assert "1% nominal; 0.0–" in by_rate
    drifted = rate_words(_review(sure, "98% of the tiles score above"), None)
    assert "At most" not in drifted
    assert "this slide differs" in drifted


def test_review_section_shows_the_notes_of_its_map(viewer, panel, words, sample, map_folder, qtbot, monkeypatch):
    long = "98% of the tiles score above the median normal tile: " + "stain or scanner differ " * 20
    monkeypatch.setattr(AnomalyMap, "notes", property(lambda _: [long, "3 tiles could not be read (try --resume)"]))
    viewer.open(str(sample.path), plugin="napari-histoad")
    panel.controller.maps.show(AnomalyMap.open(map_folder))
    assert panel["review"].notes.text() == f"{long}\n3 tiles could not be read"
    assert panel["review"].notes.isVisible()
    text = panel["review"].notes.words
    qtbot.waitUntil(lambda: text.document().size().height() <= text.height())
    viewer.layers.remove(panel["slide"].slide_box.value)
    assert panel["review"].notes.isHidden()


def test_one_click_sets_the_rates_of_a_map_by_the_outlines_on_its_slide(
    viewer, panel, words, case, qtbot, map_folder, sample, tmp_path
):
    path = shutil.copytree(map_folder, tmp_path / "case.ome.zarr")
    described = (path / "zarr.json").read_text()
    (path / "zarr.json").write_text(
        described.replace('"trained_on": [\n        "sample.tif"', '"trained_on": [\n        "b.tif"')
    )
    panel.controller.maps.show(AnomalyMap.open(path))
    qtbot.waitUntil(lambda: "regions" in panel["review"].rate_info.text())
    panel["review"].recalibrate_button.native.click()
    assert "no normal tissue is outlined on this slide" in words.pop()
    count = panel.context.outlines.add(sample.plan.normal)
    panel["review"].recalibrate_button.native.click()
    qtbot.waitUntil(lambda: f"{count} outlines of one slide" in panel["review"].rate_info.text() or bool(words))
    assert words == []
    assert panel.controller.maps.map.recalibrated
    assert panel["review"].isEnabled()
