import csv
import unicodedata
from pathlib import Path

import pytest

from napari_histoad.errors import SettingsError
from napari_histoad.system.tables import is_missing, listed_path, number, read_table

KNOWN = ("file", "label", "group")


def _read(tmp_path, text, encoding="utf-8", **options):
    path = tmp_path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return read_table(path, KNOWN, ("file",), **options)


def _cells(table):
    return [(row["file"], row["label"], row["group"]) for row in table.rows]


PLAIN = "file,label,group\na/1.png,0,p\nb/2.png,1,q\n"
WANTED = [("a/1.png", "0", "p"), ("b/2.png", "1", "q")]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (PLAIN, "utf-8"),
        (PLAIN, "utf-8-sig"),
        (PLAIN, "utf-16"),
        (PLAIN, "utf-16-le"),
        (PLAIN, "utf-16-be"),
        (PLAIN, "utf-32"),
        (PLAIN.replace(",", "\t"), "utf-16"),
        (PLAIN.replace(",", ";"), "utf-8"),
        (PLAIN.replace(",", "\t"), "utf-8"),
        (PLAIN.replace(",", "|"), "utf-8"),
        (PLAIN.replace(",", ", "), "utf-8"),
        (PLAIN.replace(",", " , "), "utf-8"),
        (PLAIN.replace("\n", "\r\n"), "utf-8"),
        (PLAIN.replace("\n", "\r"), "utf-8"),
        (PLAIN.replace("\n", "\n\n"), "utf-8"),
        ("\n\n" + PLAIN, "utf-8"),
        (PLAIN + ",,\n , ,\n", "utf-8"),
        (PLAIN.rstrip("\n"), "utf-8"),
        (PLAIN.replace("\n", ",\n"), "utf-8"),
        (PLAIN.replace("\n", ",,\n"), "utf-8"),
        (PLAIN.replace("q\n", "q,,\n"), "utf-8"),
        (PLAIN.replace("file,label,group", "File, LABEL ,Group\u00a0"), "utf-8"),
        ('"file","label","group"\r\n"a/1.png","0","p"\r\n"b/2.png","1","q"\r\n', "utf-8"),
        ('"file"; "label"; "group"\n"a/1.png"; "0"; "p"\n"b/2.png"; "1"; "q"\n', "utf-8"),
        ("group,file,label\np,a/1.png,0\nq,b/2.png,1\n", "utf-8"),
        (",file,label,group\n0,a/1.png,0,p\n1,b/2.png,1,q\n", "utf-8"),
        ('"","file","label","group"\n"1","a/1.png","0","p"\n"2","b/2.png","1","q"\n', "utf-8"),
        ("Unnamed: 0,file,label,group\n0,a/1.png,0,p\n1,b/2.png,1,q\n", "utf-8"),
        ("Unnamed: 0.1,Unnamed: 0,file,label,group\n0,0,a/1.png,0,p\n1,1,b/2.png,1,q\n", "utf-8"),
        ("index,file,label,group,Unnamed: 4\n0,a/1.png,0,p,\n1,b/2.png,1,q,\n", "utf-8"),
        ("# made by R\n#\n" + PLAIN, "utf-8"),
        ("sep=;\n" + PLAIN.replace(",", ";"), "utf-8"),
        ("sep=,\r\n" + PLAIN, "utf-8-sig"),
    ],
)
def test_read_table_reads_csv_of_any_program_encoding_and_separator(tmp_path, text, encoding):
    table = _read(tmp_path, text, encoding)
    assert _cells(table) == WANTED
    assert set(table.columns) == set(KNOWN)
    assert not table.others


def test_read_table_reads_a_single_column(tmp_path):
    assert [row["file"] for row in _read(tmp_path, "File\na b.png\n\nc.png\n").rows] == ["a b.png", "c.png"]


def test_read_table_keeps_separators_and_quotes_in_quoted_cells(tmp_path):
    name = 'o"brien, (x); y.png'
    with (tmp_path / "q.csv").open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([KNOWN, (name, "0", "p, q")])
    assert _cells(read_table(tmp_path / "q.csv", KNOWN, ("file",))) == [(name, "0", "p, q")]


def test_read_table_fills_short_lines_and_counts_lines_as_editors_do(tmp_path):
    table = _read(tmp_path, "# by hand\nfile,label,group\n\na/1.png\n")
    assert _cells(table) == [("a/1.png", "", "")]
    assert table.rows[0].line == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "t.csv is empty"),
        ("\n \n", "t.csv is empty"),
        ("name,label\nx,0\n", r"no column named file \(not understood: name\)"),
        ("a/1.png\nb/2.png\n", r"no column named file \(not understood: a/1.png\)"),
        ("label,group\n0,p\n", r"no column named file \(not understood: none\)"),
        ("file,lable\nx,0\n", "unknown column 'lable'; rename it to label"),
        ("file,Labels\nx,0\n", "unknown column 'Labels'; rename it to label"),
        ("file,target,split\nx,0,a\n", r"unknown column 'target' \(unknown are target, split\); rename it to label"),
        ("file,split\nx,0\n", "unknown column 'split'; leave it out; the columns are file, label, group"),
        ("files,label\nx,0\n", "no column named file .*; rename files to file"),
        ("file,label,Label \nx,0,1\n", "two columns named label"),
        ("file,label\nx,0,1\n", "line 2: 3 cells, the header names 2 columns"),
        ("file,,label\nx,5,1\n", "line 2: 3 cells, the header names 2 columns"),
        ('file,label\n"x,0\ny,1\n', "line 3: unexpected end of data"),
        ("file,label\nx\0,0\n", "line 2: contains a NUL"),
        ("file,label\nx,0\nMü,0\n".encode("latin-1"), "line 3: not readable as UTF-8; save it as CSV UTF-8"),
        (b"PK\x03\x04abc", "is a spreadsheet, not a csv file"),
        (b"\xff\xfef", "not readable as UTF-16"),
    ],
)
def test_read_table_reports_bad_tables_as_a_one_line_error(tmp_path, text, words):
    with pytest.raises(SettingsError, match=words) as caught:
        _read(tmp_path, text, synonyms={"target": "label"})
    assert "\n" not in str(caught.value)


def test_read_table_accepts_other_columns_but_not_misspelt_ones(tmp_path):
    table = _read(tmp_path, "file,label,Split\nx,0,train\n", others=True, synonyms={"target": "label"})
    assert table.others == ("Split",)
    assert _read(tmp_path, "file,label,target\nx,0,5\n", others=True, synonyms={"target": "label"}).others == ("target",)
    assert _read(tmp_path, "file,field,label\nx,f1,0\n", others=True).others == ("field",)
    for header in ("file,target", "file,lable", "file,label,labels", "file,label,grup"):
        with pytest.raises(SettingsError, match="unknown column"):
            _read(tmp_path, header + "\nx" + ",0" * header.count(","), others=True, synonyms={"target": "label"})


def test_read_table_names_a_missing_file(tmp_path):
    with pytest.raises(SettingsError, match="there is no table"):
        read_table(tmp_path / "none.csv", KNOWN, ("file",))
    with pytest.raises(SettingsError, match="cannot be read"):
        read_table(tmp_path, KNOWN, ("file",))


def test_number_accepts_a_decimal_point_or_comma():
    assert [number(text) for text in ("0.5", "0,5", " 1 ", "2")] == [0.5, 0.5, 1.0, 2.0]
    for text in ("", "1,000.5", "1.000,5", "0.5 um"):
        with pytest.raises(ValueError):
            number(text)


def test_is_missing_knows_the_usual_spellings():
    assert all(map(is_missing, ("", "NA", "n/a", "NaN", "NULL", "None", "?")))
    assert not any(map(is_missing, ("0", "normal", "no")))


def test_listed_path_accepts_any_slashes_and_unicode_accents(tmp_path):
    (tmp_path / "sub").mkdir()
    accented = unicodedata.normalize("NFC", "Ü 37°.png")
    for name in ("a.png", accented):
        (tmp_path / "sub" / name).touch()
    for text in ("sub/a.png", "sub\\a.png", ".\\sub\\a.png", "./sub\\a.png", str(tmp_path / "sub" / "a.png")):
        assert listed_path(text, tmp_path).exists()
    for form in ("NFC", "NFD"):
        assert listed_path(unicodedata.normalize(form, f"sub\\{accented}"), tmp_path).exists()
    assert str(listed_path("C:\\scans\\a.svs", tmp_path)) == "C:\\scans\\a.svs"
    assert listed_path("https://example.org/a.svs", tmp_path) == Path("https://example.org/a.svs")
    assert listed_path("sub\\none.png", tmp_path) == tmp_path / "sub" / "none.png"


def test_listed_path_keeps_a_backslash_in_a_file_name(tmp_path):
    try:
        (tmp_path / "odd\\name.png").touch()
    except OSError:
        pytest.skip("such names do not exist here")
    assert listed_path("odd\\name.png", tmp_path) == tmp_path / "odd\\name.png"
    assert listed_path("odd\\name.png", tmp_path).exists()
