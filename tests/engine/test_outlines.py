"""Outlines of normal tissue on their way into training and mapping."""

from dataclasses import replace

import numpy as np
import pytest
from shapely.affinity import translate
from shapely.geometry import box

from napari_histoad import write_geojson
from napari_histoad.engine import gather_job, training_sources
from napari_histoad.errors import EmptyTissueError, RegionError, SettingsError
from napari_histoad.jobs import run
from napari_histoad.regions import Region


def test_outlines_belong_to_one_slide(tmp_path, sample):
    path, normal = tmp_path / "a.geojson", sample.plan.normal
    write_geojson(normal, path)
    for given in (str(path), [path], normal):
        with pytest.raises(RegionError, match="2 slides but 1"):
            training_sources([sample.path, tmp_path / "b.tif"], given, None)
    with pytest.raises(RegionError, match="given for several slides"):
        training_sources([sample.path, tmp_path / "b.tif"], [path, tmp_path / ".." / tmp_path.name / path.name], None)
    one, two = training_sources([sample.path, tmp_path / "b.tif"], [normal[:1], [replace(normal[1], name="")]], None)
    assert (len(one.regions), len(two.regions)) == (1, 1)
    assert "no class" in two.notes[0]


def test_regions_given_in_python_follow_their_classes(sample):
    both = [*sample.plan.planted, *sample.plan.normal]
    (source,) = training_sources([sample.path], both, None)
    assert {region.name for region in source.regions} == {"Normal"}
    assert "not learnt from are" in source.notes[0]
    with pytest.raises(RegionError, match="no region classed Normal"):
        training_sources([sample.path], sample.plan.planted, None)


def test_notes_on_outlines_are_reported(tmp_path, sample):
    path = tmp_path / "a.geojson"
    far = Region(translate(sample.plan.normal[0].geometry, 1e5, 0), "Normal")
    write_geojson([*sample.plan.normal, *sample.plan.planted, far], path)
    notes = []
    run(gather_job(training_sources([sample.path], path, None), 64, 1.0), lambda progress: notes.append(progress.note))
    words = " ".join(notes)
    assert "not learnt from are" in words
    assert "1 of them lie outside altogether" in words


def test_outlines_stand_in_for_tissue_that_is_not_found(write_tiff):
    grey_slide = write_tiff(np.random.default_rng(0).integers(225, 235, (1024, 1024, 1), np.uint8).repeat(3, 2), mpp=0.5)
    outlines = [Region(box(100, 100, 900, 900), "Normal")]
    with pytest.raises(EmptyTissueError, match="--tissue regions"):
        run(gather_job(training_sources([grey_slide], outlines, None), 64, 0.5))
    tiles, _ = run(gather_job(training_sources([grey_slide], outlines, None, "regions"), 64, 0.5))
    assert len(tiles) >= 48
    with pytest.raises(SettingsError, match="none were given"):
        training_sources([grey_slide], None, None, "regions")
    with pytest.raises(SettingsError, match="choose found or regions"):
        training_sources([grey_slide], outlines, None, "nonsense")
