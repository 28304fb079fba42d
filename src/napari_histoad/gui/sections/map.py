"""Step 5: computes the anomaly map of the slide, or opens the map that was computed before."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from magicgui.types import FileDialogMode
from magicgui.widgets import ComboBox, FileEdit, PushButton
from qtpy.QtWidgets import QFormLayout

from napari_histoad.errors import MapError
from napari_histoad.gui.dropped_maps import map_path, unfinished_words
from napari_histoad.gui.messages import InfoLabel
from napari_histoad.gui.section import Section
from napari_histoad.maps import AnomalyMap
from napari_histoad.tiles import ARTEFACTS

if TYPE_CHECKING:
    from napari_histoad.gui.section import PanelContext

SELF = "Learn normal from this slide"
_SELF_HINT = "No training: tissue that is common on this slide counts as normal, and rare tissue as anomalous."
_ARTEFACT_CHOICES = ("Mark them", "Leave them out", "Do not look for them")
_ARTEFACTS_HINT = "Tiles out of focus, folded, or under bubbles, pen, dust or the edge of the cover slip"


class MapSection(Section):
    """The detector to use, the button that computes the map, and the one that opens the finished map."""

    name, title, order = "map", "5 · Anomaly map", 50

    def __init__(self, context: PanelContext) -> None:
        super().__init__(context)
        self._models: dict[str, Path] = {}
        self._found: AnomalyMap | None = None
        """The finished map in the folder of the slide's results."""
        self.model_box = ComboBox(choices=[SELF], value=SELF, tooltip="The detector that scores the tiles")
        self.model_hint = InfoLabel(_SELF_HINT)
        self.model_file = FileEdit(mode=FileDialogMode.EXISTING_FILE, filter="*.safetensors", tooltip="Open a trained detector")
        self.model_file.choose_btn.text = "Open…"
        self.artefacts_box = ComboBox(choices=list(zip(_ARTEFACT_CHOICES, ARTEFACTS, strict=True)), tooltip=_ARTEFACTS_HINT)
        self.out_info, self.found_info, self.reason_info = InfoLabel(), InfoLabel(), InfoLabel()
        self.reopen_button = PushButton(text="Review the finished map", tooltip="Show the map that was computed before")
        self.reopen_button.native.hide()
        self.map_button = PushButton(text="Compute anomaly map")
        self.map_button.native.setStyleSheet("font-weight: bold; padding: 6px;")
        self.settings = [self.model_box.native, self.model_file.native, self.artefacts_box.native]
        form = QFormLayout()
        form.addRow("Detector", self.model_box.native)
        form.addRow("File", self.model_file.native)
        form.addRow("Artefacts", self.artefacts_box.native)
        self.add(form, self.model_hint, self.out_info, self.found_info, self.reopen_button.native)
        self.add(self.map_button.native, self.reason_info, self.message)
        self.model_file.changed.connect(self.guarded(self._check_file))
        self.model_box.changed.connect(self._on_model)
        self.reopen_button.changed.connect(self.guarded(self._reopen))
        self.map_button.changed.connect(self.guarded(self._compute))
        self.controller.training.trained.connect(lambda path, _: self.offer_model(path))
        self.controller.training.model_checked.connect(self.offer_model)
        self.controller.verdicts.classified.connect(lambda path, _: self.offer_model(path))

    # -- the detector

    def offer_model(self, path: Path) -> None:
        """Add a file to the choice of detectors, and choose it."""
        name = path.name
        if self._models.get(name, path) != path:  # a file of the same name in another folder
            name = f"{path.name} in {path.parent.name}"
        self._models[name] = path
        if name not in self.model_box.choices:
            self.model_box.choices = [SELF, *[c for c in self.model_box.choices if c != SELF], name]
        self.model_box.value = name
        self._on_model()

    def _check_file(self) -> None:
        path = Path(str(self.model_file.value))
        if path.is_file():  # else it is still being typed
            self.controller.training.check_model(path)

    def _on_model(self, _: object = None) -> None:
        chosen = self.model_box.value
        self.message.clear()
        self.controller.training.model = self._models.get(chosen)
        hint = f"The scores are compared with those of held-out normal tiles of {chosen}."
        self.model_hint.setText(_SELF_HINT if chosen == SELF else hint)

    # -- the map

    def _compute(self) -> None:
        self.controller.maps.compute(self.artefacts_box.value)

    def refresh(self) -> None:
        """Update the buttons, the folder of the results, and the offer of a finished map."""
        self.enable(self.map_button)
        self.reason_info.setText(self.reason())
        slide, out = self.controller.chosen.slide, self.controller.chosen.out
        beside = slide is not None and out is not None and slide.path.parent in out.parents
        where = "beside the slide" if beside else "in your home folder"
        self.out_info.setText("" if out is None else f"Results are saved in the folder {out.name} {where}.")
        self.out_info.setToolTip("" if out is None else str(out))
        busy = self.controller.runner.busy or self.controller.maps.map is not None
        found = None if busy else self._find_map()
        self._found = found if found is not None and found.info.complete else None
        self.reopen_button.native.setVisible(self._found is not None)
        self.found_info.setText("" if found is None else self._describe(found))

    def _find_map(self) -> AnomalyMap | None:
        """Return the map of the chosen slide in the folder of its results, or None."""
        slide, out = self.controller.chosen.slide, self.controller.chosen.out
        if slide is None or out is None or slide.mpp is None:
            return None
        path = map_path(slide.name, out)
        if not path.is_dir():
            return None
        try:
            found = AnomalyMap.open(path)
        except MapError:  # reported when the map is computed
            return None
        same = (found.info.slide, tuple(found.info.slide_shape)) == (slide.file_name, tuple(slide.shape))
        return found if same else None

    def _describe(self, found: AnomalyMap) -> str:
        if found.info.complete:
            return f"This slide has a finished map, made with {found.info.detector}."
        words = unfinished_words(found, self.controller)
        return f"{words[0].upper()}{words[1:]}."

    def _reopen(self) -> None:
        found, slide = self._found, self.controller.chosen.slide
        if found is None or slide is None or self.controller.runner.busy:
            return
        self.reopen_button.native.hide()
        source = AnomalyMap.open(found.path)  # raises an error if it was deleted
        source.check_slide(slide)
        self.context.map_asked.emit(source)
