"""Real slides; skipped if there are none."""

import numpy as np
import openslide
import pytest

from napari_histoad import find_tissue, open_slide
from napari_histoad.errors import EmptyTissueError


def test_svs_equals_openslide(data_folder):
    path = data_folder / "slides/CMU-1-Small-Region.svs"
    rng = np.random.default_rng(0)
    with open_slide(path) as slide, openslide.OpenSlide(path) as reference:
        assert slide.mpp == 0.499
        assert set(slide.associated) == {"label", "macro", "thumbnail"}
        assert slide.associated["macro"]().shape == (431, 1280, 3)
        for _ in range(20):
            y, x = (int(v) for v in rng.integers(0, 2000, 2))
            theirs = np.asarray(reference.read_region((x, y), 0, (180, 150)))
            inside = theirs[..., 3] == 255
            assert np.array_equal(slide.read(0, y, x, 150, 180)[inside], theirs[..., :3][inside])


def test_dicom_copy_has_the_same_tissue_at_the_same_place_as_the_svs(data_folder):
    folder = data_folder / "slides/cmu-1-small-region-dicom"
    with (
        open_slide(next(folder.glob("level-0-*.dcm"))) as dicom,
        open_slide(data_folder / "slides/CMU-1-Small-Region.svs") as svs,
    ):
        assert dicom.shape == svs.shape
        a, b = dicom.read(0, 900, 900, 300, 300).astype(int), svs.read(0, 900, 900, 300, 300).astype(int)
        assert np.abs(a - b).mean() < 12  # compressed once more, its header says RGB where its frames are YCbCr
        # A shift by two pixels would show.
        agreement = [np.corrcoef(a[8:-8, 8:-8].sum(2).ravel(), b[8 + d : 292 + d, 8:-8].sum(2).ravel())[0, 1] for d in (-2, 0, 2)]
        assert agreement[1] == max(agreement) > 0.8


def test_find_tissue_finds_a_pale_fatty_lymph_node_but_not_glass_and_crosses(data_folder):
    with open_slide(data_folder / "slides/camelyon16_tumor_001_level5.tif", 7.8) as slide:
        tissue = find_tissue(slide)
    mask, scale = tissue.mask, tissue.scale_yx[0]
    assert 0.08 < mask.mean() < 0.20
    assert mask[int(3950 / scale), int(2000 / scale)]  # a node
    assert not mask[: int(1000 / scale)].mean() > 0.01  # crosses and the edge of the cover slip
    assert not mask[int(5800 / scale) :].mean() > 0.01


def test_find_tissue_refuses_rgb_fluorescence(data_folder, monkeypatch):
    monkeypatch.setattr("napari_histoad.slide._tiff_layout._NDPI_FLUORESCENCE", 1)
    with open_slide(data_folder / "slides/fluorescence-dapi.ndpi") as slide, pytest.raises(EmptyTissueError, match="brightfield"):
        find_tissue(slide)
