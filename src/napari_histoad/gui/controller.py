"""What the panel does, without a window: it can be driven and tested with plain calls."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from psygnal import Signal

from napari_histoad.errors import HistoadError, MapError, MissingMppError, RegionError, SettingsError, writing
from napari_histoad.gui.kept import copy_name, free_name, free_names, output_folder
from napari_histoad.gui.remedies import error_of, in_window
from napari_histoad.jobs import Eta, Progress
from napari_histoad.maps import AnomalyMap
from napari_histoad.regions import write_geojson
from napari_histoad.results import UNSURE, VERDICTS, describe_findings, measure_regions
from napari_histoad.slide import address, check_mpp, convert_job, open_slide
from napari_histoad.system.remembered import recall, remember
from napari_histoad.tiles import TissueMask, read_places
from napari_histoad.worker.client import WorkerClient
from napari_histoad.worker.protocol import as_picture, progress_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from napari_histoad.regions import Region
    from napari_histoad.results import Verdicts
    from napari_histoad.slide import Slide

__all__ = ["Controller", "Review"]

_STEPS = {
    "tissue": "tissue",
    "train": "normal",
    "encoder": "normal",
    "recalibrate": "normal",
    "map": "map",
    "save": "review",
    "check": "map",
    "classify": "gallery",
    "explain": "gallery",
}
"""Of each job, the step of the panel that starts it."""

_LEAST_VERDICTS = 4
"""Of each class: three folds or more, and in each of them tiles to stop by."""


_RECALIBRATED = re.compile(r"\.recalibrated(-\d+)?$")


def _outlines_of(detector: Path) -> Path:
    """Return where the outlines lie that a detector was trained on."""
    return detector.with_name(f"{detector.stem}.normal.geojson")


def _where_now(former: AnomalyMap) -> AnomalyMap | None:
    """Return a map, also if it was set aside for another detector's; None if it is gone."""
    stem = former.path.name.removesuffix(".ome.zarr")
    earlier = (p for p in former.path.parent.glob("*.ome.zarr") if p.name.startswith(f"{stem}.earlier-"))
    for path in (former.path, *earlier):
        with suppress(MapError):
            found = AnomalyMap.open(path)
            if found.info == former.info:
                return former if path == former.path else found
    return None


@dataclass(frozen=True)
class Review:
    """A map at one threshold.

    Attributes
    ----------
    map : AnomalyMap
    labels : (H, W) uint32
        Numbered regions over the finest cells.
    regions : list of Region
        Measured outlines.
    rate : float
        False-positive rate of the threshold.
    findings : str
        What was found, in one sentence: regions, area and tiles.
    """

    map: AnomalyMap
    labels: NDArray[np.uint32]
    regions: list[Region]
    rate: float
    findings: str


class Controller:
    """State of one session and the jobs on it.

    Signals are emitted on the thread that ``call_soon`` moves to.

    Parameters
    ----------
    call_soon : callable
        Takes a function and has it called on the GUI's thread.
    """

    progressed = Signal(Progress, float, object)
    """A report, units per second, seconds left or None."""
    tissue_found = Signal(object, float)
    """TissueMask, area in mm²."""
    trained = Signal(object, list)
    """Path of the detector; places of the normal tiles that were left out of its training as suspicious."""
    model_checked = Signal(object)
    """Path of a file that holds a detector to map with."""
    encoder_known = Signal(dict)
    """What is known of an encoder of others: name, licence, from, and file, empty if its weights are not on this machine."""
    map_started = Signal(object)
    """AnomalyMap, still empty or half full."""
    map_updated = Signal(tuple)
    """Box of finest cells that changed."""
    mapped = Signal(object)
    """AnomalyMap, complete."""
    map_restored = Signal(object)
    """AnomalyMap, complete: the former one, as the new one was cancelled or failed, or that of a slide chosen again."""
    map_reopened = Signal(object)
    """AnomalyMap, complete, that was computed before."""
    reviewed = Signal(object)
    """Review."""
    classified = Signal(object, str)
    """Path of a detector with a classifier learnt from verdicts; how good it is, in words."""
    explained = Signal(list, str)
    """Titles and pictures (H, W, 3) uint8 of a tile and of what the chosen detector and classifier make of it; in words."""
    saved = Signal(list)
    """Paths of the files."""
    left_behind = Signal(str)
    """A job on a slide has ended that is no longer the chosen one; in words."""
    slide_copied = Signal(object)
    """Slide, the copy on disk of one that was none."""
    failed = Signal(str, str)
    """One line that says what and what can be done in the window; the step of the panel that it belongs to."""
    busy_changed = Signal(bool)
    cancelled = Signal()

    def __init__(self, call_soon: Callable[[Callable[[], None]], None]) -> None:
        self._call_soon = call_soon
        self.client = WorkerClient(lambda event: call_soon(lambda: self._on_event(event)))
        self.slide: Slide | None = None
        self.model: Path | None = None
        self.map: AnomalyMap | None = None
        self._growing = False
        self._finished: dict[Path, AnomalyMap] = {}  # the last of each slide
        self.out: Path | None = None
        self._job = ""
        self._job_slide: Slide | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="review")
        self._asked: tuple[AnomalyMap, float] | None = None
        self._field: tuple[AnomalyMap, NDArray[np.float32]] | None = None
        self._eta = Eta()
        self._copying: threading.Event | None = None
        self._working = False  # not the client's own: what it told last may still wait for the GUI's thread

    @property
    def busy(self) -> bool:
        """Whether a job is under way."""
        return self._copying is not None or self._working

    # -- what the user chooses

    def choose_slide(self, slide: Slide | None) -> None:
        """Work on another slide, or on none."""
        if slide is not self.slide:
            same = slide is not None and self.slide is not None and slide.on_disk and slide.path == self.slide.path
            self.slide = slide
            if not same:
                self.map, self._growing = None, False
            self.out = None if slide is None else output_folder(slide)
            remembered = None if slide is None or slide.mpp is not None else recall("mpp", str(slide.path))
            if isinstance(remembered, float | int):
                self.set_mpp(remembered)

    def set_mpp(self, mpp: float) -> None:
        """Say the resolution of a slide that does not say it itself; remembered for the next time.

        Raises
        ------
        SettingsError
            If it is not plausible.
        """
        assert self.slide is not None
        check_mpp(mpp, self.slide.path.name)
        out = self.out
        self.slide = self.slide.with_mpp(mpp)
        self.out = out
        if self.slide.on_disk:
            remember("mpp", str(self.slide.path), mpp)

    # -- jobs

    def _submit(self, job: str, **args: Any) -> None:
        slide = self._need_slide()
        self._need_idle()
        self._job, self._job_slide, self._eta = job, slide, Eta()
        if slide.on_disk:
            self.client.start()
            self._working = True
            self.client.submit(job, {"slide": address(slide.path), "slide_mpp": slide.mpp, **args})
        else:
            self._copying = threading.Event()
            self._pool.submit(self._copy, slide, self._work_folder(), self._copying, job, args)
        self.busy_changed.emit(True)  # noqa: FBT003 - a signal takes positions

    def _copy(self, slide: Slide, folder: Path, cancelled: threading.Event, job: str, args: dict[str, Any]) -> None:
        """Write a slide that is a mere layer to disk, where the background process can read it; then start the job."""
        name = "".join(c if c.isalnum() or c in " ._-" else "_" for c in slide.path.name).strip(" .") or "layer"
        try:
            target = copy_name(slide, folder / f"{name}.tif")
            if not target.exists():
                writer = convert_job(slide, target, lossless=True)
                for progress in writer:
                    if cancelled.is_set():
                        writer.close()
                        break
                    self._call_soon(partial(self._on_progress, progress))
            if cancelled.is_set():
                self._call_soon(lambda: self._on_copied(None, "cancelled"))
                return
            copy = open_slide(target, slide.mpp)
        except HistoadError as err:
            self._call_soon(partial(self._on_copied, None, in_window(err)))
        else:
            self._call_soon(lambda: self._on_copied(copy, job, args))

    def _on_copied(self, copy: Slide | None, words: str, args: dict[str, Any] | None = None) -> None:
        self._copying = None
        if copy is not None and self.on_chosen_slide:
            self.slide = copy
            self.slide_copied.emit(copy)
            self._submit(words, **(args or {}))
            return
        self.busy_changed.emit(False)  # noqa: FBT003 - a signal takes positions
        if copy is not None:
            self._leave_behind()
        elif words == "cancelled":
            self.cancelled.emit()
        else:
            self._fail(words)

    @property
    def on_chosen_slide(self) -> bool:
        """Whether the slide of the job at hand is the one that the user looks at; its resolution may have been set since."""
        slide, of_job = self.slide, self._job_slide
        if slide is None or of_job is None:
            return False
        return slide is of_job or (slide.on_disk and of_job.on_disk and slide.path == of_job.path)

    def _leave_behind(self) -> None:
        assert self._job_slide is not None
        name = self._job_slide.path.name
        self.left_behind.emit(f"Another slide was chosen meanwhile. Choose {name} and click again to see what was found there.")

    def _need_idle(self) -> None:
        if self.busy:
            raise HistoadError("another job is still running", "wait for its end, or cancel it")

    def _need_slide(self) -> Slide:
        if self.slide is None:
            raise HistoadError("no slide is open", "drop a slide on the window, or open one by File > Open Sample")
        if self.slide.mpp is None:
            raise MissingMppError(
                f"{self.slide.path.name} does not say how large its pixels are", "type its µm per pixel in step 1"
            )
        return self.slide

    def find_tissue(self) -> None:
        """Start to look for tissue; `tissue_found` follows."""
        slide = self._need_slide()
        out = self._work_folder() / f"{slide.name}.tissue.npy"
        self._submit("tissue", out=str(out))

    def train(self, regions: Sequence[Region], *, detector: str, settings: dict[str, Any], refine: str | None = None) -> None:
        """Start to train on outlines of the open slide; `trained` follows.

        Raises
        ------
        RegionError
            If there are no outlines.
        """
        slide = self._need_slide()
        target = free_name(self._work_folder() / f"{slide.name}.{detector}.safetensors")
        outlines = self._write_outlines(regions, target)
        # What is learnt is what is seen: slides with a colour profile are shown in sRGB.
        settings = {**settings, "srgb": slide.icc_profile is not None}
        self._submit("train", regions=str(outlines), out=str(target), detector=detector, settings=settings, refine=refine)

    def look_for_encoder(self, name: str, *, fetch: bool = False) -> None:
        """Start to look for the weights of an encoder by timm's name, or to download them; `encoder_known` follows."""
        self._submit("encoder", name=name, fetch=fetch)

    def check_model(self, path: Path) -> None:
        """Start to look whether a file holds a detector; `model_checked` follows, or `failed` with the reason."""
        self._need_idle()
        self._job, self._job_slide, self._eta, self._working = "check", self.slide, Eta(), True
        self.client.start()
        self.client.submit("check", {"model": str(path)})
        self.busy_changed.emit(True)  # noqa: FBT003 - a signal takes positions

    def recalibrate(self, regions: Sequence[Region]) -> None:
        """Start to set the chosen detector's thresholds by outlines of the open slide; `trained` follows.

        Raises
        ------
        RegionError
            If there are no outlines.
        SettingsError
            If no detector is chosen.
        """
        if self.model is None:
            raise SettingsError("no trained detector is chosen", "choose one in step 4, or train one")
        target = free_name(self._work_folder() / f"{_RECALIBRATED.sub('', self.model.stem)}.recalibrated.safetensors")
        outlines = self._write_outlines(regions, target)
        self._submit("recalibrate", regions=str(outlines), model=str(self.model), out=str(target))

    def train_classifier(self, verdicts: Verdicts) -> None:
        """Start to train a classifier on verdicts, beside the detector of the map at hand; `classified` follows.

        Raises
        ------
        SettingsError
            If there are too few verdicts, or the map was made without a trained detector.
        """
        counts = {name: n for name, n in verdicts.counts().items() if name != UNSURE}
        few = [name for name in VERDICTS[:2] if counts.get(name, 0) < _LEAST_VERDICTS]
        if few:
            names = " and ".join(name.lower() for name in few)
            raise SettingsError(f"too few tiles are judged {names}", f"judge at least {_LEAST_VERDICTS} of each")
        if self.model is None:
            raise SettingsError("no trained detector is chosen to go with the classifier", "choose one in step 4, or train one")
        slide, folder = self._need_slide(), self._work_folder()
        target = free_name(folder / f"{slide.name}.classifier.safetensors")
        outlines = _outlines_of(self.model)
        normal = str(outlines) if outlines.exists() and self.model.parent == folder else None
        self._submit("classify", verdicts=str(verdicts.path), normal=normal, model=str(self.model), out=str(target))

    def explain(self, centre: tuple[float, float]) -> None:
        """Start to explain the tile around (y, x) in level-0 pixels with the chosen detector; `explained` follows.

        Raises
        ------
        SettingsError
            If no detector is chosen.
        """
        if self.model is None:
            raise SettingsError("no trained detector is chosen to explain the tile with", "choose one in step 4, or train one")
        self._submit("explain", model=str(self.model), centre=list(centre))

    def _write_outlines(self, regions: Sequence[Region], target: Path) -> Path:
        """Write what a detector is learnt from beside it."""
        if not regions:
            raise RegionError("no normal tissue is outlined", "click Outline normal tissue and draw a few shapes")
        outlines = _outlines_of(target)
        write_geojson(regions, outlines)
        return outlines

    def compute_map(self) -> None:
        """Start to map the open slide with the chosen detector; `map_started`, `map_updated` and `mapped` follow.

        An unfinished map of the same detector is gone on with; one of another detector is set aside.
        """
        folder = self._work_folder()
        self._growing = False
        self._submit("map", out=str(folder), model=str(self.model) if self.model else None)

    def cancel(self) -> None:
        """Stop the job at hand; what is finished stays on disk."""
        if self._copying is not None:
            self._copying.set()
        else:
            self.client.cancel()

    def _work_folder(self) -> Path:
        self._need_slide()
        assert self.out is not None
        with writing(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
        return self.out

    # -- events of the child

    def _on_event(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "progress":
            self._on_progress(progress_of(event))
            return
        self._working = False
        if kind != "result":
            self.restore_map()
        self.busy_changed.emit(False)  # noqa: FBT003 - a signal takes positions
        if kind == "cancelled":
            self.cancelled.emit()
        elif kind == "died":
            self._fail(
                f"the background process ended unexpectedly (code {event['code']}); click again to go on where it stopped, "
                "and close other programs if memory ran out"
            )
        elif kind == "error":
            self._fail(in_window(error_of(event["kind"], event["what"], event["remedy"])))
        else:
            try:
                self._on_result(event["result"])
            except HistoadError as err:  # it was deleted meanwhile
                self.restore_map()
                self._fail(in_window(err))

    def _fail(self, words: str) -> None:
        self.failed.emit(words, _STEPS.get(self._job, "map"))

    def _on_progress(self, progress: Progress) -> None:
        if self._job == "map" and progress.stage == "Mapping" and self.on_chosen_slide:
            if not self._growing:
                with suppress(MapError):  # it was deleted meanwhile: the job that writes it says so
                    self.map = AnomalyMap.open(progress.path)
                    self._growing = True
                    self.map_started.emit(self.map)
            if self._growing and progress.updated is not None:
                self.map_updated.emit(progress.updated)
        rate, left = self._eta.update(progress)
        self.progressed.emit(progress, rate, left)

    def _on_result(self, result: dict[str, Any]) -> None:
        if self._job == "tissue":
            mask = np.load(result["path"])
            Path(result["path"]).unlink(missing_ok=True)
        if self._job in ("tissue", "map") and not self.on_chosen_slide:
            self._leave_behind()
        elif self._job == "tissue":
            self.tissue_found.emit(TissueMask(mask, tuple(result["scale_yx"])), result["area_mm2"])
        elif self._job in ("train", "recalibrate"):
            self.model = Path(result["path"])
            listed = result["suspicious"]
            self.trained.emit(self.model, [] if listed is None else read_places(Path(listed)))
        elif self._job == "check":
            self.model_checked.emit(Path(result["path"]))
        elif self._job == "encoder":
            self.encoder_known.emit(result)
        elif self._job == "classify":
            self.model = Path(result["path"])
            words = (
                f"Learnt from {result['verdicts']} verdicts. AUROC {result['auroc']}, cross-validated. Mind: {result['note']}."
            )
            self.classified.emit(self.model, words)
        elif self._job == "explain" and self.on_chosen_slide:
            assert self.model is not None
            panels = [(title, as_picture(picture)) for title, picture in result["panels"]]
            self.explained.emit(panels, f"{self.model.stem}\n{result['words']}")
        elif self._job == "map":
            self.show(AnomalyMap.open(result["path"]))
        elif self._job == "save":
            self.saved.emit([Path(f) for f in result["files"]])

    # -- review

    def show(self, finished: AnomalyMap) -> None:
        """Review a finished map."""
        self._growing = False
        self.map = finished
        if self.slide is not None:
            self._finished[self.slide.path] = finished
        self.mapped.emit(finished)

    def reopen(self, finished: AnomalyMap) -> None:
        """Review a map of the chosen slide that was computed before; `map_reopened` follows."""
        assert self.slide is not None
        self._growing = False
        self.map = self._finished[self.slide.path] = finished
        self.map_reopened.emit(finished)

    def restore_map(self) -> None:
        """Go back to the slide's last finished map, if another that was begun is not at hand; `map_restored` follows."""
        former = None if self.slide is None else self._finished.get(self.slide.path)
        working = self._job == "map" and self._working and self.on_chosen_slide
        if former is None or self.map is former or working:
            return
        self._growing = False
        found = _where_now(former)
        if found is not None and self.slide is not None:
            self.map = self._finished[self.slide.path] = found
            self.map_restored.emit(found)

    def request_review(self, rate: float) -> None:
        """Start to outline the regions of the finished map at a false-positive rate; `reviewed` follows.

        Only the last of several requests in a row is answered: a slider asks faster than a large map is outlined.
        """
        assert self.map is not None
        self._asked = (self.map, rate)
        self._pool.submit(self._review, self.map, rate)

    def _review(self, source: AnomalyMap, rate: float) -> None:
        if self._asked == (source, rate):
            try:
                review = self._reviewed_at(source, rate)
            except HistoadError as err:
                self._call_soon(partial(self.failed.emit, in_window(err), "review"))
            else:
                self._call_soon(partial(self.reviewed.emit, review))

    def _reviewed_at(self, source: AnomalyMap, rate: float) -> Review:
        if not source.path.exists():  # chunks that are gone would read as empty ones
            raise MapError(f"the map {source.path} is not there any more", "put it back, or compute it again")
        if self._field is None or self._field[0] is not source:  # the same for every threshold
            self._field = (source, source.score_field())
        labels = source.flag(rate, field=self._field[1])
        regions = measure_regions(source, labels=labels)
        return Review(source, labels, regions, rate, describe_findings(source, rate, regions))

    def close(self) -> None:
        """End the background process and the thread."""
        if self._copying is not None:
            self._copying.set()
        self.client.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def save(self, rate: float) -> None:
        """Start to write regions, picture and report beside the map, and the threshold into it; `saved` follows."""
        assert self.map is not None
        folder, name = self._work_folder(), self._need_slide().name
        files = free_names([folder / f"{name}.{kind}" for kind in ("anomalies.geojson", "overlay.png", "report.html")])
        self._submit("save", map=str(self.map.path), rate=rate, files=[str(f) for f in files])
