"""Exports: the built-in classes and those of other packages, through the terminal."""

import json
import logging

from typer.testing import CliRunner

from napari_histoad.cli._app import app
from napari_histoad.results import exports


def test_export_of_another_package_is_a_flag_of_the_terminal(toy_package, map_folder, tmp_path):
    assert "--tile-count" in CliRunner().invoke(app, ["export", "--help"]).stdout
    arguments = ["export", str(map_folder), "--tile-count", "--csv", "--rate", "0.02", "--out", str(tmp_path), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    names = ["sample.tiles.csv", "sample.tiles.json", "sample.count.json"]
    assert json.loads(result.stdout)["written"] == [str(tmp_path / name) for name in names]
    rows = len((tmp_path / "sample.tiles.csv").read_text().splitlines()) - 1
    assert json.loads((tmp_path / "sample.count.json").read_text()) == {"tiles": rows, "rate": 0.02}


def test_exports_leaves_out_an_object_that_is_not_an_export_class_and_names_it(add_package, caplog):
    add_package("no-export", "class Thing: pass", {"napari_histoad.exports": {"thing": "no_export:Thing"}})
    with caplog.at_level(logging.WARNING, "napari_histoad"):
        assert all(export.name and export.title and export.ending for export in exports())
    assert "the export thing is left out" in caplog.text


def test_flag_of_an_export_that_is_not_installed_is_wrong_use(map_folder):
    result = CliRunner().invoke(app, ["export", str(map_folder), "--tile-count"])
    assert result.exit_code == 2
    assert "--tile-count" in result.output
