"""Reading a file at any position."""

import numpy as np
import pytest

from napari_histoad import open_slide
from napari_histoad.slide._positional_file import PositionalFile


def test_positional_file_refuses_to_read_after_closing(tmp_path):
    (tmp_path / "f").write_bytes(b"0123456789")
    file = PositionalFile(tmp_path / "f")
    assert file.read(4, 3) == b"3456"
    file.close()
    file.close()
    with pytest.raises(OSError, match="closed"):
        file.read(1, 0)


def test_positional_file_reads_unicode_names_and_read_only_files(write_tiff):
    image = np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8)
    path = write_tiff(image, "Präparat 7 – 切片.tif")
    path.chmod(0o444)
    with open_slide(str(path)) as slide:
        assert slide.name == "Präparat 7 – 切片"
        assert np.array_equal(slide.read(0, 0, 0, 80, 80), image)
