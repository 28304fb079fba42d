"""Step 4: trains a detector on the outlines, or recalibrates the chosen one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicgui.types import FileDialogMode
from magicgui.widgets import CheckBox, ComboBox, FileEdit, PushButton, SpinBox
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QFormLayout, QLabel, QMessageBox

from napari_histoad.gui.layer_data import suspicious_layer
from napari_histoad.gui.messages import InfoLabel
from napari_histoad.gui.pixmap import pixmap
from napari_histoad.gui.progress import metric_words
from napari_histoad.gui.section import Section

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from napari_histoad.gui.section import PanelContext
    from napari_histoad.jobs import Progress
    from napari_histoad.tiles import TilePlace
    from napari_histoad.worker.protocol import EncoderDescribed

_STAINS = ["as they are", "macenko", "vahadane", "reinhard"]
_OWN = "own"
_OWN_ENCODERS = {
    "efficientnet-lite0": "trained on ImageNet, comes with the package",
    _OWN: "trained on your tiles first",
    "starter": "trained on two tissues, comes with the package",
}
_ENCODERS = [
    *_OWN_ENCODERS,
    "vit_small_patch14_reg4_dinov2.lvd142m",
    "resnet18.a1_in1k",
    "hf-hub:kaiko-ai/midnight",
    "hf-hub:histai/hibou-b",
    "hf-hub:bioptimus/H-optimus-0",
    "hf-hub:paige-ai/Virchow2",
    "hf-hub:MahmoodLab/UNI2-h",
]
_DEFAULT = {
    "choice": "best",
    "name": "combined",
    "title": "Texture and VQ-VAE",
    "summary": "Joins the distance of stain texture from that of normal tissue with the error of a VQ-VAE.",
    "learns_by_steps": True,
    "uses_encoder": False,
}
"""Offered until the background process has listed the detectors of all installed packages."""


class DetectorSection(Section):
    """Method and settings of a new detector, and the buttons that train and recalibrate."""

    name, title, order = "detector", "4 · Detector", 40

    def __init__(self, context: PanelContext) -> None:
        super().__init__(context)
        self._detectors: dict[str, dict[str, Any]] = {}
        self.method_box = ComboBox(choices=[])
        self.steps_box = SpinBox(
            value=300, min=20, max=100_000, step=100, tooltip="Maximum number of training steps; training may stop earlier"
        )
        self.stain_box = ComboBox(
            choices=_STAINS, value=_STAINS[0], tooltip="Normalise the stains of all slides, in training and in later maps"
        )
        self.encoder_box = QComboBox()
        self.encoder_box.addItems(_ENCODERS)
        self.encoder_box.setEditable(True)
        self.encoder_box.setMinimumWidth(60)
        own = "; ".join(f"{name}: {words}" for name, words in _OWN_ENCODERS.items())
        self.encoder_box.setToolTip(
            f"The network that computes features of tiles. {own}. Or type the name of a timm model, hf-hub:owner/name, "
            "or a folder with a model of the hub: the licence is shown before a download"
        )
        self.weights_file = FileEdit(
            mode=FileDialogMode.OPTIONAL_FILE,
            filter="*.safetensors *.bin *.pth *.pt",
            nullable=True,
            tooltip="The file of the encoder's weights, instead of a download",
        )
        self.weights_file.choose_btn.text = "Open…"
        self._encoder_label, self._weights_label = QLabel("Encoder"), QLabel("Weights")
        self.refine_box = CheckBox(
            text="Leave out suspicious tiles",
            tooltip="If the outlines may contain a few abnormal spots: unusual tiles are listed and not used for training",
        )
        self.train_button = PushButton(text="Train", tooltip="Train a detector on the outlined tissue")
        self.recalibrate_button = PushButton(
            text="Recalibrate the chosen detector",
            tooltip="For another stain or scanner: the detector stays as it is, its thresholds are set by these outlines",
        )
        self.reason_info, self.info = InfoLabel(), InfoLabel()
        self.preview = QLabel()
        self.preview.setVisible(False)
        self.preview.setToolTip("Tiles, and below them their reconstructions")
        form = QFormLayout()
        form.addRow("Method", self.method_box.native)
        form.addRow("Steps", self.steps_box.native)
        form.addRow(self._encoder_label, self.encoder_box)
        form.addRow(self._weights_label, self.weights_file.native)
        form.addRow("Stains", self.stain_box.native)
        self.add(form, self.refine_box.native, self.train_button.native, self.reason_info)
        self.add(self.recalibrate_button.native, self.message, self.info, self.preview)
        boxes = (self.method_box, self.stain_box, self.refine_box, self.weights_file)
        self.settings = [*(box.native for box in boxes), self.encoder_box]
        self.show_detectors([_DEFAULT])
        for changed in (self.steps_box.changed, self.stain_box.changed, self.refine_box.changed, self.weights_file.changed):
            changed.connect(self.message.clear)
        self.method_box.changed.connect(self._on_method)
        self.encoder_box.currentTextChanged.connect(self._on_method)
        self.train_button.changed.connect(self.guarded(self._on_train))
        self.recalibrate_button.changed.connect(self.guarded(self._recalibrate))
        training = self.controller.training
        training.detectors_listed.connect(self.show_detectors)
        training.encoder_known.connect(self._on_encoder_known)
        training.trained.connect(self._on_trained)
        self.controller.runner.progressed.connect(self._on_progress)
        training.list_detectors()

    def clear(self) -> None:
        """Remove texts and pictures about the former slide."""
        super().clear()
        self.info.setText("")
        self.preview.setVisible(False)

    def refresh(self) -> None:
        """Update the buttons and the settings of the chosen method."""
        self.enable(self.train_button, self.recalibrate_button)
        self.reason_info.setText(self.reason())
        self._show_settings()

    # -- the method

    def show_detectors(self, detectors: Sequence[dict[str, Any]]) -> None:
        """Offer detectors, each with the fields of `DetectorDescription`; the chosen one stays chosen."""
        self._detectors = {known["name"]: known for known in detectors}
        chosen = self.method_box.value or _DEFAULT["name"]
        with self.method_box.changed.blocked():
            self.method_box.choices = [(_label(known), name) for name, known in self._detectors.items()]
            if chosen in self._detectors:
                self.method_box.value = chosen
        self._show_settings()

    def _on_method(self, _: object = None) -> None:
        self.message.clear()
        self._show_settings()

    def _show_settings(self) -> None:
        """Show the settings that the chosen method has."""
        chosen = self._detectors[self.method_box.value]
        self.method_box.tooltip = chosen["summary"]
        self.steps_box.enabled = self._has_steps() and not self.controller.runner.busy
        for widget in (self._encoder_label, self.encoder_box):
            widget.setVisible(chosen["uses_encoder"])
        third_party = chosen["uses_encoder"] and self._encoder() not in _OWN_ENCODERS
        for widget in (self._weights_label, self.weights_file.native):
            widget.setVisible(third_party)

    def _has_steps(self) -> bool:
        """Return whether a network is trained step by step."""
        chosen = self._detectors[self.method_box.value]
        return bool(chosen["learns_by_steps"] or (chosen["uses_encoder"] and self._encoder() == _OWN))

    def _encoder(self) -> str:
        return self.encoder_box.currentText().strip()

    def _weights(self) -> Path | None:
        given = self.weights_file.value
        return Path(str(given)) if given and Path(str(given)).is_file() else None

    # -- training

    def _on_train(self) -> None:
        uses_encoder = self._detectors[self.method_box.value]["uses_encoder"]
        if uses_encoder and self._encoder() not in _OWN_ENCODERS and self._weights() is None:
            self.controller.training.look_for_encoder(self._encoder())  # asks before a download, then trains
        else:
            self._train()

    def _on_encoder_known(self, known: EncoderDescribed) -> None:
        if known.file is not None:
            self.guarded(self._train)()
        elif self.agrees(known):
            self.controller.training.look_for_encoder(known.name, fetch=True)
        else:
            self.info.setText(f"{known.name} was not downloaded. Choose the file of its weights, or another encoder.")

    def agrees(self, known: EncoderDescribed) -> bool:
        """Ask whether third-party weights shall be downloaded under their licence."""
        words = f"{known.name} is not on this machine.\n\nLicence: {known.licence}\nFrom: {known.origin}\n\nDownload it?"
        return QMessageBox.question(self, "Download weights", words) == QMessageBox.StandardButton.Yes

    def _train(self) -> None:
        settings: dict[str, Any] = {"max_steps": self.steps_box.value} if self._has_steps() else {}
        if self._detectors[self.method_box.value]["uses_encoder"]:
            settings["backbone"] = self._encoder()
            if self._weights() is not None and settings["backbone"] not in _OWN_ENCODERS:
                settings["backbone_weights"] = str(self._weights())
        if self.stain_box.value != _STAINS[0]:
            settings["stain"] = self.stain_box.value
        self.preview.setVisible(False)
        refine = "neighbours" if self.refine_box.value else None
        regions = self.context.outlines.regions()
        self.controller.training.train(regions, detector=self.method_box.value, settings=settings, refine=refine)

    def _recalibrate(self) -> None:
        self.controller.training.recalibrate(self.context.outlines.regions())

    def _on_trained(self, path: Path, left_out: list[TilePlace]) -> None:
        words = f"Ready, saved as {path.name}."
        boxes = [place.box for place in left_out if place.box is not None]
        slide = self.controller.chosen.slide
        if boxes and slide is not None and self.controller.chosen.is_of_job:
            words += f" {len(boxes)} suspicious tiles were left out; they are shown as orange squares."
            self.context.view.replace(suspicious_layer(boxes, slide.mpp))
        self.info.setText(words)

    def _on_progress(self, progress: Progress, _rate: float, _left: float | None) -> None:
        if not self.controller.chosen.is_of_job:
            return
        if progress.note and progress.stage != "Mapping":
            self.info.setText(progress.note)
        if progress.stage == "Training" and progress.metrics:
            self.info.setText(metric_words(progress.metrics))
        if progress.preview is not None:
            self._show_preview(progress.preview)

    def _show_preview(self, image: NDArray[np.uint8]) -> None:
        width = max(200, self.width() - 30)
        self.preview.setPixmap(pixmap(image).scaledToWidth(width, Qt.TransformationMode.SmoothTransformation))
        self.preview.setVisible(True)


def _label(known: dict[str, Any]) -> str:
    """Return what the list of methods shows of a detector."""
    choice = known.get("choice")
    return f"{choice.capitalize()} · {known['title']}" if choice else known["title"]
