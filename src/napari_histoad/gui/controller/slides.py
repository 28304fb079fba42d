"""The slide that is worked on: its resolution, the folder of its results, and how jobs on it are started."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from psygnal import Signal

from napari_histoad.errors import HistoadError, MissingMppError, writing
from napari_histoad.gui.controller.runner import Handlers, JobRunner
from napari_histoad.gui.output_paths import output_folder
from napari_histoad.gui.slide_copy import copy_job
from napari_histoad.slide import address, check_mpp
from napari_histoad.system.remembered import recall, remember
from napari_histoad.tiles import TissueMask
from napari_histoad.worker.protocol import FindTissue

if TYPE_CHECKING:
    from pathlib import Path

    from napari_histoad.slide import Slide
    from napari_histoad.worker.protocol import SlideArguments, TissueFound


class ChosenSlide:
    """The chosen slide, the folder for its results, and jobs on it."""

    changed = Signal()
    """Another slide was chosen, or none."""
    tissue_found = Signal(object, float)
    """TissueMask, area in mm²."""
    copied = Signal(object)
    """Slide, the copy on disk of a slide that was only a layer."""
    left_behind = Signal(str)
    """A job has ended, but another slide was chosen meanwhile: what to do to see its result."""

    def __init__(self, runner: JobRunner) -> None:
        self._runner = runner
        self.slide: Slide | None = None
        self.out: Path | None = None
        self._job_slide: Slide | None = None

    def choose(self, slide: Slide | None) -> None:
        """Work on another slide, or on none."""
        if slide is self.slide:
            return
        same = _is_same(slide, self.slide)
        self.slide = slide
        self.out = None if slide is None else output_folder(slide)
        if not same:
            self.changed.emit()
        remembered = None if slide is None or slide.mpp is not None else recall("mpp", str(slide.path))
        if isinstance(remembered, float | int):
            self.set_mpp(remembered)

    def set_mpp(self, mpp: float) -> None:
        """Set the resolution of a slide whose file does not state it; it is remembered for the next session."""
        assert self.slide is not None
        check_mpp(mpp, self.slide.path.name)
        self.slide = self.slide.with_mpp(mpp)
        if self.slide.on_disk:
            remember("mpp", str(self.slide.path), mpp)

    def require(self) -> Slide:
        """Return the chosen slide; an error if there is none or its resolution is unknown."""
        if self.slide is None:
            raise HistoadError("no slide is open", "drop a slide on the window, or open one by File > Open Sample")
        if self.slide.mpp is None:
            raise MissingMppError(
                f"{self.slide.path.name} does not state the size of its pixels", "type its µm per pixel in step 1"
            )
        return self.slide

    def folder(self) -> Path:
        """Return the folder for the results of the chosen slide; it is created where it is missing."""
        self.require()
        assert self.out is not None
        with writing(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
        return self.out

    # -- jobs

    def submit(self, job: type[SlideArguments], args: dict[str, Any], handlers: Handlers) -> None:
        """Start a job on the chosen slide; a slide that is only a layer is copied to disk before. See `JobRunner.submit`."""
        slide = self.require()
        self._runner.require_idle()
        self._job_slide = slide
        if slide.on_disk:
            self._runner.submit(job(slide=address(slide.path), slide_mpp=slide.mpp, **args), handlers)
            return

        def copied(copy: Slide) -> None:
            if self.is_of_job:
                self.slide = copy
                self.copied.emit(copy)
                self.submit(job, args, handlers)
                return
            if handlers.on_failure is not None:
                handlers.on_failure()
            self.leave_behind()

        self._runner.run_here(copy_job(slide, self.folder()), replace(handlers, on_result=copied, on_progress=None))

    @property
    def is_of_job(self) -> bool:
        """Whether the last job was started on the chosen slide; its resolution may have been set since."""
        return self._job_slide is not None and (self._job_slide is self.slide or _is_same(self._job_slide, self.slide))

    def leave_behind(self) -> None:
        """Report that a job has ended whose slide is not the chosen one any more."""
        assert self._job_slide is not None
        name = self._job_slide.path.name
        self.left_behind.emit(f"Another slide was chosen meanwhile. Choose {name} and click again to see the result.")

    def find_tissue(self) -> None:
        """Start to find the tissue of the chosen slide; `tissue_found` follows."""
        out = self.folder() / f"{self.require().name}.tissue.npy"
        self.submit(FindTissue, {"out": out}, Handlers("tissue", self._on_tissue))

    def _on_tissue(self, result: TissueFound) -> None:
        mask = np.load(result.path)
        result.path.unlink(missing_ok=True)
        if self.is_of_job:
            self.tissue_found.emit(TissueMask(mask, result.scale_yx), result.area_mm2)
        else:
            self.leave_behind()


def _is_same(one: Slide | None, other: Slide | None) -> bool:
    return one is not None and other is not None and one.on_disk and other.on_disk and one.path == other.path
