"""A map is given back, or gone on with, only for the same slide, regions, detector and settings."""

import json
import os
import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import tifffile
from slide_writers import half

from napari_histoad import AnomalyMap, load_detector, map_slide, open_slide
from napari_histoad.cli._app import app
from napari_histoad.engine import TrainingSource, map_job, train_job
from napari_histoad.errors import MapError, OtherMapError, OutputError
from napari_histoad.jobs import run
from napari_histoad.maps import save_labels
from napari_histoad.results import CsvExport, GeoJsonExport, OmeTiffExport, ParquetExport, PngExport, write_report
from napari_histoad.slide import ArraySlide
from napari_histoad.system.atomic import lock_output

SIDE = 1024


@pytest.fixture(scope="module")
def tissue(sample):
    with open_slide(sample.path) as slide:
        return slide.read(0, 512, 512, SIDE, SIDE)


def write(path, image, compression="jpeg", levels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path) as tif:
        for level in range(levels):
            tif.write(
                image, tile=(128, 128), photometric="rgb", compression=compression, metadata=None,
                resolution=(20000 / 2**level,) * 2, resolutionunit="CENTIMETER", subfiletype=int(level > 0),
            )  # fmt: skip
            image = half(image)
    return path


def mapped(slide, out, detector_file, **options):
    return map_slide(slide, out, model=detector_file, stride_px=64, device="cpu", **options)


def begun(slide, out, detector_file):
    """Begin a map and stop when some of its blocks are done."""
    with open_slide(slide) as opened:
        job = map_job(opened, out, detector=load_detector(detector_file), stride_px=64, device="cpu")
        with closing(job):
            for progress in job:
                if progress.updated is not None:
                    break
    (folder,) = out.glob("*.ome.zarr")
    assert not AnomalyMap.open(folder).info.complete


@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("compression", ["jpeg", None])
def test_map_refuses_another_slide_of_the_same_name_and_size(tissue, detector_file, tmp_path, stop, compression):
    one = write(tmp_path / "1" / "scan.tif", tissue, compression)
    darker = tissue.copy()
    darker[256:768, 256:768] = darker[256:768, 256:768] * 0.85
    two = write(tmp_path / "2" / "scan.tif", darker, compression)
    if stop:
        begun(one, tmp_path / "out", detector_file)
    else:
        mapped(one, tmp_path / "out", detector_file)
    before = AnomalyMap.open(tmp_path / "out" / "scan.ome.zarr").scores
    with pytest.raises(OtherMapError, match=r"another slide than scan.tif \(its pixels differ at .*--no-resume"):
        mapped(two, tmp_path / "out", detector_file)
    assert np.array_equal(AnomalyMap.open(tmp_path / "out" / "scan.ome.zarr").scores, before, equal_nan=True)
    fresh = mapped(two, tmp_path / "out", detector_file, resume=False)
    assert fresh.find_slide() == two


def test_map_recognises_another_slide_by_its_index_if_the_compared_pixels_agree(tissue, detector_file, tmp_path):
    one = write(tmp_path / "1" / "scan.tif", tissue)
    known = mapped(one, tmp_path / "out", detector_file).info.fingerprint
    free = next(
        (y, x) for y in range(0, SIDE, 128) for x in range(0, SIDE, 128)
        if all(abs(y + 64 - py) > 128 or abs(x + 64 - px) > 128 for py, px in known.places)
    )  # fmt: skip
    other = tissue.copy()
    other[free[0] : free[0] + 128, free[1] : free[1] + 128] ^= 24
    two = write(tmp_path / "2" / "scan.tif", other)
    with open_slide(two) as slide:
        assert known.is_of(slide)
    with pytest.raises(OtherMapError, match="rewritten|tiles differ"):
        mapped(two, tmp_path / "out", detector_file)


@pytest.mark.parametrize("stop", [True, False])
def test_map_continues_for_a_slide_that_was_moved_or_touched(tissue, detector_file, tmp_path, stop):
    one = write(tmp_path / "1" / "scan.tif", tissue)
    if stop:
        begun(one, tmp_path / "out", detector_file)
    else:
        mapped(one, tmp_path / "out", detector_file)
    (tmp_path / "2").mkdir()
    moved = one.rename(tmp_path / "2" / "scan.tif")
    os.utime(moved, (1, 1))
    result = mapped(moved, tmp_path / "out", detector_file)
    assert AnomalyMap.open(result.path).find_slide() == moved
    fresh = mapped(moved, tmp_path / "fresh", detector_file)
    assert np.array_equal(result.scores, fresh.scores)


def test_map_refuses_other_regions_and_accepts_the_same(sample, detector_file, tmp_path):
    one, two = sample.plan.normal[:1], sample.plan.normal[1:2]
    first = mapped(sample.path, tmp_path, detector_file, regions=one)
    assert first.notes[0] == "only tissue inside 1 outline was mapped"
    with pytest.raises(OtherMapError, match="its .*regions differ"):
        mapped(sample.path, tmp_path, detector_file, regions=two)
    with pytest.raises(OtherMapError, match="its .*regions differ"):
        mapped(sample.path, tmp_path, detector_file)
    both = [*one, *two]
    mapped(sample.path, tmp_path / "both", detector_file, regions=both)
    assert mapped(sample.path, tmp_path / "both", detector_file, regions=both[::-1]).info.complete


def test_maps_of_earlier_versions_are_compared_by_the_fields_that_they_have(tissue, detector_file, tmp_path):
    one = write(tmp_path / "1" / "scan.tif", tissue)
    result = mapped(one, tmp_path / "out", detector_file)
    described = result.path / "zarr.json"
    content = json.loads(described.read_text())
    for name in ("fingerprint", "regions", "slide_file", "slide_relative", "notes"):
        del content["attributes"]["napari_histoad"][name]
    described.write_text(json.dumps(content))
    notes = []
    with open_slide(one) as slide:
        run(
            map_job(slide, tmp_path / "out", detector=load_detector(detector_file), stride_px=64, device="cpu"),
            lambda progress: notes.append(progress.note),
        )
    assert any("earlier version" in note for note in notes)
    other = tissue.copy()
    other[:, : SIDE // 2] = 243
    two = write(tmp_path / "2" / "scan.tif", other)
    with pytest.raises(OtherMapError, match="tiles, tissue differ"):
        mapped(two, tmp_path / "out", detector_file)


def test_map_recognises_slides_in_memory_by_their_pixels(tissue, detector_file, tmp_path):
    def job(image):
        slide = ArraySlide([image], "layer", mpp=0.5)
        return map_job(slide, tmp_path, detector=load_detector(detector_file), stride_px=64, device="cpu")

    result = run(job(tissue))
    assert result.info.slide_file == result.info.slide_relative == ""
    assert np.array_equal(run(job(tissue)).scores, result.scores)
    with pytest.raises(OtherMapError, match="another slide"):
        run(job(np.ascontiguousarray(tissue[::-1])))


# -- tiles that could not be read


def damage(path, tiles):
    """Overwrite tiles of level 0."""
    with tifffile.TiffFile(path) as tif:
        where = [(tif.pages[0].dataoffsets[k], tif.pages[0].databytecounts[k]) for k in tiles]
    data = bytearray(path.read_bytes())
    for offset, count in where:
        data[offset : offset + count] = b"\0" * count
    path.write_bytes(data)


@pytest.mark.parametrize("anew", [False, True])
def test_map_scores_repaired_tiles_when_it_runs_again(tissue, detector_file, tmp_path, anew):
    whole = write(tmp_path / "whole" / "scan.tif", tissue, levels=4)
    slide = tmp_path / "slides" / "scan.tif"
    slide.parent.mkdir()
    shutil.copy(whole, slide)
    damage(slide, [50, 51])
    result = mapped(slide, tmp_path / "out", detector_file)
    unread = result.unread_tiles
    assert 0 < len(unread) == result.info.failed_tiles
    assert any("could not be read" in note for note in result.notes)
    save_labels(result, 0.03)
    shutil.copy(whole, slide)
    if anew:  # converted from the source once more, with levels, of which the map reads another one
        write(slide, tissue, levels=2)
    again = mapped(slide, tmp_path / "out", detector_file)
    fresh = mapped(slide, tmp_path / "fresh", detector_file)
    assert again.info.failed_tiles == len(again.unread_tiles) == 0
    assert not any("could not be read" in note for note in again.notes)
    assert np.array_equal(again.scores, fresh.scores)
    assert np.array_equal(np.asarray(again.levels[0]), np.asarray(fresh.levels[0]), equal_nan=True)
    assert again.saved_rate == (again.calibration.default_rate if anew else 0.03)
    assert None not in again.info.fingerprint.colours


def test_map_writes_nothing_if_damaged_tiles_are_still_damaged(tissue, detector_file, tmp_path):
    slide = write(tmp_path / "scan.tif", tissue, levels=4)
    damage(slide, [50])
    result = mapped(slide, tmp_path / "out", detector_file)
    before = {p: p.stat().st_mtime_ns for p in result.path.rglob("*")}
    assert mapped(slide, tmp_path / "out", detector_file).info.failed_tiles == result.info.failed_tiles > 0
    assert before == {p: p.stat().st_mtime_ns for p in result.path.rglob("*")}


def test_map_has_no_unread_tiles_if_the_slide_is_repaired_during_the_run(tissue, detector_file, tmp_path):
    whole = write(tmp_path / "whole.tif", tissue, levels=4)
    slide = tmp_path / "scan.tif"
    shutil.copy(whole, slide)
    damage(slide, list(range(40, 62)))
    begun(slide, tmp_path / "out", detector_file)
    shutil.copy(whole, slide)
    assert not np.isnan(mapped(slide, tmp_path / "out", detector_file).scores).any()


def test_map_refuses_another_slide_in_place_of_a_damaged_one(tissue, detector_file, tmp_path):
    slide = write(tmp_path / "1" / "scan.tif", tissue, levels=4)
    damage(slide, [50])
    mapped(slide, tmp_path / "out", detector_file)
    with pytest.raises(OtherMapError, match="another slide"):
        mapped(write(tmp_path / "2" / "scan.tif", tissue[::-1]), tmp_path / "out", detector_file)


def test_train_refuses_a_file_that_another_training_writes(sample, tmp_path):
    def begin():
        return train_job([TrainingSource(sample.path)], tmp_path / "d.safetensors", device="cpu")

    with closing(begin()) as first:
        next(first)
        with pytest.raises(OutputError, match="another run is writing"), closing(begin()) as second:
            next(second)
    assert not list(tmp_path.iterdir())


def test_export_refuses_a_file_that_another_run_writes(map_folder, tmp_path, capsys):
    with lock_output(tmp_path / "sample.tiles.csv"):
        assert run_cli("export", map_folder, "--csv", "--out", tmp_path) == 1
    assert "another run is writing" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert run_cli("export", map_folder, "--csv", "--out", tmp_path) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["sample.tiles.csv", "sample.tiles.json"]


# -- pictures


def test_export_and_report_refuse_pictures_of_another_slide(tissue, detector_file, tmp_path, capsys):
    one = write(tmp_path / "1" / "scan.tif", tissue)
    two = write(tmp_path / "2" / "scan.tif", tissue[::-1])
    small = write(tmp_path / "small.tif", tissue[:512])
    first, second = (mapped(path, tmp_path / f"maps{k}", detector_file) for k, path in enumerate((one, two)))
    for other in (two, small):
        with open_slide(other) as slide, pytest.raises(MapError, match="is not the slide that"):
            PngExport().write(first, tmp_path / "a.png", slide=slide)
        assert run_cli("export", first.path, "--png", "--slide", other, "--out", tmp_path / "x") == 1
        assert "is not the slide that" in capsys.readouterr().err
        assert not list((tmp_path / "x").glob("*.png"))
        assert run_cli("report", first.path, "--slide", other, "--out", tmp_path / "r.html") == 1
        assert not (tmp_path / "r.html").exists()
    converted = write(tmp_path / "converted.tif", tissue, compression=None)
    assert run_cli("report", first.path, second.path, "--slide", two, "--slide", converted, "--out", tmp_path / "r.html") == 0
    assert (tmp_path / "r.html").read_text().count("data:image/jpeg") == 2
    one.unlink()  # a map whose slide is not found has no picture rather than another's
    (tmp_path / "small.tif").rename(one)
    assert run_cli("report", first.path, second.path, "--slide", two, "--out", tmp_path / "r.html") == 0
    assert (tmp_path / "r.html").read_text().count("data:image/jpeg") == 1


def test_report_includes_the_other_maps_if_one_is_damaged(map_folder, tmp_path, capsys):
    (tmp_path / "broken.ome.zarr").mkdir()
    page = tmp_path / "r.html"
    assert run_cli("report", map_folder, tmp_path / "broken.ome.zarr", "--out", page, "--json") == 1
    said = json.loads(capsys.readouterr().out)
    assert [Path(entry["map"]).name for entry in said["failed"]] == ["broken.ome.zarr"]
    assert "sample.tif" in page.read_text()


def test_exports_contain_the_notes_of_the_map(map_folder, tmp_path):
    result = AnomalyMap.open(map_folder)
    result.info.notes.append("a note of its own")
    GeoJsonExport().write(result, tmp_path / "a.geojson")
    assert "a note of its own" in json.loads((tmp_path / "a.geojson").read_text())["napari_histoad"]["notes"]
    OmeTiffExport().write(result, tmp_path / "a.ome.tif")
    assert "a note of its own" in tifffile.TiffFile(tmp_path / "a.ome.tif").ome_metadata
    ParquetExport().write(result, tmp_path / "a.parquet")
    about = pyarrow.parquet.read_schema(tmp_path / "a.parquet").metadata[b"napari_histoad"]
    assert "a note of its own" in json.loads(about)["notes"]
    CsvExport().write(result, tmp_path / "a.csv")
    assert len((tmp_path / "a.csv").read_text().splitlines()) == len(result) + 1
    assert "a note of its own" in json.loads((tmp_path / "a.json").read_text())["notes"]
    write_report([(result, None)], tmp_path / "r.html")
    assert "a note of its own" in (tmp_path / "r.html").read_text()


def run_cli(*args):
    with pytest.raises(SystemExit) as left:
        app([str(arg) for arg in args])
    return left.value.code
