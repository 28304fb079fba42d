import pytest
from PIL import Image

from napari_histoad.errors import SettingsError
from napari_histoad.tiles import list_tile_files, read_tile_files


def test_tile_files_from_folder_and_manifest(tmp_path):
    for name in ("a/1.png", "a/2.png", "b/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), (9, 8, 7)).save(tmp_path / name)
    assert [f.group for f in list_tile_files(tmp_path)] == ["a", "a", "b"]
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("file,label,group\na/1.png,0,p1\nb/3.png,1,p2\n")
    files = list_tile_files(manifest)
    assert [f.label for f in files] == [0, 1]
    assert read_tile_files(files, 32).images[0, 0, 0].tolist() == [9, 8, 7]
    with pytest.raises(SettingsError, match="32 x 32 px, the detector takes 64 x 64"):
        read_tile_files(files, 64, resize=False)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("name,label\nx.png,0\n", "no column named file"),
        ("file,label\nx.png,maybe\n", "line 2"),
        ("file,label\nx.png,0\n", "x.png cannot be read"),
    ],
)
def test_bad_manifests_are_explained(tmp_path, text, word):
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(text)
    with pytest.raises(SettingsError, match=word):
        read_tile_files(list_tile_files(manifest), 32)
