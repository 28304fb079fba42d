from pathlib import Path

import pytest

from napari_histoad.errors import SettingsError
from napari_histoad.slide import GivenMpp


def test_one_number_is_for_all():
    assert GivenMpp("0.25").of(Path("any.svs")) == 0.25
    assert GivenMpp(None).of(Path("any.svs")) is None


def test_a_table_names_slides_by_path_file_or_stem(tmp_path):
    table = tmp_path / "mpp.csv"
    table.write_text("slide,mpp,note\na.svs,0.25,x\nb,0.5,\n/data/c.tif,1,\n", encoding="utf-8-sig")
    given = GivenMpp(str(table))
    paths = ("x/a.svs", "x/b.ndpi", "/data/c.tif", "d.svs")
    assert [given.of(Path(p)) for p in paths] == [0.25, 0.5, 1.0, None]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("slide,size\na,1\n", "lacks the columns"),
        ("slide,mpp\na,fine\n", "line 2"),
        ("slide,mpp\na,300\n", "line 2"),
        ("", "lacks"),
    ],
)
def test_bad_tables_are_explained(tmp_path, text, word):
    table = tmp_path / "mpp.csv"
    table.write_text(text)
    with pytest.raises(SettingsError, match=word):
        GivenMpp(str(table))


@pytest.mark.parametrize("text", ["none.csv", "0.25 um", "-1"])
def test_what_is_no_resolution_is_explained(text):
    with pytest.raises(SettingsError, match="slide-mpp"):
        GivenMpp(text)
