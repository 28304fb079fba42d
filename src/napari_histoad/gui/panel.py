"""The guided panel: slide → tissue → normal → map → review. Widgets only; `Controller` does the work."""

from __future__ import annotations

from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels, Shapes
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QObject, Qt, QTimer
from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QFileDialog, QMessageBox

from napari_histoad.errors import HistoadError
from napari_histoad.gui.annotation_layers import other_layer, read_by_class
from napari_histoad.gui.autosave import Autosave
from napari_histoad.gui.controller import Controller
from napari_histoad.gui.layers import suspicious_layer, tissue_layer
from napari_histoad.gui.messages import scroll_to
from napari_histoad.gui.outlines import NormalOutlines
from napari_histoad.gui.progress import metric_words, progress_words
from napari_histoad.gui.remedies import in_window, note_in_window
from napari_histoad.gui.reopened import ReopenedMaps
from napari_histoad.gui.review import MapReview
from napari_histoad.gui.slide_layers import SLIDE_KEY, associated_layers, can_be_slide, pixel_size, slide_of_layer
from napari_histoad.gui.slide_view import SlideView, owner_of
from napari_histoad.gui.widgets import (
    NO_SLIDE,
    OWN,
    OWN_ENCODERS,
    SELF,
    SELF_HINT,
    STAINS,
    WITH_ENCODER,
    WITHOUT_STEPS,
    PanelWidgets,
    pixmap,
)
from napari_histoad.regions import count_classes

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari.layers import Layer
    from napari.viewer import Viewer

    from napari_histoad.jobs import Progress
    from napari_histoad.regions import Region
    from napari_histoad.slide import Slide
    from napari_histoad.tiles import TilePlace, TissueMask

__all__ = ["AnomalyPanel"]


class _Bridge(QObject):
    """Moves calls from the reading thread to the GUI's."""

    called = QtSignal(object)

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self.called.connect(lambda function: function(), Qt.ConnectionType.QueuedConnection)


class AnomalyPanel(PanelWidgets):
    """*Plugins > Anomaly mapping*.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        self.viewer = napari_viewer
        super().__init__(self._slide_choices)
        self.outlines = NormalOutlines(
            napari_viewer, lambda: self.slide_box.value, Autosave(self, lambda words: self._on_failed(words, "normal"))
        )
        self._bridge = _Bridge(self)
        self.controller = Controller(self._bridge.called.emit)
        self._models: dict[str, Path] = {}
        self.view = SlideView(napari_viewer, self._choose, self._on_renamed)
        self.review = MapReview(self, napari_viewer, self.controller, self.view.replace, self.add_outlines)
        self.reopened = ReopenedMaps(
            self, napari_viewer, self.controller, self.view, self._set_mpp, lambda words, step: self._on_failed(words, step)
        )
        self._connect()
        self.controller.client.start()  # torch loads while the user looks around
        controller, view, outlines, watched = self.controller, self.view, self.outlines, self.viewer.layers.events
        inserted, removed = self._on_inserted, self._on_layers

        def leave() -> None:  # holds what outlives the widget, not the widget
            controller.close()
            view.close()
            outlines.close()
            watched.inserted.disconnect(inserted)
            watched.removed.disconnect(removed)

        self.destroyed.connect(leave)
        self._on_layers()

    def _connect(self) -> None:
        self.viewer.layers.events.inserted.connect(self._on_inserted)
        self.viewer.layers.events.removed.connect(self._on_layers)
        self.slide_box.changed.connect(self._on_slide)
        self.mpp_button.changed.connect(self._guarded(self._on_mpp, "slide"))
        self.pictures_button.changed.connect(self._guarded(self._on_pictures, "slide"))
        self.tissue_button.changed.connect(self._guarded(self.controller.find_tissue, "tissue"))
        self.outline_button.changed.connect(self._guarded(self._on_outline, "normal"))
        self.import_button.changed.connect(self._guarded(self._on_import, "normal"))
        self.train_button.changed.connect(self._guarded(self._on_train, "normal"))
        self.recalibrate_button.changed.connect(self._guarded(self._on_recalibrate, "normal"))
        self.method_box.changed.connect(self._on_method)
        for changed in (self.steps_box.changed, self.stain_box.changed, self.refine_box.changed):
            changed.connect(self.messages["normal"].clear)
        for changed in (self.method_box.changed, self.weights_file.changed):
            changed.connect(self.messages["normal"].clear)
        self.encoder_box.currentTextChanged.connect(self.messages["normal"].clear)
        self.encoder_box.currentTextChanged.connect(lambda _: self._on_method(self.method_box.value))
        self.model_file.changed.connect(self._guarded(self._on_model_file, "map"))
        self.model_box.changed.connect(self._on_model)
        self.map_button.changed.connect(self._guarded(self.controller.compute_map, "map"))
        self.cancel_button.changed.connect(self.controller.cancel)
        self.gallery_button.changed.connect(self._guarded(self.review.open_gallery, "review"))
        self.save_button.changed.connect(self._guarded(lambda: self.controller.save(self.rate()), "review"))
        c = self.controller
        c.progressed.connect(self._on_progress)
        c.tissue_found.connect(self._on_tissue)
        c.encoder_known.connect(self._on_encoder_known)
        c.trained.connect(self._on_trained)
        c.model_checked.connect(self._offer_model)
        c.classified.connect(lambda path, _: self._offer_model(path))
        c.saved.connect(self._on_saved)
        c.slide_copied.connect(self._on_slide_copied)
        c.failed.connect(self._on_failed)
        c.busy_changed.connect(self._on_busy)
        c.left_behind.connect(show_info)
        c.cancelled.connect(lambda: show_info("Cancelled. What was finished is kept: click again to go on."))

    def _guarded(self, action: Callable[[], object], step: str) -> Callable[..., None]:
        """Return a slot that shows an error with its remedy in the step that it belongs to."""

        def slot(*_: object) -> None:
            self.messages[step].clear()
            try:
                action()
            except HistoadError as err:
                self._on_failed(in_window(err), step)

        return slot

    # -- 1 slide

    def _slide_choices(self, _: object = None) -> list[tuple[str, Layer]]:
        return [(layer.name, layer) for layer in self.viewer.layers if can_be_slide(layer)]

    def _on_inserted(self, event: Any) -> None:
        self.reopened.added(event.value)
        self.view.added(event.value)
        self.outlines.added(event.value)
        self._on_layers()
        if can_be_slide(event.value) and owner_of(event.value) != self.view.owner:
            self.slide_box.value = event.value  # it lies over the others: it is the one in view

    def _on_layers(self, _: object = None) -> None:
        before = self.slide_box.value
        self.slide_box.reset_choices()
        slides = [layer for _, layer in self._slide_choices()]
        if self.slide_box.value is None and slides:
            copies = [layer for layer in slides if owner_of(layer) == self.view.owner]
            self.slide_box.value = (copies or slides)[-1]
        if self.slide_box.value is not before or before is None:
            self._on_slide()

    def _on_renamed(self) -> None:
        chosen = self.slide_box.value
        with self.slide_box.changed.blocked():  # it is the same slide
            self.slide_box.reset_choices()
            self.slide_box.value = chosen

    def _choose(self, layer: Layer) -> None:
        self.slide_box.value = layer

    def _on_slide(self, _: object = None) -> None:
        layer, slide, problem = self.slide_box.value, None, ""
        try:
            slide = None if layer is None else slide_of_layer(layer)
        except HistoadError as err:
            problem = in_window(err)
        former = self.controller.slide
        self.controller.choose_slide(slide)
        self.mpp_row.show_value(None if self.controller.slide is None else self.controller.slide.mpp)
        if former is None or slide is None or former.path != slide.path or owner_of(layer) != self.view.owner:
            self._forget_former()
        if problem:
            self._on_failed(problem, "slide")
        self._place(layer, self.controller.slide)
        self.view.show(layer)
        self._guarded(self._restore_outlines, "normal")()
        self.controller.restore_map()
        self.reopened.slide_chosen()
        self._show_slide(self.controller.slide)

    def _forget_former(self) -> None:
        """Clear the texts about the slide that was chosen before."""
        for text in (self.tissue_info, self.train_info):
            text.setText("")
        for message in self.messages.values():
            message.clear()
        self.preview.setVisible(False)
        self.review.clear()

    def _restore_outlines(self) -> None:
        layer, slide, out = self.slide_box.value, self.controller.slide, self.controller.out
        if layer is not None and slide is not None and out is not None:
            count = self.outlines.open(layer, out, slide.name, elsewhere=slide.path.parent not in out.parents)
            if count:
                self.train_info.setText(f"{count} outlines of normal tissue are there again from {out.name}.")

    def _place(self, layer: Layer | None, slide: Slide | None) -> None:
        """Show a layer in µm, as heatmap and outlines are: another reader may have left it in pixels."""
        if layer is None or slide is None or slide.mpp is None:
            return
        looks = pixel_size(slide.mpp)
        if not np.allclose(layer.scale[-2:], looks["scale"]) or [str(u) for u in layer.units[-2:]] != ["micrometer"] * 2:
            self.view.rescale(layer, looks["scale"], looks["units"])
            self.viewer.reset_view()

    def _show_slide(self, slide: Slide | None) -> None:
        reason = self._why_not(slide)
        for button in (self.tissue_button, self.train_button, self.recalibrate_button, self.map_button):
            button.enabled = not reason
        self.outline_button.enabled = self.import_button.enabled = slide is not None and not self.controller.busy
        self.reopened.offer()
        self.save_button.enabled = not self.controller.busy
        for setting in self.settings:
            setting.setEnabled(not self.controller.busy)
        self._on_method(self.method_box.value)
        self.show_reason("" if self.controller.busy or slide is None else reason)
        self.mpp_row.setVisible(slide is not None and slide.file_mpp is None)
        if self.controller.map is None:
            self.notes.clear()
        self.pictures_button.native.setVisible(slide is not None and bool(slide.associated))
        self.review_group.setEnabled(self.controller.map is not None and self.controller.map.info.complete)
        if slide is None:
            self.slide_info.setText(escape(NO_SLIDE))
            self.out_info.setText("")
            return
        out = self.controller.out
        assert out is not None
        where = "beside the slide" if slide.path.parent in out.parents else "in your home folder"
        self.out_info.setText(f"Results go to the folder {out.name} {where}.")
        self.out_info.setToolTip(str(out))
        h, w = slide.shape
        size = f"{w:,} × {h:,} px" + (f", {w * slide.mpp / 1000:.1f} × {h * slide.mpp / 1000:.1f} mm" if slide.mpp else "")
        mpp = f"{slide.mpp:.4g} µm per pixel" if slide.mpp else "<b>resolution unknown: choose or type it below</b>"
        notes = [escape(note_in_window(note)) for note in slide.notes]
        self.slide_info.setText("<br>".join([escape(slide.format), size, mpp, *notes]))
        self.slide_info.setToolTip("\n".join(f"{name}: {value}" for name, value in slide.properties.items() if len(value) < 100))

    def _why_not(self, slide: Slide | None) -> str:
        """Return why no job can be started now, empty if one can."""
        if slide is None:
            return NO_SLIDE
        if slide.mpp is None:
            return "First give the µm per pixel in step 1: this slide does not state it."
        return "Wait for the end of the run below, or cancel it." if self.controller.busy else ""

    def _on_pictures(self) -> None:
        slide = self.controller.slide
        for data, looks, _ in [] if slide is None else associated_layers(slide):
            self.view.replace(Image(data, **looks))
        self.viewer.reset_view()

    def _on_slide_copied(self, slide: Slide) -> None:
        if self.slide_box.value is not None:
            self.slide_box.value.metadata[SLIDE_KEY] = slide
        self._show_slide(slide)

    def _on_mpp(self) -> None:
        if self.slide_box.value is not None:
            self._set_mpp(self.mpp_box.value)

    def _set_mpp(self, mpp: float) -> None:
        layer = self.slide_box.value
        self.controller.set_mpp(mpp)
        for message in self.messages.values():
            message.clear()
        slide = self.controller.slide
        assert slide is not None
        layer.metadata[SLIDE_KEY] = slide
        self._place(layer, slide)
        self._show_slide(slide)

    # -- 2 tissue

    def _on_tissue(self, tissue: TissueMask, area_mm2: float) -> None:
        slide = self.controller.slide
        if slide is None or slide.mpp is None:
            return
        data, looks, _ = tissue_layer(tissue, slide.mpp, slide.name)
        self.view.replace(Labels(data, **looks)).contour = 2
        share = 100 * tissue.mask.mean()
        self.tissue_info.setText(f"{area_mm2:.2f} mm² of tissue, {share:.0f}% of the slide")

    # -- 3 normal

    def add_outlines(self, regions: list[Region]) -> int:
        """Add regions to the outlines of normal tissue; return how many were not there before."""
        new = self.outlines.add(regions)
        if new:
            self.train_info.setText(f"{new} tiles judged normal are outlined as well. Click Train to learn from them.")
        return new

    def _on_outline(self) -> None:
        self.outlines.draw()
        self.train_info.setText("Draw around normal tissue; a few different places are best. Then click Train.")

    def _on_import(self) -> None:
        folder = self.controller.slide.path.parent if self.controller.slide is not None else Path.home()
        kinds = "Annotations (*.geojson *.json *.gz *.zip);;All files (*)"
        chosen, _ = QFileDialog.getOpenFileName(self, "Import outlines", str(folder), kinds)
        if chosen:
            self.import_outlines(Path(chosen))

    def import_outlines(self, path: Path) -> None:
        """Add the outlines of a file to those of normal tissue, and show those of other classes in a layer of their own.

        Raises
        ------
        RegionError
            If the file holds no outline that can be used.
        """
        layer = self.slide_box.value
        normal, others, notes = read_by_class(path, layer)
        added = self.outlines.add(normal)
        words = [f"{path.name}: {added} of {len(normal)} outlines of normal tissue were added."]
        if not normal:
            words = [f"{path.name} holds no outlines of normal tissue."]
        elif not added:
            words = [f"The outlines of normal tissue in {path.name} are there already."]
        if others:
            data, looks, _ = other_layer(path, others, layer)
            self.view.replace(Shapes(data, **looks))
            words.append(f"Outlines of other classes are shown, and not learnt from: {count_classes(others)}.")
        self.train_info.setText("\n".join([*words, *map(note_in_window, notes)]))

    def normal_regions(self) -> list[Region]:
        """Return the outlines of normal tissue in level-0 pixels of the slide."""
        return self.outlines.regions()

    def _on_recalibrate(self) -> None:
        self.controller.recalibrate(self.normal_regions())

    def _on_train(self) -> None:
        name = self.encoder_box.currentText().strip()
        if self.method_box.value in WITH_ENCODER and name not in OWN_ENCODERS and self._given_weights() is None:
            self.controller.look_for_encoder(name)  # asks before anything is downloaded, then trains
        else:
            self._train()

    def _given_weights(self) -> Path | None:
        given = self.weights_file.value
        return Path(str(given)) if given and Path(str(given)).is_file() else None

    def _on_encoder_known(self, known: dict[str, str]) -> None:
        if known["file"]:
            self._guarded(self._train, "normal")()
        elif self.agrees(known):
            self.controller.look_for_encoder(known["name"], fetch=True)
        else:
            self.train_info.setText(f"{known['name']} was not downloaded. Give the file of its weights, or choose another.")

    def agrees(self, known: dict[str, str]) -> bool:
        """Ask whether weights of others shall be downloaded under their licence."""
        words = f"{known['name']} is not on this machine.\n\nLicence: {known['licence']}\nFrom: {known['from']}\n\nDownload it?"
        return QMessageBox.question(self, "Download weights", words) == QMessageBox.StandardButton.Yes

    def _train(self) -> None:
        settings: dict[str, Any] = {"max_steps": self.steps_box.value} if self._has_steps() else {}
        if self.method_box.value in WITH_ENCODER:
            settings["backbone"] = self.encoder_box.currentText().strip()
            if self._given_weights() is not None and settings["backbone"] not in OWN_ENCODERS:
                settings["backbone_weights"] = str(self._given_weights())
        if self.stain_box.value != STAINS[0]:
            settings["stain"] = self.stain_box.value
        self.preview.setVisible(False)
        refine = "neighbours" if self.refine_box.value else None
        self.controller.train(self.normal_regions(), detector=self.method_box.value, settings=settings, refine=refine)

    def _has_steps(self) -> bool:
        """Whether something is trained step by step."""
        method = self.method_box.value
        return method not in WITHOUT_STEPS or (method in WITH_ENCODER and self.encoder_box.currentText().strip() == OWN)

    def _on_method(self, method: str) -> None:
        self.steps_box.enabled = self._has_steps() and not self.controller.busy
        self.show_encoder(method)

    def _on_trained(self, path: Path, left_out: list[TilePlace]) -> None:
        words = f"Ready, saved as {path.name}."
        boxes = [place.box for place in left_out if place.box is not None]
        slide = self.controller.slide
        if boxes and slide is not None and self.controller.on_chosen_slide:
            words += f" {len(boxes)} suspicious tiles were left out: look at the orange squares."
            self.view.replace(suspicious_layer(boxes, slide.mpp))
        self.train_info.setText(words)
        self._offer_model(path)

    # -- 4 map

    def _offer_model(self, path: Path) -> None:
        name = path.name
        if self._models.get(name, path) != path:  # another folder's
            name = f"{path.name} in {path.parent.name}"
        self._models[name] = path
        if name not in self.model_box.choices:
            self.model_box.choices = [SELF, *[c for c in self.model_box.choices if c != SELF], name]
        self.model_box.value = name
        self._on_model()

    def _on_model_file(self) -> None:
        path = Path(str(self.model_file.value))
        if path.is_file():  # else it is still being typed
            self.controller.check_model(path)

    def _on_model(self, _: object = None) -> None:
        chosen = self.model_box.value
        self.messages["map"].clear()
        self.controller.model = self._models.get(chosen)
        self.model_hint.setText(SELF_HINT if chosen == SELF else f"Scores are compared with held-out normal tiles of {chosen}.")

    # -- 5 review

    def rate(self) -> float:
        """Return the chosen false-positive rate."""
        return self.review.rate()

    def _on_saved(self, files: list[Path]) -> None:
        show_info(f"Saved in {files[0].parent}: {', '.join(f.name for f in files)}")

    # -- progress

    def _on_progress(self, progress: Progress, rate: float, left: float | None) -> None:
        self.progress.setRange(0, progress.total)
        self.progress.setValue(progress.done)
        self.progress_info.setText(progress_words(progress, rate, left))
        if progress.note and progress.stage == "Mapping":
            self.progress_info.setToolTip(progress.note)
        if not self.controller.on_chosen_slide:
            return
        if progress.note and progress.stage != "Mapping":
            self.train_info.setText(progress.note)
        if progress.stage == "Training" and progress.metrics:
            self.train_info.setText(metric_words(progress.metrics))
        if progress.preview is not None:
            self._show_preview(progress.preview)

    def _show_preview(self, image: Any) -> None:
        width = max(200, self.width() - 50)
        self.preview.setPixmap(pixmap(image).scaledToWidth(width, Qt.TransformationMode.SmoothTransformation))
        self.preview.setVisible(True)

    def _on_busy(self, busy: bool) -> None:  # noqa: FBT001 - a slot takes what its signal sends
        self.progress_row.setVisible(busy)
        if busy:
            self.progress.setRange(0, 0)
            self.progress_info.setText("Starting …")
        self._show_slide(self.controller.slide)

    def _on_failed(self, words: str, step: str) -> None:
        if step not in self.messages:  # the gallery shows its own
            return
        self.messages[step].say(words)
        if self.isVisible():
            QTimer.singleShot(0, partial(scroll_to, self.messages[step]))  # once it has its height
        else:
            show_error(words)
