"""Normal tiles from inside the tissue also stand for its edge."""

import re

import numpy as np
import pytest

from napari_histoad import open_slide
from napari_histoad.engine import TrainingSource, gather_job
from napari_histoad.engine.training._edges import with_edges
from napari_histoad.jobs import Progress
from napari_histoad.tiles import sample_tiles, tissue_mask, training_grid


def _gathered(source):
    notes = []
    job = gather_job([source], 64, None)
    while True:
        try:
            step = next(job)
        except StopIteration as stop:
            return *stop.value, notes
        if isinstance(step, Progress) and step.note:
            notes.append(step.note)


def test_gather_job_says_how_many_tiles_of_outlines_are_given_an_edge(sample):
    tiles, _, notes = _gathered(TrainingSource(sample.path, sample.plan.normal))
    (found,) = [re.search(r"so (\d+) of (\d+) are given one", note) for note in notes if "edge" in note]
    assert int(found[2]) == len(tiles)
    assert 0 < int(found[1]) <= 0.1 * len(tiles) + 1


def test_with_edges_covers_a_part_of_whole_tiles_and_leaves_places_and_groups(sample):
    with open_slide(sample.path) as slide:
        tissue, mpp = tissue_mask(slide, "found", None), slide.require_mpp()
        grid = training_grid(slide, tissue, tile_px=64, mpp=mpp, regions=sample.plan.normal)
        before = sample_tiles(slide, grid, 200, np.random.default_rng(0))
        after, changed = with_edges(before, slide, tissue, mpp, np.random.default_rng(1))
    kept = (before.images == after.images).all(axis=3).mean(axis=(1, 2))
    assert 0 < changed <= 0.1 * len(before) + 1
    assert (kept < 1).sum() == changed
    assert kept[kept < 1].mean() > 0.2  # the rest of the tile is what it was
    assert after.images[kept < 1].mean() > before.images[kept < 1].mean()  # glass is bright
    assert after.places == before.places
    assert np.array_equal(after.groups, before.groups)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_with_edges_leaves_tiles_alone_that_show_enough_edges_or_where_there_is_no_glass(sample, share):
    with open_slide(sample.path) as slide:
        tissue, mpp = tissue_mask(slide, "found", None), slide.require_mpp()
        grid = training_grid(slide, tissue, tile_px=64, mpp=mpp)
        if share:  # half of the tiles lie on the edge
            fraction = tissue.fraction(grid.boxes)
            edge, inside = np.flatnonzero(fraction < 0.9), np.flatnonzero(fraction >= 0.9)
            grid = grid.subset(np.sort(np.r_[edge, inside[: len(edge)]]))
        else:
            tissue = type(tissue)(np.ones_like(tissue.mask), tissue.scale_yx)
        before = sample_tiles(slide, grid, 200, np.random.default_rng(0))
        after, changed = with_edges(before, slide, tissue, mpp, np.random.default_rng(1))
    assert changed == 0
    assert np.array_equal(after.images, before.images)


@pytest.mark.parametrize("outlines_are_tissue", [True, False])
def test_gather_job_gives_no_edges_without_outlines_or_where_they_stand_in_for_the_tissue(sample, outlines_are_tissue):
    drawn = {"regions": sample.plan.normal, "tissue_from": "regions"} if outlines_are_tissue else {}
    tiles, _, notes = _gathered(TrainingSource(sample.path, **drawn))
    assert len(tiles)
    assert not any("edge" in note for note in notes)
