"""Impossible numbers given to evaluate, export and report."""

import pytest
from typer.testing import CliRunner

from napari_histoad import write_geojson
from napari_histoad.cli._app import app

TRUTH = ("evaluate", "MAP", "--truth", "TRUTH")
NUMBERS = ("0", "-1", "nan", "inf")


@pytest.mark.parametrize(
    ("args", "word"),
    [
        *(((*TRUTH, "--truth-downsample", number), "downsample of annotations cannot be") for number in NUMBERS),
        *(((*TRUTH, "--rate", number), "not between 0 and 1") for number in (*NUMBERS, "1")),
        *(((*TRUTH, "--fdr", number), "between 0 and 1") for number in NUMBERS),
        *((("export", "MAP", "--csv", "--out", "OUT", "--rate", number), "not between 0 and 1") for number in NUMBERS),
        *((("export", "MAP", "--geojson", "--out", "OUT", "--fdr", number), "between 0 and 1") for number in NUMBERS),
        *((("report", "MAP", "--out", "OUT/r.html", "--rate", number), "not between 0 and 1") for number in NUMBERS),
        (("evaluate", "scores.csv", "--truth", "TRUTH", "--truth-downsample", "32"), "are for maps"),
    ],
)
def test_commands_refuse_impossible_numbers_and_write_nothing(map_folder, sample, tmp_path, args, word):
    write_geojson(sample.plan.planted, tmp_path / "truth.geojson")
    out = tmp_path / "out"
    places = {
        "MAP": str(map_folder),
        "TRUTH": str(tmp_path / "truth.geojson"),
        "OUT": str(out),
        "OUT/r.html": str(out / "r.html"),
    }
    result = CliRunner().invoke(app, [places.get(arg, arg) for arg in args])
    assert result.exit_code == 2, result.output
    assert word in result.output
    assert "unexpected" not in result.output
    assert not out.exists()
