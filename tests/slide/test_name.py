"""Names of slides, and which paths are slides."""

import numpy as np
import pytest
import zarr
from dicom_writer import write_dicom
from PIL import Image
from slide_writers import half, picture

from napari_histoad import open_slide
from napari_histoad.engine import CohortSlide, TrainingSource, cohort_job, map_path
from napari_histoad.errors import SettingsError
from napari_histoad.slide import file_name, is_slide, slide_name
from napari_histoad.tiles import list_tile_files

IMAGE = picture(150, 200)


def write_zarr(folder, version=2):
    group = zarr.open_group(folder, mode="w", zarr_format=version)
    array = group.create_array("0", shape=(3, *IMAGE.shape[:2]), chunks=(3, 64, 64), dtype="u1")
    array[:] = np.moveaxis(IMAGE, 2, 0)
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": "micrometer"} for n in "yx")]
    scale = [{"type": "scale", "scale": [1, 0.5, 0.5]}]
    scales = [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}], "version": "0.4"}]
    group.attrs.update({"multiscales": scales} if version == 2 else {"ome": {"version": "0.5", "multiscales": scales}})
    return folder


@pytest.fixture
def tiles(tmp_path):
    folder = tmp_path / "tiles"
    folder.mkdir()
    Image.fromarray(IMAGE[:64, :64]).save(folder / "a.png")
    return folder


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("case.svs", "case"),
        ("a/b/case.ome.tif", "case.ome"),
        ("https://host/a/case%201.svs?X-Amz-Signature=secret&x=/y.tif", "case 1"),
        ("https:/host/case.tif?sig=secret", "case"),
        ("https://user:password@host/case.tif#part", "case"),
        ("s3://bucket/case #3.svs", "case #3"),
        ("https://host/..%2F..%2Fetc%2Fcase.tif", "_.._etc_case"),
        ("https://host/?token=secret", "host"),
    ],
)
def test_slide_name_of_files_and_urls(path, name):
    assert slide_name(path) == name
    assert "secret" not in file_name(path)


def test_slide_name_of_a_folder_keeps_its_dots(tmp_path):
    one, two = tmp_path / "1.2.840.11", tmp_path / "1.2.840.12"
    for folder in (one, two):
        instance = write_dicom(folder, (IMAGE, half(IMAGE)), "jpeg 2000")
        assert slide_name(folder) == slide_name(instance) == file_name(instance) == folder.name
        with open_slide(folder) as slide, open_slide(instance) as same:
            assert slide.name == same.name == slide.file_name == same.file_name == folder.name
    assert map_path(one, tmp_path) != map_path(two, tmp_path)
    assert slide_name(write_zarr(tmp_path / "case.1.2")) == "case.1.2"
    assert slide_name(write_zarr(tmp_path / "case.1.zarr")) == "case.1"


def test_slide_name_of_dicom_slides_in_one_folder_is_their_file_name(tmp_path):
    first = write_dicom(tmp_path, (IMAGE,), "jpeg 2000").rename(tmp_path / "first.1.dcm")
    second = write_dicom(tmp_path, (IMAGE,), "jpeg 2000").rename(tmp_path / "second.dcm")
    assert [slide_name(first), slide_name(second)] == ["first.1", "second"]


def test_slide_name_is_that_of_the_link_and_not_of_its_target(tmp_path, write_tiff):
    link = tmp_path / "case.tif"
    link.symlink_to(write_tiff(IMAGE, "0123abc"))
    with open_slide(link) as slide:
        assert slide.name == slide_name(link) == "case"


def test_cohort_refuses_slides_of_one_name_and_tells_folders_with_dots_apart(tmp_path):
    for a, b in (("1.2.3", "1.2.4"), ("x.dicom", "x.zarr")):
        for name in (a, b):
            (tmp_path / name).mkdir(exist_ok=True)
        assert slide_name(tmp_path / a) != slide_name(tmp_path / b)
    (tmp_path / "other").mkdir()
    same = [CohortSlide(tmp_path / "case.svs"), CohortSlide(tmp_path / "other" / "case.svs")]
    with pytest.raises(SettingsError, match="same name"):
        next(cohort_job(same, tmp_path))


@pytest.mark.parametrize("name", ["l0.dcm", "L0.DCM", "IM000001", "1.2.840.113.7", ".."])
def test_is_slide_finds_dicom_with_any_file_names(tmp_path, name):
    folder = tmp_path / "one.2"
    instance = write_dicom(folder, (IMAGE,), "jpeg 2000")
    if name == "..":  # in a subfolder
        (folder / "series").mkdir()
        instance.rename(folder / "series" / "l0.dcm")
    else:
        instance.rename(folder / name)
    assert is_slide(folder)
    assert not TrainingSource(folder).is_tiles
    with open_slide(folder) as slide:
        assert slide.name == "one.2"
        assert np.array_equal(slide.read(0, 0, 0, 150, 200), IMAGE)


def test_is_slide_finds_zarr_with_and_without_its_ending(tmp_path):
    for version, name in ((2, "a.zarr"), (3, "b.ome.zarr"), (2, "c"), (3, "d.1")):
        folder = write_zarr(tmp_path / name, version)
        assert is_slide(folder)
        with open_slide(folder) as slide:
            assert np.array_equal(slide.read(0, 0, 0, 150, 200), IMAGE)


def test_is_slide_is_false_for_tiles(tiles, tmp_path):
    assert not is_slide(tiles)
    assert not is_slide(tmp_path / "manifest.CSV")
    (tiles / "notes.dcm").write_bytes(b"no DICOM")
    (tiles / "case.svs").write_bytes(b"II*\0")
    assert not is_slide(tiles)
    write_dicom(tiles / "scan", (IMAGE,), "jpeg 2000")
    assert not is_slide(tiles)  # pictures, and DICOM only below


def test_is_slide_is_true_for_files_that_are_not_there(tmp_path):
    assert is_slide(tmp_path / "missing.svs")
    assert is_slide("https://host/case.tif?list=a.csv")


def test_list_tile_files_refuses_a_folder_of_slides_and_names_them(tmp_path):
    (tmp_path / "case.svs").write_bytes(b"II*\0")
    with pytest.raises(SettingsError, match=r"folder of slides, not of tiles; give the slides themselves: .*case\.svs"):
        list_tile_files(tmp_path)
