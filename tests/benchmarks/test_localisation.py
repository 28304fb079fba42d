import numpy as np
import pytest
from localisation import by_group, patches, region_of, weave
from shapely.geometry import box


def _tiles(count, side=32):
    """Return tiles of one grey value each, their number."""
    return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, side, side, 3)).copy()


def test_woven_slide_has_the_anomalous_tiles_inside_the_outlines_only():
    rng = np.random.default_rng(0)
    images, groups = _tiles(40), np.repeat(["a", "b", "c", "d"], 10)
    pasted = patches(np.arange(30, 40), groups, rng, 16)
    slide, outlines = weave(images, np.arange(30), rng, 16, pasted)
    assert slide.shape == (512, 512, 3)
    assert [outline.geometry.area for outline in outlines[1:]] == [96**2, 64**2]
    assert outlines[0].geometry.area == pytest.approx(np.pi * 64 * 48, rel=0.01)
    anomalous = slide[..., 0] >= 30
    assert anomalous.sum() == pytest.approx(sum(outline.geometry.area for outline in outlines), rel=0.01)
    for outline in outlines:
        y0, x0, y1, x1 = (int(v) for v in outline.geometry.bounds)
        assert anomalous[(y0 + y1) // 2, (x0 + x1) // 2]
        assert not anomalous[y0 - 1].all()
    assert not any(a.geometry.intersects(b.geometry) for a in outlines for b in outlines if a is not b)


def test_tiles_of_a_group_follow_each_other():
    groups = np.array(list("abcabcabc"))
    order = by_group(np.arange(9), groups, np.random.default_rng(0))
    assert sorted(order) == list(range(9))
    assert len([k for k in range(8) if groups[order[k]] != groups[order[k + 1]]]) == 2


def test_region_of_a_mask():
    mask = np.zeros((40, 30), bool)
    mask[8:20, 4:16] = True
    assert region_of(mask, "Tumor").geometry.equals(box(8, 4, 20, 16))
    mask[:] = False
    mask[1, 1] = True
    assert region_of(mask).geometry.equals(box(0, 0, 4, 4))
