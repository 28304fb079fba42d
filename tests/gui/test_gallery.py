"""The review loop in a real window, by keyboard alone: judge tiles, train on the verdicts, map again, judge what is unsure."""

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QPushButton
from screenshots import shot

from napari_histoad import AnomalyMap
from napari_histoad.errors import OutputError
from napari_histoad.gui.gallery import TileGallery
from napari_histoad.results import Verdicts, verdict_file
from napari_histoad.slide import open_slide

A, E, N, R, U, Z, M, T = (getattr(Qt.Key, f"Key_{k}") for k in "AENRUZMT")
OUTLINE = Qt.Key.Key_O


def test_gallery_trains_a_classifier_whose_map_is_judged_again(viewer, panel, words, qtbot, choose_method):
    viewer.open_sample("napari-histoad", "planted")
    assert not panel["review"].gallery_button.native.isEnabled()
    choose_method("colour")
    panel["detector"].train_button.native.click()
    qtbot.waitUntil(lambda: "Ready" in panel["detector"].info.text() or bool(words))
    panel["map"].map_button.native.click()
    qtbot.waitUntil(lambda: panel["review"].isEnabled() or bool(words))
    assert words == []
    panel["review"].gallery_button.native.click()
    gallery = panel["review"].gallery_dock.gallery
    qtbot.waitUntil(lambda: not gallery.reading)
    assert len(gallery.rows) >= 10
    qtbot.keyClick(gallery, T)
    assert "too few tiles are judged normal and anomalous" in words.pop()

    height = gallery.height()
    qtbot.keyClick(gallery, E)
    qtbot.waitUntil(lambda: "one score per tile" in gallery.explanation.words.text())
    assert words == []  # beside the tile, and only there
    qtbot.keyClick(gallery, E)
    assert not gallery.explanation.isVisible()
    qtbot.waitUntil(lambda: gallery.height() <= height)  # the slide has its place back

    first = np.array(viewer.scene.camera.center)
    qtbot.keyClick(gallery, R)
    assert gallery.verdicts.counts() == {"Artefact": 1}
    assert not np.allclose(viewer.scene.camera.center, first)  # moved on to the next tile
    qtbot.keyClick(gallery, Z)
    assert len(gallery.verdicts) == 0
    assert np.allclose(viewer.scene.camera.center, first)
    for key in [A] * 4 + [U] + [N] * 4:
        qtbot.keyClick(gallery, key)
    saved = Verdicts(verdict_file(panel.controller.maps.map))
    assert saved.counts() == gallery.verdicts.counts() == {"Normal": 4, "Anomalous": 4, "Unsure": 1}
    assert gallery.pictures.currentRow() == 9
    qtbot.keyClick(gallery, Qt.Key.Key_Left)
    assert gallery.pictures.currentRow() == 8
    shot(viewer, "judging")

    qtbot.keyClick(gallery, T)
    qtbot.waitUntil(lambda: "Cross-validated" in gallery.words.text() or bool(words))
    assert words == []
    assert panel["map"].model_box.value == "sample.classifier.safetensors"
    panel["map"].map_button.native.click()
    qtbot.waitUntil(lambda: "Probability of Anomalous, sample.tif" in viewer.layers or bool(words))
    assert words == []
    again = panel.controller.maps.map
    assert again.info.classes == ("Normal", "Anomalous")
    panel["review"].gallery_button.native.click()
    following = panel["review"].gallery_dock.gallery
    assert following is not gallery
    assert "Anomalous" in following.words.text()  # its probability

    qtbot.keyClick(following, E)
    assert following.explanation.isVisible()
    qtbot.waitUntil(lambda: following.explanation.titles == ["Tile", "Class activation"])
    assert "%" in following.explanation.words.text()
    qtbot.keyClick(following, Qt.Key.Key_Right)  # the next one is explained as well
    qtbot.waitUntil(lambda: following.explanation.titles == [])
    qtbot.waitUntil(lambda: following.explanation.titles == ["Tile", "Class activation"])
    assert words == []
    shot(viewer, "explained")
    qtbot.keyClick(following, E)
    assert not following.explanation.isVisible()

    outlined = len(panel.context.outlines.regions())
    qtbot.keyClick(following, OUTLINE)
    assert len(panel.context.outlines.regions()) == outlined + 4
    boxes = [region.geometry.bounds for region in panel.context.outlines.regions()]
    assert all(any(np.allclose(verdict.box, box) for box in boxes) for verdict in saved if verdict.name == "Normal")
    qtbot.keyClick(following, OUTLINE)
    assert "are outlined already" in following.words.text()
    assert len(panel.context.outlines.regions()) == outlined + 4
    judged = {verdict.box for verdict in saved}
    assert not judged & {following._box(k) for k in range(len(following.rows))}
    viewer.layers["Probability of Anomalous, sample.tif"].visible = True
    viewer.layers["Anomaly map of sample.tif"].visible = False
    viewer.reset_view()
    shot(viewer, "classified")


@pytest.fixture
def gallery(viewer, sample, map_folder, qtbot):
    for name in map_folder.parent.glob("*.verdicts.geojson"):
        name.unlink()
    with open_slide(sample.path) as slide:
        widget = TileGallery(viewer, AnomalyMap.open(map_folder), slide)
        qtbot.addWidget(widget)
        widget.show()
        qtbot.waitUntil(lambda: not widget.reading)
        yield widget
        widget.stop()
    for name in map_folder.parent.glob("*.verdicts.geojson"):
        name.unlink()


def test_gallery_keeps_all_buttons_below_the_pictures_when_it_shows_an_error(gallery, qtbot):
    gallery.message.say("an error")
    gallery.resize(700, 400)

    def demanded():  # a dock gives no more than the minimum in a small window
        buttons = gallery.findChildren(QPushButton)
        tops = [button.mapTo(gallery, QPoint(0, 0)).y() for button in buttons]
        rows = len(set(tops)) * buttons[0].height()
        return len(set(tops)) > 1 and gallery.minimumSizeHint().height() >= gallery.pictures.geometry().bottom() + rows

    qtbot.waitUntil(demanded)


def test_gallery_restores_saved_verdicts(gallery, viewer, sample, map_folder, qtbot):
    qtbot.keyClick(gallery, N)
    with open_slide(sample.path) as slide:
        other = TileGallery(viewer, AnomalyMap.open(map_folder), slide)
        qtbot.addWidget(other)
        qtbot.waitUntil(lambda: not other.reading)
        assert "1 normal" in other.counts.text()
        assert gallery._box(0) not in {other._box(k) for k in range(len(other.rows))}


def test_gallery_reports_a_verdict_that_cannot_be_saved_and_does_not_show_it(gallery, words, qtbot, monkeypatch):
    def fail(*_):
        raise OutputError("cannot write the verdicts: disk full", "free some space")

    monkeypatch.setattr("napari_histoad.results._verdicts.write_geojson", fail)
    qtbot.keyClick(gallery, A)
    assert words == ["cannot write the verdicts: disk full; free some space"]
    assert gallery.pictures.currentRow() == 0
    assert len(gallery.verdicts) == 0


def test_gallery_says_beside_the_tile_why_it_cannot_be_explained(viewer, panel, words, qtbot, sample, map_folder):
    viewer.open(sample.path, plugin="napari-histoad")
    panel.controller.maps.show(AnomalyMap.open(map_folder))
    panel["review"].gallery_button.native.click()
    gallery = panel["review"].gallery_dock.gallery
    qtbot.keyClick(gallery, E)
    assert "no trained detector is chosen" in gallery.explanation.words.text()
    qtbot.keyClick(gallery, OUTLINE)
    assert "no tile is judged normal yet" in words.pop()
    assert words == []
    gallery.stop()


def test_gallery_shows_more_tiles_until_all_are_judged(gallery, qtbot):
    qtbot.keyClick(gallery, Z)
    assert "nothing to undo" in gallery.words.text()
    for _ in range(200):
        if "Every part" in gallery.words.text():
            break
        for _ in range(len(gallery.rows)):
            qtbot.keyClick(gallery, N)
        qtbot.keyClick(gallery, M)
    assert "Every part of this map has been judged" in gallery.words.text()
    qtbot.waitUntil(lambda: not gallery.reading)
    qtbot.keyClick(gallery, Qt.Key.Key_Escape)
