"""The whole panel in small windows, with a running job, and beside the menus of napari."""

import re

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QPushButton

from napari_histoad import AnomalyMap
from napari_histoad.gui.section import NO_SLIDE, SAMPLE_MENU


def _entries(menu, path=()):
    """All entries of a menu, as they are read: ``File > Open Sample > …``."""
    for action in menu.actions():
        name = action.text().replace("&&", "\0").replace("&", "").replace("\0", "&")
        if action.menu() is not None:
            yield from _entries(action.menu(), (*path, name))
        elif name:
            yield " > ".join((*path, name))


def test_panel_names_an_existing_menu_entry(viewer, panel):
    shown = list(_entries(viewer.window.file_menu, ("File",)))
    assert SAMPLE_MENU in shown
    assert SAMPLE_MENU in NO_SLIDE
    plugins = [name for name in _entries(viewer.window.plugins_menu, ("Plugins",)) if "omaly" in name]
    assert plugins == ["Plugins > Anomaly mapping (napari-histoad)"]
    assert not re.search(r"(.+) \(\1\)", plugins[0].split(" > ")[1])


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (1500, 900)])
def test_panel_and_gallery_fit_small_windows(viewer, panel, words, qtbot, sample, map_folder, width, height):
    window = viewer.window._qt_window
    window.resize(width, height)
    viewer.open(str(sample.path), plugin="napari-histoad")
    panel.controller.maps.show(AnomalyMap.open(map_folder))
    qtbot.waitUntil(lambda: "region" in panel["review"].rate_info.text())

    def in_view(widget):
        corners = (widget.mapTo(window, widget.rect().topLeft()), widget.mapTo(window, widget.rect().bottomRight()))
        return widget.isVisible() and all(window.rect().contains(corner) for corner in corners)

    save = panel["save"].save_button.native
    area = panel.scroll_area.viewport()
    qtbot.waitUntil(lambda: area.rect().contains(save.mapTo(area, save.rect().bottomRight())))  # scrolled to
    panel["review"].gallery_button.native.click()
    gallery = panel["review"].gallery_dock.gallery
    qtbot.waitUntil(lambda: not gallery.reading)
    buttons = gallery.findChildren(QPushButton)
    assert len(buttons) == 9
    qtbot.waitUntil(lambda: all(map(in_view, buttons)))
    qtbot.keyClick(gallery, Qt.Key.Key_E)
    pictures = [
        (name, np.full((256, 256, 3), 90, np.uint8)) for name in ("Tile", "Reconstruction", "Error map", "Class activation")
    ]
    gallery.explanation.show_panels(pictures, "score 3\n" * 8)
    qtbot.waitUntil(lambda: all(map(in_view, (gallery.explanation, *buttons))))
    gallery.message.say("something failed; " + "a long remedy " * 20)
    qtbot.waitUntil(lambda: all(map(in_view, (gallery.message, *buttons))))
    assert window.size().height() <= height
    assert window.size().width() <= width
    assert window.minimumSizeHint().height() <= 720
    gallery.stop()


def test_panel_disables_settings_while_a_job_runs(viewer, panel, words, qtbot, sample, choose_method):
    viewer.open(str(sample.path), plugin="napari-histoad")
    settings = [widget for section in panel.sections.values() for widget in section.settings]
    settings.append(panel["detector"].steps_box.native)
    assert all(setting.isEnabled() for setting in settings)
    panel["tissue"].button.native.click()
    assert panel.controller.runner.busy
    assert not any(setting.isEnabled() for setting in settings)
    assert not panel["save"].save_button.enabled
    qtbot.waitUntil(lambda: not panel.controller.runner.busy)
    assert all(setting.isEnabled() for setting in settings)
    choose_method("colour")
    assert not panel["detector"].steps_box.enabled
