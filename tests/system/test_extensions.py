"""Other packages add detectors, slide formats, exports and panel sections."""

import logging

from napari_histoad.system.extensions import load_extensions


def test_load_extensions_returns_the_objects_of_other_packages_by_name(add_package):
    add_package("more-formats", "class Tile: pass", {"napari_histoad.slide_formats": {"tile": "more_formats:Tile"}})
    assert load_extensions("napari_histoad.slide_formats")["tile"].__name__ == "Tile"
    assert "tile" not in load_extensions("napari_histoad.exports")


def test_load_extensions_leaves_out_a_package_that_fails_and_names_it(add_package, caplog):
    points = {"napari_histoad.exports": {"broken": "broken_export:Export", "gone": "broken_export:gone"}}
    add_package("broken-export", "import no_such_module", points)
    with caplog.at_level(logging.WARNING, "napari_histoad"):
        assert not {"broken", "gone"} & set(load_extensions("napari_histoad.exports"))
    assert "broken of the package broken-export 1.0" in caplog.text
    assert "No module named 'no_such_module'" in caplog.text
    assert len(caplog.records) == 2
    load_extensions("napari_histoad.exports")
    assert len(caplog.records) == 2, "reported once"
