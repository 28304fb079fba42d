"""Outlines of normal tissue on their way into training and mapping."""

from dataclasses import replace

import numpy as np
import pytest
from shapely.affinity import translate
from shapely.geometry import box

from napari_histoad import map_slide, write_geojson
from napari_histoad.engine import CohortSlide, cohort_job, gather_job, training_sources
from napari_histoad.errors import EmptyTissueError, OtherMapError, RegionError, SettingsError
from napari_histoad.jobs import run
from napari_histoad.regions import Region, coverage
from napari_histoad.tiles import TileGrid


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


def test_regions_given_in_python_are_used_by_class(sample):
    both = [*sample.plan.planted, *sample.plan.normal]
    (source,) = training_sources([sample.path], both, None)
    assert {region.name for region in source.regions} == {"Normal"}
    assert "not used for training: " in source.notes[0]
    with pytest.raises(RegionError, match="no outline of the class Normal"):
        training_sources([sample.path], sample.plan.planted, None)


def test_notes_on_outlines_are_reported(tmp_path, sample):
    path = tmp_path / "a.geojson"
    far = Region(translate(sample.plan.normal[0].geometry, 1e5, 0), "Normal")
    write_geojson([*sample.plan.normal, *sample.plan.planted, far], path)
    notes = []
    run(gather_job(training_sources([sample.path], path, None), 64, 1.0), lambda progress: notes.append(progress.note))
    words = " ".join(notes)
    assert "not used for training: " in words
    assert "1 of them are completely outside" in words


def test_outlines_are_taken_as_tissue_if_detection_fails(write_tiff):
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


def test_a_map_covers_the_regions_where_no_tissue_is_found(tmp_path, write_tiff, detector_file):
    image = np.random.default_rng(0).integers(225, 235, (1024, 1024, 1), np.uint8).repeat(3, 2)
    grey, outlines, path = write_tiff(image, mpp=0.5), [Region(box(100, 100, 700, 700), "ROI")], tmp_path / "a.geojson"
    write_geojson([*outlines, Region(box(0, 0, 1024, 1024), "Ignore*"), Region(box(2000, 0, 3000, 100), "ROI")], path)
    with pytest.raises(EmptyTissueError, match="--tissue regions"):
        map_slide(grey, tmp_path, model=detector_file, regions=path, device="cpu")
    result = map_slide(grey, tmp_path, model=detector_file, regions=path, tissue_from="regions", stride_px=64, device="cpu")
    covered = coverage(result.boxes, outlines)
    grid = TileGrid.cover((1024, 1024), 0.5, tile_px=result.info.tile_px, mpp=result.info.mpp, stride_px=64)
    assert covered.min() >= 0.5
    assert len(result) == (coverage(grid.boxes, outlines) >= 0.5).sum()
    assert result.info.tissue_from == "regions"
    notes = " ".join(result.info.notes)
    assert "Ignore*" in notes
    assert "1 of them are completely outside" in notes
    with pytest.raises(SettingsError, match="none were given"):
        map_slide(grey, tmp_path, model=detector_file, tissue_from="regions", device="cpu")


def test_map_of_regions_differs_from_one_with_detected_tissue(tmp_path, sample, detector_file):
    options = {"model": detector_file, "regions": sample.plan.normal[:1], "stride_px": 64, "device": "cpu"}
    first = map_slide(sample.path, tmp_path, tissue_from="regions", **options)
    again = map_slide(sample.path, tmp_path, tissue_from="regions", **options)
    assert len(again) == len(first)
    with pytest.raises(OtherMapError):
        map_slide(sample.path, tmp_path, **options)


def test_regions_of_one_slide_are_not_mapped_on_several(tmp_path, sample):
    path = tmp_path / "a.geojson"
    write_geojson(sample.plan.normal, path)
    slides = [CohortSlide(sample.path, regions=path), CohortSlide(tmp_path / "b.svs", regions=path)]
    with pytest.raises(SettingsError, match="given for several slides"):
        run(cohort_job(slides, tmp_path / "out"))
    with pytest.raises(SettingsError, match="none were given"):
        run(cohort_job([CohortSlide(sample.path)], tmp_path / "out", tissue_from="regions"))
    assert not (tmp_path / "out").exists()


def test_maps_are_made_inside_areas_of_interest(tmp_path, sample, detector_file):
    outline = replace(sample.plan.normal[0], name="Region*")
    write_geojson([outline], tmp_path / "a.geojson")
    write_geojson([outline, replace(sample.plan.normal[1], name="Tumor")], tmp_path / "b.geojson")
    options = {"model": detector_file, "stride_px": 64, "device": "cpu"}
    one, given, both = (
        map_slide(sample.path, tmp_path / str(k), regions=regions, **options)
        for k, regions in enumerate((tmp_path / "a.geojson", [outline], tmp_path / "b.geojson"))
    )
    assert (coverage(one.boxes, [outline]) >= 0.5).all()
    assert np.array_equal(one.origins, given.origins)
    assert len(both) > len(one)
    with pytest.raises(OtherMapError, match="regions differ"):
        map_slide(sample.path, tmp_path / "0", regions=tmp_path / "b.geojson", **options)
