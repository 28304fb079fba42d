"""Folders that are slides, given to napari."""

from dicom_writer import write_dicom
from PIL import Image
from slide_writers import picture

from napari_histoad.gui.reader import get_reader


def test_get_reader_takes_dicom_folders_by_any_name_and_no_folders_of_tiles(tmp_path):
    folder = tmp_path / "1.2.840.1"
    write_dicom(folder, (picture(150, 200),), "rle").rename(folder / "IM1")
    assert get_reader(str(folder)) is not None
    tiles = tmp_path / "tiles"
    tiles.mkdir()
    Image.fromarray(picture(64, 64)).save(tiles / "a.png")
    assert get_reader(str(tiles)) is None
    assert get_reader(str(tmp_path / "missing")) is None
