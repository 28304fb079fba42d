"""What error rates are valid for, from training to the report: tissue like that of the calibration, or a new slide."""

import json

import numpy as np
import pytest
import tifffile
from PIL import Image
from shapely.geometry import box
from typer.testing import CliRunner

from napari_histoad import AnomalyMap, open_slide, write_geojson
from napari_histoad.cli._app import app
from napari_histoad.regions import Region

REMEDY = "outline normal tissue on this slide to recalibrate"
FEW = "With 8 slides no rate below 11.1% can be promised for a new slide"
SIMILAR, NEW = ("--valid-for", "similar"), ("--valid-for", "new-slide")


def _run(*args, code=0):
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == code, result.output
    return result


def _json(*args, code=0):
    return json.loads(_run(*args, "--json", code=code).stdout)


@pytest.fixture(scope="module")
def slides(sample, tmp_path_factory):
    """Nine small slides, cut from the middle of the sample slide."""
    folder, found = tmp_path_factory.mktemp("slides"), []
    with open_slide(sample.path) as opened:
        for y in (512, 832, 1152):
            for x in (512, 832, 1152):
                found.append(folder / f"{y}-{x}.tif")
                pixels = opened.read(0, y, x, 320, 320)
                tifffile.imwrite(found[-1], pixels, tile=(64, 64), resolution=(2e4, 2e4), resolutionunit="CENTIMETER")
    return found


@pytest.fixture(scope="module")
def trained(slides, tmp_path_factory):
    """A detector trained on eight slides, as a path, and what the terminal says of it."""
    model = tmp_path_factory.mktemp("model") / "d.safetensors"
    args = ("train", *slides[:8], "--detector", "colour", "--tile-px", 64, "--tissue", "found", "--device", "cpu")
    return model, _json(*args, "--out", model)


@pytest.fixture
def mapped(slides, trained, tmp_path):
    """Return a function that maps a slide and gives what the terminal says of it."""

    def run(slide=slides[8], options=(), code=0):
        args = ("--model", trained[0], "--out", tmp_path / "maps", "--stride", 64, "--device", "cpu")
        return _json("map", slide, *args, *options, code=code)

    return run


def test_train_and_models_promise_a_rate_for_similar_tissue_and_say_what_is_missing_for_a_new_slide(trained):
    model, said = trained
    words = said["calibration"]
    assert "valid for tissue like that of these slides or tiles, not for a new slide" in words
    assert "for which 8 slides support no rate below 11.1%; outline normal tissue on it to recalibrate" in words
    assert said["smallest_rate"] == pytest.approx(1 / (said["held_out_tiles"] + 1))
    assert said["smallest_rate_for_a_new_slide"] == pytest.approx(1 / 9)
    assert _json("models", model)["calibration"] == words
    assert words in _run("models", model).stdout
    refused = _run("info", model, code=2)
    assert f"describe it with histoad models {model}" in refused.stderr


def test_map_of_a_new_slide_says_that_rates_are_not_valid_there_and_the_remedy(mapped, slides):
    (said,) = mapped()["maps"]
    assert said["valid_for"] == "similar"
    assert "which this slide may not be" in said["summary"]
    assert f"{FEW}; {REMEDY}" in said["summary"]
    assert said["calibration"].endswith(f"{FEW}; {REMEDY}")
    (own,) = mapped(slides[0])["maps"]
    assert "may not be" not in own["summary"]
    assert REMEDY not in own["summary"]


def test_valid_for_chooses_the_rates_of_a_map_anew(mapped):
    (similar,) = mapped()["maps"]
    (new,) = mapped(options=NEW)["maps"]
    assert new["valid_for"] == "new-slide"
    assert new["false_positive_rate"] == pytest.approx(1 / 9)
    assert new["false_positive_rate"] > similar["false_positive_rate"]
    assert "at a nominal false-positive rate of 11.1% on a new slide, on average" in new["summary"]
    assert "each of 8 slides counts equally: they are valid, on average, for a new slide like these" in new["calibration"]
    assert new["calibration"].endswith(f"{FEW}; {REMEDY}")
    assert "valid for tissue like" not in new["summary"]
    assert AnomalyMap.open(new["map"]).calibration.valid_for == "new-slide"
    (again,) = mapped(options=SIMILAR)["maps"]
    assert {**again, "summary": ""} == {**similar, "summary": ""}


def test_export_and_evaluate_state_the_rates_of_either_kind_and_an_empty_result_its_reason(mapped, tmp_path):
    (entry,) = mapped()["maps"]
    args = ("export", entry["map"], "--geojson", "--csv", "--out", tmp_path / "files")
    for options, valid_for, rate in ((SIMILAR, "similar", None), (NEW, "new-slide", 1 / 9)):
        said = _json(*args, *options)
        assert said["valid_for"] == valid_for
        assert said["false_positive_rate"] == pytest.approx(rate or entry["false_positive_rate"])
        for file in ("anomalies.geojson", "tiles.json"):
            found = json.loads(next((tmp_path / "files").glob(f"*.{file}")).read_text())
            about = found.get("napari_histoad", found)
            assert about["rates_valid_for"] == valid_for
            assert REMEDY in about["calibration"]
    said = _run(*args, *NEW, "--rate", 0.05).stdout
    assert f"Nothing is flagged: 8 slides support no rate below 11.11% for a new slide; {REMEDY}" in said
    assert len(said.splitlines()) == 4


def test_p_values_in_the_exported_table_are_those_of_what_rates_are_valid_for(mapped, tmp_path):
    (entry,) = mapped()["maps"]
    for options in (SIMILAR, NEW):
        _json("export", entry["map"], "--csv", "--out", tmp_path, *options)
        table = np.genfromtxt(next(tmp_path.glob("*.csv")), delimiter=",", names=True)
        opened = AnomalyMap.open(entry["map"])
        opened.use_rates_for(options[1])
        assert table["p_value"] == pytest.approx(opened.p_values, rel=1e-5)


def test_report_keeps_the_two_promises_apart(mapped, slides, tmp_path):
    (entry,) = mapped()["maps"]
    pages = {}
    for options in (SIMILAR, NEW):
        _run("report", entry["map"], "--slide", slides[8], "--out", tmp_path / "r.html", *options)
        pages[options[1]] = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "on tissue like that of these slides or tiles, which this slide may not be." in pages["similar"]
    assert "Nominal false-positive rate 11.1% on a new slide, on average." in pages["new-slide"]
    assert "8 slides, each of which counts equally" in pages["new-slide"]
    assert all(f"{FEW}; {REMEDY}" in page for page in pages.values())


def test_an_unknown_kind_of_rate_is_refused_with_the_known_ones(mapped, tmp_path):
    (entry,) = mapped()["maps"]
    for args in (
        ("export", entry["map"], "--csv", "--out", tmp_path / "e"),
        ("report", entry["map"], "--out", tmp_path / "r.html"),
    ):
        refused = _run(*args, "--valid-for", "all", code=2)
        assert "known are similar, new-slide" in refused.stderr
    assert "known are similar, new-slide" in mapped(options=("--valid-for", "all"), code=2)["error"]["remedy"]


def test_score_says_what_its_p_values_are_based_on(trained, slides, tmp_path):
    with open_slide(slides[0]) as opened:
        Image.fromarray(opened.read(0, 0, 0, 64, 64)).save(tmp_path / "a.png")
    said = _json("score", tmp_path, "--model", trained[0], "--out", tmp_path / "scores.csv", "--device", "cpu")
    assert said["calibration"] == trained[1]["calibration"]


def test_false_discovery_rate_states_its_power_and_finer_rates_only_where_asked(mapped, tmp_path):
    (entry,) = mapped()["maps"]
    args = ("export", entry["map"], "--geojson", "--out", tmp_path)
    said = _run(*args, "--fdr", 0.01).stderr
    assert "A false discovery rate of 1% flags nothing unless " in said
    assert " tiles reach the smallest p-value, " in said
    for command in (
        args,
        ("evaluate", entry["map"], "--truth", "t.geojson"),
        ("report", entry["map"], "--out", tmp_path / "r.html"),
    ):
        refused = _run(*command, "--extrapolate", "--rate", 0.001, code=2).stderr
        assert "p-values cannot be extrapolated: " in refused
        assert "calibrate on more normal tissue" in refused
    assert not (tmp_path / "r.html").exists()


def test_recalibrate_sets_the_rates_of_a_map_by_normal_outlines_on_its_slide(mapped, tmp_path):
    (entry,) = mapped(options=("--stride", 32))["maps"]
    outlines = tmp_path / "normal.geojson"
    halves = [Region(box(0, 0, 160, 320), "Normal"), Region(box(160, 0, 320, 320), "Normal"), Region(box(0, 0, 9, 9), "Tumor")]
    write_geojson(halves, outlines)
    args = ("recalibrate", entry["map"], "--normal", outlines)
    said = _json(*args)
    assert "2 outlines of one slide: they are valid for tissue like that outlined, not for a new slide" in said["calibration"]
    assert said["normal_tiles"] <= entry["tiles"]
    words = _run(*args).stdout
    assert "area of normal tissue that regions cover" in words
    assert said["findings"] in words
    opened = AnomalyMap.open(entry["map"])
    assert opened.recalibrated
    assert opened.saved_rate == said["false_positive_rate"]
    exported = _json("export", entry["map"], "--csv", "--out", tmp_path)
    assert REMEDY not in exported["threshold"]


def test_recalibrate_names_what_is_missing_for_a_map_and_for_a_detector(mapped, trained, slides, tmp_path):
    (entry,) = mapped()["maps"]
    for args in (("--normal", "a.geojson", "--out", tmp_path / "x.safetensors"), (slides[0], "--normal", "a.geojson"), ()):
        assert "give the map and --normal with the outlines" in _run("recalibrate", entry["map"], *args, code=2).stderr
    for args in ((slides[8],), ("--out", tmp_path / "x.safetensors")):
        assert "give slides, and --out with the file" in _run("recalibrate", trained[0], *args, code=2).stderr
