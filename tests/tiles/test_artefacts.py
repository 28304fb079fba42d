import numpy as np
import pytest
from scipy import ndimage

from napari_histoad import find_tissue, open_slide
from napari_histoad.errors import SettingsError, SlideError
from napari_histoad.slide import ArraySlide
from napari_histoad.tiles import (
    ARTEFACT_KINDS,
    ArtefactMask,
    TissueMask,
    artefacts_note,
    check_artefacts,
    find_artefacts,
    kinds_of,
)
from napari_histoad.tiles._artefact_features import square_features
from napari_histoad.tiles._artefacts import artefact_model_path

BOX = slice(700, 1300), slice(600, 1400)
"""A part of the sample slide that is full of tissue."""


@pytest.fixture(scope="module")
def image(sample):
    with open_slide(sample.path) as slide:
        return slide.read(0, 0, 0, *slide.shape)


def _out_of_focus(part):
    return ndimage.gaussian_filter(part, (10, 10, 0))


def _under_a_pen(part):
    return (part * np.array([0.05, 0.1, 0.5])).astype(np.uint8)


def _share(slide, box=BOX):
    """Return the share of the squares inside a box that are artefacts, and how many are of each kind."""
    found = find_artefacts(slide, TissueMask(np.ones((1, 1), bool), slide.shape))
    inside = found.kinds[tuple(slice(-(-s.start // 128), s.stop // 128) for s in box)]
    return (inside > 0).mean(), np.bincount(inside.ravel(), minlength=1 + len(ARTEFACT_KINDS))


def test_find_artefacts_finds_few_on_a_clean_slide(sample):
    with open_slide(sample.path) as slide:
        tissue = find_tissue(slide)
        found = find_artefacts(slide, tissue)
    assert found.probabilities.shape == (16, 16, len(ARTEFACT_KINDS))
    assert found.scale_yx == (128, 128)
    assert (found.kinds > 0).sum() < 0.05 * (~np.isnan(found.probabilities[..., 0])).sum()


@pytest.mark.parametrize(("spoil", "kind"), [(_out_of_focus, "out of focus"), (_under_a_pen, "pen")])
def test_find_artefacts_finds_what_is_spoilt_and_names_it(image, spoil, kind):
    spoilt = image.copy()
    spoilt[BOX] = spoil(image[BOX])
    before, _ = _share(ArraySlide([image], "scan", mpp=0.5))
    after, count = _share(ArraySlide([spoilt], "scan", mpp=0.5))
    assert before < 0.1
    assert after > 0.8
    assert count[1:].argmax() == ARTEFACT_KINDS.index(kind)


def test_find_artefacts_does_not_take_the_border_of_a_cut_slide_for_an_edge(image):
    cut = ArraySlide([np.ascontiguousarray(image[BOX][:-40, :-70])], "scan", mpp=0.5)
    found = find_artefacts(cut, TissueMask(np.ones((1, 1), bool), cut.shape))
    assert found.kinds.shape == (5, 6)
    assert (found.kinds > 0).mean() < 0.1


def test_find_artefacts_looks_only_at_tissue(image):
    mask = np.zeros((2, 2), bool)
    mask[0, 1] = True
    found = find_artefacts(ArraySlide([image], "scan", mpp=0.5), TissueMask(mask, (1024, 1024)))
    assert np.array_equal(~np.isnan(found.probabilities[..., 0]), mask.repeat(8, 0).repeat(8, 1))


def test_find_artefacts_leaves_out_what_cannot_be_read(image):
    class Damaged(ArraySlide):
        def _read_inside(self, source, y, x, out):
            if y < 900 < y + out.shape[0] and x < 900 < x + out.shape[1]:
                raise SlideError("a tile cannot be decoded", "copy the slide again")
            super()._read_inside(source, y, x, out)

    cut = np.ascontiguousarray(image[:1900, :1700])
    slides = ArraySlide([cut], "scan", mpp=0.5), Damaged([cut], "scan", mpp=0.5)
    tissue = find_tissue(slides[0])
    sound, damaged = (find_artefacts(slide, tissue).probabilities for slide in slides)
    unread = np.isnan(damaged[..., 0]) & ~np.isnan(sound[..., 0])
    assert np.array_equal(np.argwhere(unread), [[y, x] for y in range(5, 10) for x in range(5, 10)])
    others = ~np.isnan(damaged[..., 0])
    assert np.allclose(sound[others], damaged[others], atol=0.05)  # of squares read alone, filters see less around them


def test_features_are_finite_and_do_not_depend_on_what_is_far_away(image):
    features = square_features(image[:512, :512])
    assert features.shape[:2] == (16, 16)
    assert np.isfinite(features).all()
    changed = image[:512, :512].copy()
    changed[256:] = 0
    assert np.array_equal(square_features(changed)[:5], features[:5])
    for flat in (0, 255):
        assert np.isfinite(square_features(np.full((64, 64, 3), flat, np.uint8))).all()


def test_of_boxes_is_the_mean_over_the_squares_that_were_looked_at():
    probabilities = np.zeros((2, 2, len(ARTEFACT_KINDS)), np.float32)
    probabilities[0, 0, 3] = 1
    probabilities[0, 1] = np.nan
    mask = ArtefactMask(probabilities, (10.0, 10.0))
    boxes = np.array([[0, 0, 10, 10], [0, 0, 20, 20], [5, 0, 15, 10], [0, 10, 10, 20]], float)
    found = mask.of_boxes(boxes)
    assert found[:3, 3] == pytest.approx([1, 1 / 3, 0.5])
    assert np.isnan(found[3]).all()
    assert kinds_of(found) == ["pen", "", "pen", ""]
    assert np.array_equal(mask.kinds, [[4, 0], [0, 0]])


def test_note_counts_tiles_by_kind_and_says_what_was_done():
    kinds = ["pen", "", "fold", "pen", ""]
    assert artefacts_note(kinds, left_out=True) == "3 of 5 tiles were left out as artefacts: 2 pen, 1 fold"
    assert "scored like the others" in artefacts_note(kinds, left_out=False)
    assert artefacts_note(["", ""], left_out=True) == ""


def test_unknown_choice_is_refused_with_the_known_ones():
    check_artefacts("leave-out")
    with pytest.raises(SettingsError, match="choose mark, leave-out, ignore"):
        check_artefacts("remove")


def test_model_is_plain_numbers_and_small():
    assert artefact_model_path().stat().st_size < 100_000
    with np.load(artefact_model_path(), allow_pickle=False) as model:
        assert all(values.dtype == np.float32 for values in model.values())
