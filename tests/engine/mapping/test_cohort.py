"""Many slides: tables, failures, and the workers of a cluster."""

import threading
from contextlib import nullcontext
from pathlib import Path

import psutil
import pytest
from distributed import LocalCluster
from map_makers import bytes_of

from napari_histoad import load_detector, map_slide, open_slide, train
from napari_histoad.engine import CohortSlide, cohort_job, map_job, mapping, read_cohort
from napari_histoad.engine.mapping._cluster import Cluster
from napari_histoad.errors import BundleError, DeviceError, HistoadError, SettingsError
from napari_histoad.jobs import Progress, run

# -- tables


def test_read_cohort_resolves_paths_relative_to_the_table(tmp_path):
    table = tmp_path / "cohort.csv"
    table.write_text("\ufeffslide,mpp,model\na.svs,0.25,m.safetensors\nsub/b.svs,,\nhttps://host/c.tif,,\n", encoding="utf-8")
    a, b, c = read_cohort(table)
    assert a == CohortSlide(tmp_path / "a.svs", 0.25, tmp_path / "m.safetensors")
    assert b == CohortSlide(tmp_path / "sub" / "b.svs")
    assert "host/c.tif" in str(c.path)
    assert str(tmp_path) not in str(c.path)


@pytest.mark.parametrize(
    "text",
    [
        "slide,mpp\na.svs,0.5\n",
        "slide;mpp\na.svs;0,5\n",
        'slide,mpp\na.svs,"0,5"\n',
        "Slide\tMPP\na.svs\t0.5\n",
        ",slide,mpp\n0,a.svs,0.5\n",
        "slide,mpp,\na.svs,0.5,\n",
        "slide,mpp\n.\\a.svs,0.5\n,\n\n",
        "slide, mpp, model\na.svs, 0.5, NA\na.svs, 0.5, NA\n",
    ],
)
def test_read_cohort_reads_tables_of_any_program(tmp_path, text):
    (tmp_path / "a.svs").touch()
    (tmp_path / "cohort.csv").write_text(text)
    (slide,) = read_cohort(tmp_path / "cohort.csv")
    assert (slide.path.resolve(), slide.mpp, slide.model) == ((tmp_path / "a.svs").resolve(), 0.5, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path\na.svs\n", "path"),
        ("slide,colour\na.svs,red\n", "colour"),
        ("slide,mpp\na.svs,fine\n", "line 2: 'fine'"),
        ("slide,mpp\na.svs,400\n", "line 2: 400"),
        ("slide,mpp\n,0.5\n", "line 2: no slide"),
        ("slide\n", "lists no slide"),
        ("", "is empty"),
        ("slide,mp\na.svs,1\n", "unknown column 'mp'; rename it to mpp"),
        ("a.svs\nb.svs\n", "no column named slide"),
        ("slide,mpp\na.svs,0.5\na.svs,0.25\n", "line 3: a.svs is listed before"),
    ],
)
def test_read_cohort_explains_invalid_tables(tmp_path, text, message):
    (tmp_path / "cohort.csv").write_text(text)
    with pytest.raises(SettingsError, match=message):
        read_cohort(tmp_path / "cohort.csv")


def test_read_cohort_explains_a_missing_table(tmp_path):
    with pytest.raises(SettingsError, match="there is no table"):
        read_cohort(tmp_path / "cohort.csv")


# -- slide after slide


def test_cohort_job_maps_the_other_slides_if_one_fails(sample, detector_file, map_folder, tmp_path):
    (tmp_path / "broken.tif").write_bytes(b"nothing")
    paths = [tmp_path / "missing.tif", sample.path, tmp_path / "broken.tif"]
    seen = []
    job = cohort_job(
        [CohortSlide(path, model=detector_file) for path in paths],
        tmp_path / "out",
        on_slide=lambda slide, outcome: seen.append((slide.path, isinstance(outcome, HistoadError))),
        stride_px=64,
        device="cpu",
    )
    result = run(job)
    assert seen == [(paths[0], True), (paths[1], False), (paths[2], True)]
    assert [path for path, _ in result.failures] == [paths[0], paths[2]]
    assert "missing.tif" in str(result.failures[0][1])
    assert bytes_of(result.maps[0].path) == bytes_of(map_folder)


@pytest.mark.parametrize(
    ("where", "odd"),
    [
        ("open_slide", ValueError("bad profile\nin two lines")),
        ("tissue_mask", MemoryError()),
        ("read_first_tiles", KeyError("x")),
        ("map_job", OSError(5, "I/O error")),
    ],
)
def test_cohort_job_maps_the_other_slides_after_any_error(sample, detector_file, tmp_path, monkeypatch, where, odd):
    paths = [tmp_path / f"{name}.tif" for name in ("first", "second", "third")]
    for path in paths:
        path.write_bytes(sample.path.read_bytes())
    real = getattr(mapping._cohort, where)

    def fails(given, *args, **options):
        name = getattr(getattr(given, "slide", given), "path", given)
        if Path(name).stem == "second":
            raise odd
        return real(given, *args, **options)

    monkeypatch.setattr(mapping._cohort, where, fails)
    slides = [CohortSlide(path, model=detector_file) for path in paths]
    result = run(cohort_job(slides, tmp_path / "out", stride_px=64, device="cpu"))
    assert [finished.info.slide for finished in result.maps] == ["first.tif", "third.tif"]
    ((path, error),) = result.failures
    assert path == paths[1]
    assert f"unexpected {type(odd).__name__}" in error.what
    assert "\n" not in str(error)
    assert error.__cause__ is odd


def test_cohort_job_names_both_slides_of_the_same_name(sample, detector_file, tmp_path):
    slides = [CohortSlide(tmp_path / who / "scan.tif", model=detector_file) for who in "ab"]
    with pytest.raises(SettingsError, match="a/scan.tif and .*b/scan.tif"):
        run(cohort_job(slides, tmp_path / "out"))


def test_cohort_job_prepares_the_next_slide_while_one_is_mapped(sample, detector_file, map_folder, tmp_path, monkeypatch):
    paths = [tmp_path / f"{name}.tif" for name in ("first", "second", "third")]
    for path in paths:
        path.write_bytes(sample.path.read_bytes())
    seen, planned = [], threading.Event()
    job = cohort_job([CohortSlide(path, model=detector_file) for path in paths], tmp_path / "out", stride_px=64, device="cpu")
    plan, read = mapping._cohort.plan_map, mapping._cohort.read_first_tiles

    def note_plan(slide, *args, **options):
        seen.append((slide.path.stem, "planned", threading.current_thread().name.startswith("prepare")))
        return plan(slide, *args, **options)

    def note_read(made):
        read(made)
        seen.append((made.slide.path.stem, "read", threading.current_thread().name.startswith("prepare")))
        planned.set()

    monkeypatch.setattr(mapping._cohort, "plan_map", note_plan)
    monkeypatch.setattr(mapping._cohort, "read_first_tiles", note_read)
    monkeypatch.setattr(mapping._map, "plan_map", lambda *_, **__: pytest.fail("planned again"))
    for progress in job:
        if progress.stage == "Mapping" and "first" in progress.path:
            assert planned.wait(60)  # while the first is being mapped
    assert seen == [
        (name, done, True)
        for name, done in (
            ("first", "planned"),
            ("second", "planned"),
            ("second", "read"),
            ("third", "planned"),
            ("third", "read"),
        )
    ]
    there = {path.relative_to(map_folder): path for path in map_folder.rglob("*") if path.is_file() and path.name != "zarr.json"}
    for path in paths:
        for name, file in there.items():
            assert (tmp_path / "out" / f"{path.stem}.ome.zarr" / name).read_bytes() == file.read_bytes()


def test_cohort_job_refuses_equal_names_and_wrong_models_before_any_work(sample, tmp_path):
    with pytest.raises(SettingsError, match="same name"):
        run(cohort_job([CohortSlide(sample.path), CohortSlide(tmp_path / "sample.svs")], tmp_path))
    with pytest.raises(BundleError, match=r"none\.safetensors"):
        run(cohort_job([CohortSlide(sample.path, model=tmp_path / "none.safetensors")], tmp_path))
    assert list(tmp_path.iterdir()) == []


# -- a cluster


def test_cohort_job_on_a_cluster_maps_the_other_slides_after_any_error(monkeypatch, tmp_path):
    """Driven without workers: what they do is tested below."""

    def prepare(slide, *_):
        if slide.path.stem == "odd":
            raise ValueError("bad profile\nin two lines")
        return _Ready(slide.path.stem)

    monkeypatch.setattr(mapping._cohort, "_prepare", prepare)
    slides = [CohortSlide(tmp_path / f"{name}.tif") for name in ("first", "odd", "fails", "last")]
    seen = []
    result = run(cohort_job(slides, tmp_path, cluster=object(), on_slide=lambda slide, _: seen.append(slide.path.stem)))
    assert sorted(result.maps) == ["map of first", "map of last"]
    failures = {path.stem: error for path, error in result.failures}
    assert "unexpected ValueError" in failures["odd"].what
    assert "\n" not in str(failures["odd"])
    assert "unexpected KeyError" in failures["fails"].what
    assert sorted(seen) == ["fails", "first", "last", "odd"]


class _Ready:
    def __init__(self, name):
        self.name, self.slide = name, nullcontext()

    def job(self, *_):
        yield Progress("Mapping", 0, 1)
        if self.name == "fails":
            raise KeyError("x")
        yield Progress("Mapping", 1, 1)
        return f"map of {self.name}"


@pytest.fixture(scope="module")
def workers():
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster:
        yield cluster


def test_cluster_gives_the_same_bytes_as_one_process(workers, sample, detector_file, map_folder, tmp_path):
    slides = [CohortSlide(sample.path, model=detector_file), CohortSlide(tmp_path / "missing.tif", model=detector_file)]
    progress = []
    with Cluster(workers.scheduler_address) as cluster:
        assert cluster.workers == 2
        job = cohort_job(slides, tmp_path / "out", cluster=cluster, stride_px=64, device="cpu")
        result = run(job, progress.append)
    assert [path.name for path, _ in result.failures] == ["missing.tif"]
    assert bytes_of(result.maps[0].path) == bytes_of(map_folder)
    assert progress[-1].done == progress[-1].total == len(result.maps[0])


def test_cluster_gives_the_same_bytes_for_a_detector_without_error_maps(workers, sample, tmp_path):
    path = tmp_path / "colour.safetensors"
    train(sample.path, path, normal=sample.plan.normal, detector="colour", tile_px=64, device="cpu")
    straight = map_slide(sample.path, tmp_path / "here", model=path, stride_px=32, device="cpu")
    assert straight.error_maps(0) is None
    with Cluster(workers.scheduler_address) as cluster, open_slide(sample.path) as slide:
        run(map_job(slide, tmp_path / "there", detector=load_detector(path), stride_px=32, device="cpu", cluster=cluster))
    assert bytes_of(tmp_path / "there" / "sample.ome.zarr") == bytes_of(straight.path)


@pytest.mark.parametrize("count", [1, 2])
def test_cluster_scores_the_blocks_of_killed_workers_elsewhere(workers, sample, detector_file, tmp_path, count):
    straight = map_slide(sample.path, tmp_path / "here", model=detector_file, stride_px=32, device="cpu")
    killed = False
    with Cluster(workers.scheduler_address) as cluster, open_slide(sample.path) as slide:
        job = map_job(
            slide, tmp_path / "there", detector=load_detector(detector_file), stride_px=32, device="cpu", cluster=cluster
        )
        for progress in job:
            if progress.stage == "Mapping" and progress.done and not killed:
                for worker in list(workers.workers.values())[:count]:  # with both goes all that workers have been told
                    psutil.Process(worker.pid).kill()
                killed = True
    assert killed
    assert bytes_of(tmp_path / "there" / "sample.ome.zarr") == bytes_of(straight.path)


def test_map_job_continues_a_cancelled_cluster_run_in_this_process(workers, sample, detector_file, map_folder, tmp_path):
    with Cluster(workers.scheduler_address) as cluster, open_slide(sample.path) as slide:
        options = {"detector": load_detector(detector_file), "stride_px": 64, "device": "cpu"}
        job = map_job(slide, tmp_path, cluster=cluster, **options)
        for progress in job:
            if progress.stage == "Mapping" and progress.done:
                break
        job.close()
        run(map_job(slide, tmp_path, **options))
    assert bytes_of(tmp_path / map_folder.name) == bytes_of(map_folder)


def test_cluster_reports_the_error_of_a_worker_in_one_line(workers, sample, detector_file, tmp_path):
    path = tmp_path / "gone.tif"
    path.write_bytes(sample.path.read_bytes())
    with Cluster(workers.scheduler_address) as cluster, open_slide(path) as slide:
        path.unlink()
        with pytest.raises(HistoadError, match=r"gone\.tif"):
            run(map_job(slide, tmp_path / "out", detector=load_detector(detector_file), device="cpu", cluster=cluster))


def test_cluster_reports_a_device_that_the_workers_lack_in_one_line(workers, sample, detector_file, tmp_path):
    with Cluster(workers.scheduler_address) as cluster, open_slide(sample.path) as slide:
        job = map_job(slide, tmp_path, detector=load_detector(detector_file), device="cuda:7", cluster=cluster)
        with pytest.raises(DeviceError, match="cuda:7"):
            run(job)


def test_cluster_explains_a_missing_scheduler():
    with pytest.raises(SettingsError, match="no scheduler answers"):
        Cluster("tcp://127.0.0.1:9")
