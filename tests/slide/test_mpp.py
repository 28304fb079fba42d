import pickle
from pathlib import Path

import numpy as np
import pytest

from napari_histoad.errors import SettingsError
from napari_histoad.slide import GivenMpp, locate, open_slide

TISSUE = np.full((128, 128, 3), 180, np.uint8)


def test_given_mpp_is_for_slides_that_state_none_and_override_for_all():
    assert GivenMpp("0.25").of(Path("any.svs")) == {"mpp": None, "slide_mpp": 0.25}
    assert GivenMpp("0,25").of(Path("any.svs")) == {"mpp": None, "slide_mpp": 0.25}
    assert GivenMpp("0.25", 0.5).of(Path("any.svs")) == {"mpp": 0.5, "slide_mpp": None}
    assert GivenMpp(None).of(Path("any.svs")) == {"mpp": None, "slide_mpp": None}


def test_slide_mpp_does_not_replace_a_stated_resolution_and_is_noted(write_tiff):
    with open_slide(write_tiff(TISSUE, mpp=0.5), **GivenMpp("0.25").of(Path("slide.tif"))) as slide:
        assert slide.mpp == pytest.approx(0.5)
        assert "states 0.5 µm per pixel, which is used; 0.25 is for slides that state no resolution" in slide.notes[-1]
        assert "--override-mpp 0.25" in slide.notes[-1]
        assert pickle.loads(pickle.dumps(slide)).mpp == pytest.approx(0.5)
    with open_slide(write_tiff(TISSUE, mpp=0.5), slide_mpp=0.5004) as slide:
        assert not slide.notes


def test_slide_mpp_is_used_if_the_file_states_none(write_tiff):
    with open_slide(write_tiff(TISSUE, mpp=None), slide_mpp=0.25) as slide:
        assert slide.mpp == 0.25
        assert not slide.notes
        assert pickle.loads(pickle.dumps(slide)).mpp == 0.25
        assert slide.in_srgb(True).mpp == 0.25
    with pytest.raises(SettingsError, match="outside"):
        open_slide(write_tiff(TISSUE, mpp=None), slide_mpp=300)


def test_mpp_replaces_a_stated_resolution_and_is_noted(write_tiff):
    with open_slide(write_tiff(TISSUE, mpp=0.5), **GivenMpp(None, 0.25).of(Path("slide.tif"))) as slide:
        assert slide.mpp == 0.25
        assert slide.notes[-1].endswith("states 0.5 µm per pixel; 0.25 is used instead, as given.")
    with open_slide(write_tiff(TISSUE, mpp=0.5), 0.25, slide_mpp=1.0) as slide:
        assert (slide.mpp, len(slide.notes)) == (0.25, 1)


def _of(given, path):
    return given.of(Path(path))["mpp"]


def test_given_mpp_table_names_slides_by_path_file_name_or_stem(tmp_path):
    table = tmp_path / "mpp.csv"
    table.write_text("slide,mpp,note\na.svs,0.25,x\nb,0.5,\n/data/c.tif,1,\nd.svs,\n", encoding="utf-8-sig")
    given = GivenMpp(str(table))
    paths = ("x/a.svs", "x/b.ndpi", "/data/c.tif", "d.svs")
    assert [_of(given, p) for p in paths] == [0.25, 0.5, 1.0, None]


def test_given_mpp_table_distinguishes_slides_of_one_name_by_path(tmp_path, monkeypatch):
    table = tmp_path / "mpp.csv"
    table.write_text("slide,mpp\np1/a.svs,0.25\np2\\a.svs,0.5\nC:\\scans\\b.svs,1\n")
    for patient in ("p1", "p2", "p3"):
        (tmp_path / patient).mkdir()
        (tmp_path / patient / "a.svs").touch()
    given = GivenMpp(str(table))
    assert [_of(given, tmp_path / p / "a.svs") for p in ("p1", "p2", "p3")] == [0.25, 0.5, None]
    assert _of(given, tmp_path / "b.svs") == 1.0
    monkeypatch.chdir(tmp_path / "p1")
    assert _of(given, "a.svs") == 0.25


def test_given_mpp_names_the_lines_that_match_no_slide(tmp_path):
    table = tmp_path / "mpp.csv"
    table.write_text("slide,mpp\na.svs,0.25\nb,0.5\np1/c.svs,1\np2/c.svs,0.5\nhttps://x.org/d.tif?signature=1,0.5\nd.svs,\n")
    given = GivenMpp(str(table))
    assert given.unmatched == ("a.svs", "b", "p1/c.svs", "p2/c.svs", "https://x.org/d.tif")
    for path in ("x/a.svs", "b.ndpi", tmp_path / "p1" / "c.svs", "https://x.org/d.tif?signature=1"):
        given.of(Path(path) if "https" not in str(path) else locate(path))
    assert given.unmatched == ("p2/c.svs",)


@pytest.mark.parametrize(
    "text",
    [
        ",slide,mpp\n0,a.svs,0.5\n",
        "Unnamed: 0,slide,mpp\n0,a.svs,0.5\n",
        "slide,mpp,\na.svs,0.5,\n",
        "slide;mpp\na.svs;0,5\n",
        'slide,mpp\na.svs,"0,5"\n',
        "Slide\tMPP\na.svs\t0.5\n",
        "slide, mpp\na.svs, 0.5\na.svs,0.50\n,\n",
        "mpp,slide\n0.5,a.svs\n",
    ],
)
def test_given_mpp_reads_tables_of_any_program(tmp_path, text):
    (tmp_path / "mpp.csv").write_text(text)
    assert _of(GivenMpp(str(tmp_path / "mpp.csv")), "a.svs") == 0.5


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("slide,size\na,1\n", "no column named mpp"),
        ("slide,mpp\na,fine\n", "line 2: 'fine' is not a number"),
        ("slide,mpp\na,0.5 um\n", "line 2: '0.5 um' is not a number"),
        ("slide,mpp\na,300\n", "line 2"),
        ("slide,mpp\na,0\n", "line 2"),
        ("slide,mpp\na,inf\n", "line 2"),
        ("slide,mpp\n,0.5\n", "line 2: no slide is named"),
        ("slide,mpp\na,0.5\na,0.25\n", "line 3: a has 0.25, but 0.5 in line 2"),
        ("slide,mpp\n", "lists no slide"),
        ("", "is empty"),
    ],
)
def test_given_mpp_reports_bad_tables(tmp_path, text, word):
    table = tmp_path / "mpp.csv"
    table.write_text(text)
    with pytest.raises(SettingsError, match=word):
        GivenMpp(str(table))


@pytest.mark.parametrize("text", ["none.csv", "0.25 um", "-1", "nan"])
def test_given_mpp_refuses_invalid_resolutions(text):
    with pytest.raises(SettingsError, match="slide-mpp"):
        GivenMpp(text)
    with pytest.raises(SettingsError, match="override-mpp"):
        GivenMpp(None, -1.0)
