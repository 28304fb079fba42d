"""Jobs on judged tiles: a classifier learns from verdicts, and a tile is explained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psygnal import Signal

from napari_histoad.errors import SettingsError
from napari_histoad.gui.controller.runner import Handlers
from napari_histoad.gui.controller.training import outlines_file
from napari_histoad.gui.output_paths import free_name
from napari_histoad.results import UNSURE, VERDICTS
from napari_histoad.worker import protocol

if TYPE_CHECKING:
    from napari_histoad.gui.controller.slides import ChosenSlide
    from napari_histoad.gui.controller.training import Training
    from napari_histoad.results import Verdicts

_MIN_VERDICTS = 4
"""Of each class: enough for three folds with tiles to validate on in each."""


class VerdictJobs:
    """Trains a classifier on verdicts, which becomes the chosen detector, and explains tiles."""

    classified = Signal(object, str)
    """Path of a classifier trained on verdicts; how good it is, in words."""
    explained = Signal(list, str)
    """Titles and pictures (H, W, 3) uint8 of a tile, its reconstruction and its error; scores in words."""

    def __init__(self, chosen: ChosenSlide, training: Training) -> None:
        self._chosen, self._training = chosen, training

    def train_classifier(self, verdicts: Verdicts) -> None:
        """Start to train a classifier on verdicts; it uses the chosen detector. `classified` follows."""
        counts = {name: n for name, n in verdicts.counts().items() if name != UNSURE}
        few = [name for name in VERDICTS[:2] if counts.get(name, 0) < _MIN_VERDICTS]
        if few:
            names = " and ".join(name.lower() for name in few)
            raise SettingsError(f"too few tiles are judged {names}", f"judge at least {_MIN_VERDICTS} of each")
        model = self._training.require_model("no trained detector is chosen for the classifier")
        slide, folder = self._chosen.require(), self._chosen.folder()
        target = free_name(folder / f"{slide.name}.classifier.safetensors")
        outlines = outlines_file(model)
        normal = outlines if outlines.exists() and model.parent == folder else None
        args = {"verdicts": verdicts.path, "normal": normal, "model": model, "out": target}
        self._chosen.submit(protocol.TrainClassifier, args, Handlers("gallery", self._on_classified))

    def _on_classified(self, result: protocol.ClassifierTrained) -> None:
        self._training.model = result.path
        quality = f"Trained on {result.verdicts} verdicts. Cross-validated AUROC {result.auroc}. Note: {result.note}."
        self.classified.emit(self._training.model, quality)

    def explain(self, centre: tuple[float, float]) -> None:
        """Start to explain the tile around (y, x) in level-0 pixels with the chosen detector; `explained` follows."""
        model = self._training.require_model("no trained detector is chosen to explain the tile")
        args = {"model": model, "centre": centre}
        self._chosen.submit(protocol.Explain, args, Handlers("gallery", self._on_explained))

    def _on_explained(self, result: protocol.TileExplained) -> None:
        if self._chosen.is_of_job:
            assert self._training.model is not None
            self.explained.emit(result.panels, f"{self._training.model.stem}\n{result.words}")
