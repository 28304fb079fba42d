"""The widgets of the panel, laid out in the order of work. What they do is said in `panel`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from magicgui.types import FileDialogMode
from magicgui.widgets import CheckBox, ComboBox, FileEdit, PushButton, SpinBox
from qtpy.QtCore import Qt
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtWidgets import (
    QComboBox,
    QFormLayout,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QProgressBar,
    QScrollArea,
    QSizePolicy,
    QSlider,
    QVBoxLayout,
    QWidget,
)

from napari_histoad.gui.messages import Message
from napari_histoad.gui.pixel_size import PixelSize
from napari_histoad.gui.wheel import WheelGuard

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "BY_DISCOVERIES",
    "BY_FALSE_POSITIVES",
    "ENCODERS",
    "NO_SLIDE",
    "OWN",
    "OWN_ENCODERS",
    "SAMPLE_MENU",
    "SELF",
    "SELF_HINT",
    "SLIDER_STEPS",
    "STAINS",
    "WITHOUT_STEPS",
    "WITH_ENCODER",
    "PanelWidgets",
    "pixmap",
]

SAMPLE_MENU = "File > Open Sample > H&E slide with planted anomalies (napari-histoad)"
NO_SLIDE = f"Drop a slide on the window, or use {SAMPLE_MENU}."
SELF = "Learn normal from this slide"
SELF_HINT = "No training: what is common on this slide counts as normal, what is rare stands out."
SLIDER_STEPS = 1000
METHODS = [
    "vqvae",
    "texture",
    "embedding",
    "deep_isolation_forest",
    "kde_autoencoder",
    "adversarial_autoencoder",
    "perceptual_autoencoder",
    "perceptual_gan",
    "geometric_transforms",
    "colour",
]
STAINS = ["as they are", "macenko", "vahadane", "reinhard"]
WITHOUT_STEPS = ("texture", "embedding", "deep_isolation_forest", "colour")
"""Methods that are fitted at once."""
WITH_ENCODER = ("embedding", "deep_isolation_forest")
"""Methods on the features of an encoder that they do not train."""
OWN = "own"
OWN_ENCODERS = {"starter": "comes with the package", OWN: "trained on your tiles first"}
ENCODERS = [*OWN_ENCODERS, "vit_small_patch14_reg4_dinov2.lvd142m", "resnet18.a1_in1k"]
BY_FALSE_POSITIVES, BY_DISCOVERIES = "False-positive rate", "False discovery rate"
RATE_HELP = (
    "False-positive rate: the share of normal tiles that may be flagged. "
    "False discovery rate: the share of flagged tiles that may be normal."
)


class PanelWidgets(QWidget):
    """Five steps in a scrolling column, and a row for progress below.

    Parameters
    ----------
    slide_choices : callable
        Returns (name, layer) of the slides that are open.
    """

    def __init__(self, slide_choices: Callable[[object], list[tuple[str, Any]]]) -> None:
        super().__init__()
        body = QWidget()
        steps = QVBoxLayout(body)
        steps.setContentsMargins(4, 4, 4, 4)
        self.messages = {step: Message() for step in ("slide", "tissue", "normal", "map", "review")}
        self.slide_box = ComboBox(choices=slide_choices, nullable=True, tooltip="The slide to work on")
        self.slide_info = _Words(NO_SLIDE.replace("&", "&amp;"), rich=True)
        self.pictures_button = PushButton(
            text="Show label and macro", tooltip="The other pictures in the file; a label may name the patient"
        )
        self.mpp_row = PixelSize()
        self.mpp_box, self.mpp_button = self.mpp_row.box, self.mpp_row.button
        self.find_button = PushButton(
            text="Find the slide…", tooltip="Say where the slide of the map lies now; another slide is refused"
        )
        self.find_button.native.hide()
        steps.addWidget(
            _group(
                "1 · Slide",
                self.slide_box.native,
                self.slide_info,
                self.pictures_button.native,
                self.mpp_row,
                self.messages["slide"],
                self.find_button.native,
            )
        )
        self.tissue_button = PushButton(
            text="Show tissue", tooltip="Outline what is taken for tissue; the rest is never looked at"
        )
        self.tissue_info = _Words("")
        steps.addWidget(_group("2 · Tissue", self.tissue_button.native, self.messages["tissue"], self.tissue_info))
        self.outline_button = PushButton(text="Outline normal tissue", tooltip="Draw a few areas of normal tissue")
        self.import_button = PushButton(
            text="Import outlines…", tooltip="From a file, such as QuPath's GeoJSON; those of normal tissue can be edited"
        )
        self.method_box = ComboBox(choices=METHODS, value="vqvae", tooltip="How normal tissue is learnt; histoad models explains")
        self.steps_box = SpinBox(value=500, min=20, max=100_000, step=100, tooltip="Most training steps; stops early by itself")
        self.stain_box = ComboBox(
            choices=STAINS, value=STAINS[0], tooltip="Give all slides the same stains, in training and in later maps"
        )
        self.encoder_box = QComboBox()
        self.encoder_box.addItems(ENCODERS)
        self.encoder_box.setEditable(True)
        self.encoder_box.setMinimumWidth(60)
        own = "; ".join(f"{name}: {words}" for name, words in OWN_ENCODERS.items())
        self.encoder_box.setToolTip(f"What sees the tiles. {own}; or type a name of timm's: its licence is shown first")
        self.weights_file = FileEdit(
            mode=FileDialogMode.OPTIONAL_FILE,
            filter="*.safetensors *.bin *.pth *.pt",
            nullable=True,
            tooltip="The encoder's weights, if they are not to be downloaded",
        )
        self.weights_file.choose_btn.text = "Open…"
        self.encoder_row, self.weights_row = QLabel("Encoder"), QLabel("Weights")
        self.refine_box = CheckBox(
            text="Leave out suspicious tiles",
            tooltip="Use if the outlines may hold a few abnormal spots: tiles unlike the others are listed and not learnt from",
        )
        self.recalibrate_button = PushButton(
            text="Recalibrate the chosen detector",
            tooltip="Another site's stain or scanner: keep what was learnt, set the thresholds by these outlines",
        )
        self.train_reason, self.map_reason = _Words(""), _Words("")
        self.train_button = PushButton(text="Train", tooltip="Learn from the outlined tissue")
        self.train_info = _Words("")
        self.preview = QLabel()
        self.preview.setVisible(False)
        self.preview.setToolTip("Tiles, and below them what the network makes of them")
        form = QFormLayout()
        form.addRow("Method", self.method_box.native)
        form.addRow("Steps", self.steps_box.native)
        form.addRow(self.encoder_row, self.encoder_box)
        form.addRow(self.weights_row, self.weights_file.native)
        form.addRow("Stains", self.stain_box.native)
        self.show_encoder(self.method_box.value)
        steps.addWidget(
            _group(
                "3 · Normal",
                self.outline_button.native,
                self.import_button.native,
                form,
                self.refine_box.native,
                self.train_button.native,
                self.train_reason,
                self.recalibrate_button.native,
                self.messages["normal"],
                self.train_info,
                self.preview,
            )
        )
        self.model_box = ComboBox(choices=[SELF], value=SELF, tooltip="What tells normal from anomalous")
        self.model_hint = _Words(SELF_HINT)
        self.model_file = FileEdit(mode=FileDialogMode.EXISTING_FILE, filter="*.safetensors", tooltip="Open a trained detector")
        self.model_file.choose_btn.text = "Open…"
        self.out_info = _Words("")
        self.there_info = _Words("")
        self.reopen_button = PushButton(text="Review the finished map", tooltip="Show the map that was computed before")
        self.reopen_button.native.hide()
        self.map_button = PushButton(text="Compute anomaly map")
        self.map_button.native.setStyleSheet("font-weight: bold; padding: 6px;")
        detector = QFormLayout()
        detector.addRow("Detector", self.model_box.native)
        detector.addRow("File", self.model_file.native)
        steps.addWidget(
            _group(
                "4 · Map",
                detector,
                self.model_hint,
                self.out_info,
                self.there_info,
                self.reopen_button.native,
                self.map_button.native,
                self.map_reason,
                self.messages["map"],
            )
        )
        self.rate_kind = ComboBox(choices=[BY_FALSE_POSITIVES, BY_DISCOVERIES], value=BY_FALSE_POSITIVES, tooltip=RATE_HELP)
        self.rate_slider = QSlider(Qt.Orientation.Horizontal)
        self.rate_slider.setRange(0, SLIDER_STEPS)
        self.rate_slider.setToolTip("How many normal tiles may be flagged by mistake")
        self.rate_info = _Words("Compute a map first.", rich=True)
        self.region_list = QListWidget()
        self.region_list.setMaximumHeight(130)
        self.region_list.setToolTip("Click to go there")
        self.gallery_button = PushButton(
            text="Judge tiles one by one", tooltip="The most telling tiles as pictures; say by key what each of them is"
        )
        self.save_button = PushButton(text="Save regions, picture and report")
        self.notes = Message("warning")
        self.review_group = _group(
            "5 · Review",
            self.notes,
            self.rate_kind.native,
            self.rate_slider,
            self.rate_info,
            self.region_list,
            self.gallery_button.native,
            self.save_button.native,
            self.messages["review"],
        )
        steps.addWidget(self.review_group)
        steps.addStretch(1)
        self.scroll_area = scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scroll.setFrameShape(QScrollArea.Shape.NoFrame)
        scroll.setWidget(body)
        self.progress = QProgressBar()
        self.progress.setTextVisible(False)
        self.progress_info = _Words("")
        self.cancel_button = PushButton(text="Cancel")
        self.progress_row = QWidget()
        bottom = QVBoxLayout(self.progress_row)
        bottom.setContentsMargins(4, 0, 4, 4)
        bottom.addWidget(self.progress_info)
        bottom.addWidget(_row(self.progress, self.cancel_button.native))
        self.progress_row.setVisible(False)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(scroll, 1)
        layout.addWidget(self.progress_row)
        self.setMinimumWidth(340)
        buttons = (self.tissue_button, self.outline_button, self.train_button, self.recalibrate_button, self.map_button)
        self._help = {button: str(button.tooltip or "") for button in buttons}
        WheelGuard(self)

    @property
    def settings(self) -> list[Any]:
        """What a run is started with; frozen while it lasts."""
        chosen = (self.method_box, self.stain_box, self.refine_box, self.weights_file, self.model_box, self.model_file)
        return [*(widget.native for widget in chosen), self.encoder_box, self.mpp_row]

    def show_reason(self, reason: str) -> None:
        """Say why nothing can be started, under the buttons and when they are pointed at; empty if it can."""
        for label in (self.train_reason, self.map_reason):
            label.setText(reason)
        for button, help_ in self._help.items():
            button.tooltip = reason or help_

    def show_encoder(self, method: str) -> None:
        """Show what belongs to the encoder where the method rests on one."""
        chosen = method in WITH_ENCODER
        of_others = chosen and self.encoder_box.currentText().strip() not in OWN_ENCODERS
        for widget in (self.encoder_row, self.encoder_box):
            widget.setVisible(chosen)
        for widget in (self.weights_row, self.weights_file.native):
            widget.setVisible(of_others)


def pixmap(pixels: NDArray[np.uint8]) -> QPixmap:
    """Return pixels (H, W, 3) uint8 as Qt draws them."""
    h, w = pixels.shape[:2]
    return QPixmap.fromImage(QImage(pixels.tobytes(), w, h, 3 * w, QImage.Format.Format_RGB888))


class _Words(QLabel):
    """Wrapped plain text that takes no room while there is none."""

    def __init__(self, text: str, *, rich: bool = False) -> None:
        super().__init__()
        self.setTextFormat(Qt.TextFormat.RichText if rich else Qt.TextFormat.PlainText)  # names of files are no markup
        self.setWordWrap(True)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        super().setText(text)
        if not text:
            self.hide()

    def setText(self, text: str | None) -> None:  # noqa: N802 - Qt's name
        """Show other words, or nothing."""
        super().setText(text)
        self.setVisible(bool(text))


def _row(*widgets: QWidget) -> QWidget:
    holder = QWidget()
    layout = QHBoxLayout(holder)
    layout.setContentsMargins(0, 0, 0, 0)
    for widget in widgets:
        layout.addWidget(widget)
    return holder


def _group(title: str, *parts: Any) -> QGroupBox:
    group = QGroupBox(title)
    layout = QVBoxLayout(group)
    layout.setContentsMargins(8, 8, 8, 8)
    layout.setSpacing(6)
    for part in parts:
        (layout.addWidget if isinstance(part, QWidget) else layout.addLayout)(part)
    return group
