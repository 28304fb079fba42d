import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_histoad import find_tissue, open_slide
from napari_histoad.errors import SettingsError
from napari_histoad.slide import ArraySlide, RecolouredSlide
from napari_histoad.tiles import Stain

HAEMATOXYLIN, EOSIN = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])
METHODS = ["macenko", "vahadane", "reinhard"]


def _axes(haematoxylin, eosin):
    axes = np.stack([haematoxylin, eosin])
    return axes / np.linalg.norm(axes, axis=1, keepdims=True)


def _stained(axes, strength=(1.0, 1.0), seed=0, side=160):
    """Tissue of which each pixel holds mostly one of two stains, and a rim of glass."""
    rng = np.random.default_rng(seed)
    nuclear = rng.random((side, side, 1)) < 0.4
    amounts = np.where(nuclear, [1.2, 0.15], [0.1, 0.8]) * rng.uniform(0.5, 1.3, (side, side, 2)) * strength
    rgb = np.exp(-amounts @ axes)
    rgb[:10] = 1
    return np.rint(255 * rgb).astype(np.uint8)


@pytest.mark.parametrize("method", ["macenko", "vahadane"])
@given(shift=st.floats(-0.15, 0.15), strength=st.floats(0.7, 1.4))
@settings(max_examples=8, deadline=None)
def test_of_pixels_finds_the_stains_of_mixed_colours(method, shift, strength):
    axes = _axes(HAEMATOXYLIN + np.array([shift, 0, 0]), EOSIN + np.array([0, 0, abs(shift)]))
    found = Stain.of_pixels(_stained(axes, (strength, 1)), method)
    for ours, true in zip(np.reshape(found.values[:6], (2, 3)), axes, strict=True):
        assert np.rad2deg(np.arccos(min(1.0, float(ours @ true)))) < 15


@pytest.mark.parametrize("method", METHODS)
def test_to_makes_a_slide_look_like_the_target(method):
    strong, pale = _axes(HAEMATOXYLIN, EOSIN), _axes([0.55, 0.75, 0.37], [0.12, 0.95, 0.28])
    source, target = _stained(pale, (0.7, 0.8)), _stained(strong)
    table = Stain.of_pixels(source, method).to(Stain.of_pixels(target, method))
    given = source.copy()
    table(given)
    before, after = (np.abs(x[10:].astype(int) - target[10:]).mean() for x in (source, given))
    assert after < 0.5 * before
    assert (given[:10] == 255).all()  # glass stays glass


@pytest.mark.parametrize("method", METHODS)
def test_to_its_own_stains_changes_nothing(method):
    image = _stained(_axes(HAEMATOXYLIN, EOSIN))
    own = Stain.of_pixels(image, method)
    given = image.copy()
    own.to(own)(given)
    assert np.abs(given.astype(int) - image).mean() < 4


@pytest.mark.parametrize("method", METHODS)
def test_of_pixels_refuses_glass_and_single_colours(method):
    grey = np.random.default_rng(0).integers(40, 200, (100, 100, 1)).astype(np.uint8).repeat(3, axis=2)
    with pytest.raises(SettingsError, match="one colour"):
        Stain.of_pixels(grey, method)
    with pytest.raises(SettingsError, match="too few"):
        Stain.of_pixels(np.full((100, 100, 3), 250, np.uint8), method)


def test_between_returns_unit_vectors():
    stains = [Stain.of_pixels(_stained(_axes(HAEMATOXYLIN + np.array([d, 0, 0]), EOSIN)), "macenko") for d in (-0.1, 0.0, 0.1)]
    middle = Stain.between(stains)
    assert np.allclose(np.linalg.norm(np.reshape(middle.values[:6], (2, 3)), axis=1), 1)
    assert np.allclose(middle.values, stains[1].values, atol=0.05)
    with pytest.raises(ValueError, match="macenko and by reinhard"):
        middle.to(Stain("reinhard", (0.0,) * 6))


def test_recoloured_slide_reads_through_the_colour_table(sample):
    with open_slide(sample.path) as slide:
        tissue = find_tissue(slide)
        own = Stain.of_slide(slide, tissue, "macenko", tile_px=128, mpp=1.0)
        assert own == Stain.of_slide(slide, tissue, "macenko", tile_px=128, mpp=1.0)
        table = own.to(Stain("macenko", (0.6, 0.75, 0.28, 0.1, 0.95, 0.3, 1.5, 1.0)))
        seen = RecolouredSlide(slide, table)
        assert (seen.name, seen.mpp, seen.levels, seen.on_disk) == (slide.name, slide.mpp, slide.levels, True)
        for level in (0, 1):
            expected = slide.read(level, 300, 300, 200, 210).copy()
            table(expected)
            assert np.array_equal(seen.read(level, 300, 300, 200, 210), expected)
        assert (seen.read(0, -50, -50, 40, 40) == 255).all()
        assert seen.with_mpp(1.0).mpp == 1.0
        seen.close()
        assert slide.read(0, 0, 0, 5, 5).shape == (5, 5, 3)  # its owner closes it


def test_recoloured_array_is_not_on_disk():
    slide = ArraySlide([_stained(_axes(HAEMATOXYLIN, EOSIN))], "layer", mpp=0.5)
    own = Stain.of_pixels(slide.read(0, 0, 0, 160, 160), "macenko")
    assert not RecolouredSlide(slide, own.to(own)).on_disk
