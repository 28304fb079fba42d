"""Folders and tables of tiles: which files are tiles, their classes and groups."""

import os

import numpy as np
import pytest
from PIL import Image

from napari_histoad.errors import SettingsError
from napari_histoad.tiles import list_normal_files, list_tile_files, near_duplicates, read_tile_files, tile_side
from napari_histoad.tiles._class_names import class_of_label, kind_of


def _make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (9, 8, 7)).save(folder / name)


def _names(files):
    return [file.name for file in files]


def test_list_tile_files_reads_folders_and_manifests(tmp_path):
    _make(tmp_path, "a/1.png", "a/2.png", "b/3.png")
    assert [f.group for f in list_tile_files(tmp_path)] == ["a", "a", "b"]
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("file,label,group\na/1.png,0,p1\nb/3.png,1,p2\n")
    files = list_tile_files(manifest)
    assert [f.label for f in files] == [0, 1]
    assert read_tile_files(files, 32).images[0, 0, 0].tolist() == [9, 8, 7]
    with pytest.raises(SettingsError, match="32 x 32 px, but the detector needs 64 x 64"):
        read_tile_files(files, 64, resize=False)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("name,label\nx.png,0\n", "unknown column 'name'; rename it to file"),
        ("picture\nx.png\n", "'picture'|no column named file|not understood: picture"),
        ("label\n0\n", "no column named file"),
        ("file,label\nx.png,-1\n", "line 2: label '-1'"),
        ("file,label\nx.png,0.5\n", "line 2: label '0.5'"),
        ("file,label\nx.png,0\n", "x.png cannot be read"),
        ("file,label\nhttps://example.org/x.png,0\n", "cannot be read"),
        ("file,label\n,0\n", "line 2: the column file is empty"),
        ("file,label\nx.png,0\nx.png,1\n", "line 3: x.png was listed above with another label"),
        ("file,label\nx.png,0\nx.png,\n", "line 3: x.png was listed above with another label"),
        ("file,label,class\nx.png,0,tumour\n", "line 2: the label is 0 but the class is tumour"),
        ("file,label,class\nx.png,1,Normal\n", "line 2: the label is 1 but the class is Normal"),
        ("file,label\n", "contains no tiles"),
    ],
)
def test_list_tile_files_reports_bad_manifests(tmp_path, text, word):
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(text)
    with pytest.raises(SettingsError, match=word):
        read_tile_files(list_tile_files(manifest), 32)


@pytest.mark.parametrize(
    "column", ["lable", "Labels", "target", "y", "ground_truth", "is_tumor", "diagnosis", "status", "score", "x1"]
)
def test_list_tile_files_refuses_unknown_columns_that_may_be_the_label(tmp_path, column):
    (tmp_path / "m.csv").write_text(f"file,{column}\nx.png,1\n")
    for read in (list_tile_files, list_normal_files):
        with pytest.raises(SettingsError, match=column):
            read(tmp_path / "m.csv")


@pytest.mark.parametrize(
    "header", ["file,label", "file, label", "File,Label", " FILE , LABEL ", '"file","label"', "\ufefffile,label", "file,label,"]
)
@pytest.mark.parametrize(
    ("normal", "anomalous"),
    [
        ("0", "1"),
        ("0.0", "1.0"),
        ("False", "True"),
        ("normal", "tumor"),
        ("benign", "carcinoma"),
        ("Healthy", "sick"),
        ("0", "7"),
    ],
)
def test_list_normal_files_returns_lines_of_label_0(tmp_path, header, normal, anomalous):
    rows = "".join(f"{k}.png,{anomalous if k % 2 else normal}\n" for k in range(6))
    (tmp_path / "m.csv").write_text(f"{header}\n{rows}", encoding="utf-8")
    files, notes, grouped = list_normal_files(tmp_path / "m.csv")
    assert _names(files) == ["0.png", "2.png", "4.png"]
    assert not grouped
    assert "3 tiles" in notes[-1]
    assert "left out" in notes[-1]


def test_list_tile_files_reads_further_columns_and_labels_of_ambiguous_classes(tmp_path):
    (tmp_path / "manifest.csv").write_text(
        "file,mask,class,label,group,magnification,field,verified,f_normal\n"
        'a.jpg,m.png,negative_window_positive_patient,0,p1,"40x (0.24 um/px)",f1,window,0.5\n'
        'b.png,m.png,positive_window,1,p1,"40x (0.24 um/px)",f2,patient,0\n'
    )
    files = list_tile_files(tmp_path / "manifest.csv")
    assert [(f.name, f.label, f.group) for f in files] == [("a.jpg", 0, "p1"), ("b.png", 1, "p1")]
    chosen, notes, _ = list_normal_files(tmp_path / "manifest.csv")
    assert [f.name for f in chosen] == ["a.jpg"]
    assert any("unused columns: mask, magnification, field, verified, f_normal" in note for note in notes)


@pytest.mark.parametrize("empty", ["", "NA", "nan", "null", " "])
def test_list_normal_files_leaves_out_and_counts_lines_without_a_label(tmp_path, empty):
    (tmp_path / "m.csv").write_text(f"file,label\na.png,0\nb.png,{empty}\nc.png,1\n")
    files, notes, _ = list_normal_files(tmp_path / "m.csv")
    assert _names(files) == ["a.png"]
    assert "without a label (1 tiles)" in notes[-1]
    assert [file.label for file in list_tile_files(tmp_path / "m.csv")] == [0, None, 1]
    (tmp_path / "m.csv").write_text(f"file,label\na.png,{empty}\nb.png,{empty}\n")
    with pytest.raises(SettingsError, match="no tile of m.csv is known as normal"):
        list_normal_files(tmp_path / "m.csv")


def test_list_normal_files_uses_the_class_column_without_labels(tmp_path):
    (tmp_path / "m.csv").write_text("file,class,split\na.png,stroma,x\nb.png,Normal,y\nc.png,tumour,y\n")
    files, notes, _ = list_normal_files(tmp_path / "m.csv")
    assert _names(files) == ["b.png"]
    assert "unused columns: split" in notes[0]
    assert _names(list_normal_files(tmp_path / "m.csv", ("Stroma",)).files) == ["a.png"]
    assert len(list_normal_files(tmp_path / "m.csv", ("all-tiles",)).files) == 3
    (tmp_path / "m.csv").write_text("file,class\na.png,stroma\nc.png,adenoma\n")
    with pytest.raises(SettingsError, match=r"adenoma \(1 tiles\), stroma \(1 tiles\).*--normal-class"):
        list_normal_files(tmp_path / "m.csv")


def test_list_normal_files_returns_all_lines_of_a_table_without_labels_with_a_note(tmp_path):
    (tmp_path / "m.csv").write_text("file,group\na.png,p\nb.png,q\nb.png,q\n")
    files, notes, grouped = list_normal_files(tmp_path / "m.csv")
    assert (len(files), grouped) == (2, True)
    assert "repeat a file" in notes[0]
    assert "all of its 2 tiles are used as normal" in notes[1]


def test_list_tile_files_finds_windows_paths(tmp_path):
    _make(tmp_path, "a/b/1.png")
    (tmp_path / "m.csv").write_text(f"file;label\na\\b\\1.png;0\n.\\a/b\\1.png;0\n{tmp_path / 'a/b/1.png'};0\n")
    assert [file.path.exists() for file in list_tile_files(tmp_path / "m.csv")] == [True] * len(
        list_tile_files(tmp_path / "m.csv")
    )


def test_find_tiles_ignores_system_files(tmp_path):
    _make(
        tmp_path,
        "a/1.png",
        "a/._1.png",
        "a/.2.png",
        "__MACOSX/a/3.png",
        ".hidden/4.png",
        "a/.ipynb_checkpoints/5.png",
        "@eaDir/6.png",
    )
    (tmp_path / "a" / "old.png").mkdir()
    (tmp_path / "a" / "Thumbs.db").touch()
    (tmp_path / "a" / "notes.txt").touch()
    _make(tmp_path, "a/X.PNG", "a/Y.JPEG")
    assert _names(list_tile_files(tmp_path)) == ["a/1.png", "a/X.PNG", "a/Y.JPEG"]


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_find_tiles_keeps_broken_links_and_stops_at_circular_ones(tmp_path):
    _make(tmp_path / "tiles", "a/1.png")
    (tmp_path / "tiles" / "a" / "gone.png").symlink_to(tmp_path / "none.png")
    (tmp_path / "tiles" / "a" / "round").symlink_to(tmp_path / "tiles")
    os.mkfifo(tmp_path / "tiles" / "a" / "pipe.png")
    files = list_tile_files(tmp_path / "tiles")
    assert _names(files) == ["a/1.png", "a/gone.png"]
    errors = {}
    assert len(read_tile_files(files, 32, errors=errors)) == 1
    assert "gone.png" in str(errors[1])


LAYOUTS = {
    "class folders": (["normal/1.png", "normal/2.png", "tumour/3.png"], ["normal/1.png", "normal/2.png"], False),
    "other words": (["Benign/1.png", "malignant/2.png"], ["Benign/1.png"], False),
    "unknown siblings": (["good/1.png", "crack/2.png", "x/3.png"], ["good/1.png"], False),
    "numbers": (["0/1.png", "1/2.png"], ["0/1.png"], False),
    "numbered words": (["0_normal/1.png", "1_tumor/2.png"], ["0_normal/1.png"], False),
    "negations": (["non_tumor/1.png", "tumor/2.png"], ["non_tumor/1.png"], False),
    "class numbers": (["class0/1.png", "class1/2.png"], ["class0/1.png"], False),
    "malaria": (["Uninfected/1.png", "Parasitized/2.png"], ["Uninfected/1.png"], False),
    "colon": (["NORM/1.png", "TUM/2.png", "STR/3.png"], ["NORM/1.png"], False),
    "patient above": (["8863/0/1.png", "8863/1/2.png", "9/0/3.png", "9/1/4.png"], ["8863/0/1.png", "9/0/3.png"], True),
    "patients 0 and 1": (["0/0/1.png", "0/1/2.png", "1/0/3.png", "1/1/4.png"], ["0/0/1.png", "1/0/3.png"], True),
    "patient below": (["normal/p1/1.png", "normal/p2/2.png", "tumour/p1/3.png"], ["normal/p1/1.png", "normal/p2/2.png"], True),
    "slides with a class": (
        ["normal_001/1.png", "normal_002/2.png", "tumor_001/3.png"],
        ["normal_001/1.png", "normal_002/2.png"],
        True,
    ),
    "loose files": (["normal/1.png", "2.png"], ["normal/1.png"], False),
    "MVTec": (
        ["train/good/1.png", "test/good/2.png", "test/cut/3.png", "ground_truth/cut/3_mask.png"],
        ["train/good/1.png"],
        False,
    ),
    "MVTec train": (["good/1.png"], ["good/1.png"], False),
    "sets": (["train/normal/1.png", "train/tumor/2.png", "val/normal/3.png"], ["train/normal/1.png"], False),
    "file names": (["normal_1.png", "tumor_2.png"], ["normal_1.png"], False),
    "IDC, flat": (["9_idx5_x1_y1_class0.png", "9_idx5_x2_y1_class1.png"], ["9_idx5_x1_y1_class0.png"], False),
    "flat": (["1.png", "2.png"], ["1.png", "2.png"], False),
    "patients": (["p1/1.png", "p2/2.png"], ["p1/1.png", "p2/2.png"], True),
    "patients in one folder": (["tiles/p1/1.png", "tiles/p2/2.png"], ["tiles/p1/1.png", "tiles/p2/2.png"], True),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_list_normal_files_returns_tiles_of_normal_class_folders(tmp_path, layout):
    names, expected, grouped = LAYOUTS[layout]
    _make(tmp_path / "set", *names)
    files, notes, found = list_normal_files(tmp_path / "set")
    assert _names(files) == expected
    assert found == grouped
    assert bool(notes) == (layout not in ("flat", "patients", "patients in one folder"))


def test_sort_into_classes_groups_by_patient_not_by_class_folder(tmp_path):
    _make(tmp_path, *(f"{patient}/{kind}/{k}.png" for patient in ("a1", "b2") for kind in ("normal", "tumour") for k in range(2)))
    files = list_tile_files(tmp_path)
    assert {(file.path.parts[-3], file.group) for file in files} == {("a1", "a1"), ("b2", "b2")}
    assert {file.class_name for file in files} == {"normal", "tumour"}
    everything = list_normal_files(tmp_path, ("all-tiles",))
    assert len(everything.files) == 8
    assert {file.group for file in everything.files} == {"a1", "b2"}


@pytest.mark.parametrize(
    "names",
    [
        ["tumour/1.png", "stroma/2.png"],
        ["tumour/1.png"],
        ["adenosis/1.png", "fibroma/2.png"],
        ["1/1.png", "tumor/2.png"],
        ["tumor_1.png"],
    ],
)
def test_list_normal_files_refuses_classes_of_which_none_is_known_as_normal(tmp_path, names):
    _make(tmp_path / "set", *names)
    with pytest.raises(SettingsError, match="normal.*--normal-class NAME"):
        list_normal_files(tmp_path / "set")
    assert len(list_normal_files(tmp_path / "set", ("all-tiles",)).files) == len(names)
    if "/" in names[0]:
        chosen = names[0].split("/")[0]
        assert _names(list_normal_files(tmp_path / "set", (chosen.upper(),)).files) == [names[0]]
    with pytest.raises(SettingsError, match="no folder of set is named other"):
        list_normal_files(tmp_path / "set", ("other",))


def test_list_tile_files_reports_an_empty_or_missing_folder(tmp_path):
    for read in (list_tile_files, list_normal_files):
        with pytest.raises(SettingsError, match=r"contains no tiles; tiles are files that end in .*\.png"):
            read(tmp_path)
        with pytest.raises(SettingsError, match="there is no"):
            read(tmp_path / "none")


def test_kind_of_knows_names_of_normal_and_anomalous_classes():
    for name in (
        "normal",
        "Normal",
        "0_normal",
        "non-tumor",
        "nonTumor",
        "no tumour",
        "NORM",
        "healthy tissue",
        "negative",
        "tumor_free",
        "tumor_negative",
        "negative_window_negative_patient",
    ):
        assert kind_of(name) == "normal", name
    for name in (
        "tumor",
        "01_TUMOR",
        "abnormal",
        "not_normal",
        "unhealthy",
        "benign_tumor",
        "positive",
        "positive_window",
        "IDC",
        "carcinoma in situ",
    ):
        assert kind_of(name) == "anomalous", name
    for name in ("stroma", "p1", "8863", "", "a", "negative_window_positive_patient", "patient 3"):
        assert kind_of(name) == "", name
    assert [class_of_label(text) for text in ("0", "0.0", "no", "2", "True", "-1", "inf", "?")] == [
        0,
        0,
        0,
        2,
        1,
        None,
        None,
        None,
    ]


def test_tile_side_is_that_of_the_files_or_the_nearest_accepted():
    assert tile_side([(224, 224)] * 3, lambda side: side % 8 == 0, "x") == (224, "")
    side, note = tile_side([(50, 50)], lambda side: side % 16 == 0, "x")
    assert side == 48
    assert "50 px are resized to 48 px" in note
    for sizes in ([(50, 50), (60, 60)], [(50, 60)]):
        with pytest.raises(SettingsError, match="--tile-px"):
            tile_side(sizes, lambda side: True, "x")


def test_near_duplicates_finds_copies_in_every_orientation():
    rng = np.random.default_rng(0)
    tiles = [np.kron(rng.integers(60, 220, (16, 16, 3)), np.ones((6, 6, 1))).astype(np.uint8) for _ in range(12)]
    copies = [
        tiles[0][::-1],
        np.rot90(tiles[1]),
        (tiles[2] * 0.9).astype(np.uint8),
        tiles[3] + rng.integers(0, 3, tiles[3].shape, np.uint8),
    ]
    clusters = near_duplicates(np.stack([*tiles, *copies]))
    assert clusters[12:].tolist() == clusters[:4].tolist()
    assert len(np.unique(clusters)) == 12


def test_list_normal_files_notes_slides_that_are_left_out(tmp_path):
    folder = tmp_path / "set"
    _make(folder, "a.png", "b.png")
    assert list_normal_files(folder).notes == ()
    (folder / "more").mkdir()
    for name in ("one.svs", "two.ndpi", "notes.txt", "more/three.svs", "more/.four.svs"):
        (folder / name).touch()
    chosen = list_normal_files(folder)
    assert _names(chosen.files) == ["a.png", "b.png"]
    (note,) = chosen.notes
    assert "(more/three.svs, one.svs, two.ndpi)" in note
    assert "notes.txt" not in note
