"""Pictures of a map over its slide."""

import numpy as np

from napari_histoad import AnomalyMap, measure_regions, open_slide
from napari_histoad.results import overlay


def test_overlay_numbers_as_many_regions_as_asked_for(map_folder, sample):
    result, rate = AnomalyMap.open(map_folder), 0.3
    assert measure_regions(result, rate)
    with open_slide(sample.path) as slide:
        plain, numbered = (overlay(result, slide, max_px=600, rate=rate, numbered=n) for n in (0, 1))
    changed = np.argwhere((plain != numbered).any(axis=2))
    assert len(changed) > 0
    assert np.ptp(changed, axis=0).max() < 40
