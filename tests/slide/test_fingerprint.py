"""Fingerprints recognise a slide by its pixels, whatever the kind of file or array."""

import dask.array as da
import fsspec
import numpy as np
import pytest
import zarr
from dicom_writer import ENCODINGS, write_dicom
from slide_writers import half, picture, write_ndpi, write_svs

from napari_histoad import open_slide
from napari_histoad.slide import ArraySlide, take_fingerprint

IMAGE = picture(300, 420)
OTHER = np.ascontiguousarray(IMAGE[::-1, ::-1])
CENTRES = np.stack(np.meshgrid(np.arange(40, 280, 60), np.arange(40, 400, 60)), -1).reshape(-1, 2)


def ome_zarr(folder, image):
    group = zarr.open_group(folder / "slide.ome.zarr", mode="w", zarr_format=2)
    levels = (image, half(image))
    for name, level in enumerate(levels):
        array = group.create_array(str(name), shape=(3, *level.shape[:2]), chunks=(3, 64, 64), dtype=np.uint8)
        array[:] = np.moveaxis(level, -1, 0)
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": "micrometer"} for n in "yx")]
    datasets = [
        {"path": str(k), "coordinateTransformations": [{"type": "scale", "scale": [1, 0.5 * 2**k, 0.5 * 2**k]}]} for k in range(2)
    ]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    return folder / "slide.ome.zarr"


def dicom(encoding):
    def write(folder, image):
        return write_dicom(folder / "series", (image, half(image)), encoding).parent

    return write


def in_memory(folder, image):
    where = f"{folder.as_posix()}/case.svs"
    fsspec.filesystem("memory").pipe(where, write_svs(folder / "slide.svs", image).read_bytes())
    return f"memory:/{where}"


WRITERS = {
    "svs": lambda folder, image: write_svs(folder / "slide.svs", image),
    "ndpi": lambda folder, image: write_ndpi(folder / "slide.ndpi", [(image, 20, 0)]),
    "ome-zarr": ome_zarr,
    **{f"dicom {name}": dicom(name) for name in ENCODINGS},
    "url": in_memory,
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_fingerprint_recognises_a_moved_slide_and_no_other(tmp_path, write):
    known, places = {}, {"here": IMAGE, "there": IMAGE, "other": OTHER}
    for place, image in places.items():
        (tmp_path / place).mkdir()
        known[place] = write(tmp_path / place, image)
    with open_slide(known["here"]) as slide:
        fingerprint = take_fingerprint(slide, CENTRES)
        assert len(fingerprint.places) == 16
        assert None not in fingerprint.colours
        assert fingerprint.differences(slide) == ()
    with open_slide(known["there"]) as slide:
        assert fingerprint.is_of(slide)
    with open_slide(known["other"]) as slide:
        assert "its pixels differ at" in fingerprint.differences(slide)[0]
        assert not fingerprint.is_of(slide)


@pytest.mark.parametrize("lazy", [False, True])
def test_fingerprint_of_arrays_compares_pixels(lazy):
    def slide(image):
        return ArraySlide([da.from_array(image, chunks=(100, 100, 3)) if lazy else image], "layer", mpp=0.5)

    fingerprint = take_fingerprint(slide(IMAGE), CENTRES)
    assert fingerprint.index == ""
    assert fingerprint.differences(slide(IMAGE.copy())) == ()
    assert not fingerprint.is_of(slide(OTHER))
    assert "instead of 300 x 420" in fingerprint.differences(slide(IMAGE[:299]))[0]


def test_fingerprint_works_for_tiny_slides(tmp_path):
    small = ArraySlide([IMAGE[:30, :3]], "layer", mpp=0.5)
    fingerprint = take_fingerprint(small, [(15, 1)])
    assert fingerprint.is_of(ArraySlide([IMAGE[:30, :3]], "layer", mpp=0.5))
    assert not fingerprint.is_of(ArraySlide([IMAGE[-30:, -3:]], "layer", mpp=0.5))
