"""Detectors as ONNX files, for programs without this package."""

from __future__ import annotations

import copy
import importlib.util
import io
import logging
import warnings
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from napari_histoad.detectors._registry import describe_detectors
from napari_histoad.errors import SettingsError
from napari_histoad.system.atomic import atomic_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from napari_histoad.detectors._base import Detector

__all__ = ["export_onnx"]

_NEEDED = ("onnx", "onnxscript", "onnxruntime")
_TOLERANCE = 1e-3


def export_onnx(detector: Detector, out: Path) -> int:
    """Write the scoring of a detector as an ONNX file.

    Input ``images`` (B, H, W, 3) uint8; outputs ``score`` (B,), and where the method has them ``error_map`` (B, h, w) and
    ``probabilities`` (B, K), all float32. The metadata of the file name the size and mpp of tiles and the threshold of the
    scores. The file is only written if ONNX Runtime computes the same from it as torch.

    Parameters
    ----------
    detector : Detector
        A trained detector; it does not change.
    out : Path
        The ``.onnx`` file to write.

    Returns
    -------
    int
        Number of tiles that each batch must have; 0 if any number will do.

    Raises
    ------
    SettingsError
        If the extra ``onnx`` is not installed, or the method cannot be written as ONNX.
    OutputError
        If the file cannot be written.
    """
    if not detector.exports_onnx:
        known = ", ".join(found.name for found in describe_detectors() if found.exports_onnx)
        raise SettingsError(f"{detector.name} cannot be written as ONNX", f"these methods can: {known}")
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        msg = f"{missing[0]} is not installed"
        raise SettingsError(msg, 'install the extra that writes and checks ONNX: pip install "napari-histoad[onnx]"')
    graph = _Graph(detector)
    data, batch = _to_onnx(graph, 2), 0
    if not _largest_error(data, graph, 3) <= _TOLERANCE:  # or NaN: what was exported is right for two tiles only
        data, batch = _to_onnx(graph, 1), 1
        error = _largest_error(data, graph, 1)
        if not error <= _TOLERANCE:
            what = f"ONNX Runtime and torch compute different scores with {detector.name} (off by {error:.1%})"
            raise SettingsError(what, "nothing was written; try another version of torch or onnxruntime")
    with atomic_path(out) as partial:
        partial.write_bytes(data)
    return batch


class _Graph(nn.Module):
    """A copy of a detector whose outputs are a tuple of tensors."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = copy.deepcopy(detector).cpu().eval().requires_grad_(requires_grad=False)
        self.side = detector.settings.tile_px
        for part in self.detector.modules():
            if part._buffers.pop("initted", None) is not None:
                vars(part)["initted"] = True  # of a codebook: a graph has no branches, and after training it is always true
        with torch.inference_mode():
            self.names = tuple(self._outputs(torch.zeros((1, self.side, self.side, 3), dtype=torch.uint8)))

    def _outputs(self, images: Tensor) -> dict[str, Tensor]:
        scores = self.detector(images)
        found = {"score": scores.score, "error_map": scores.error_map, "probabilities": scores.probabilities}
        return {name: value.float() for name, value in found.items() if value is not None}

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._outputs(images).values())

    def tiles(self, count: int) -> Tensor:
        """Return random tiles (count, S, S, 3) uint8."""
        values = np.random.default_rng(0).integers(0, 256, (count, self.side, self.side, 3), np.uint8)
        return torch.from_numpy(values)


def _to_onnx(graph: _Graph, batch: int) -> bytes:
    """Return an ONNX file traced with a batch of this size; one traced with several tiles takes any number of them."""
    shapes = ({0: torch.export.Dim("batch", min=1, max=1024)},) if batch > 1 else None
    try:
        with torch.no_grad(), _quiet():
            program: Any = torch.onnx.export(
                graph,
                (graph.tiles(batch),),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=["images"],
                output_names=list(graph.names),
                verbose=False,
            )
    except Exception as err:
        what = f"{graph.detector.name} cannot be written as ONNX ({_first_line(err)})"
        raise SettingsError(what, "ONNX lacks an operation of this method; choose another method") from err
    program.model.metadata_props.update(_metadata(graph.detector))
    data: bytes = program.model_proto.SerializeToString()
    return data


def _metadata(detector: Detector) -> dict[str, str]:
    settings = detector.settings
    known: dict[str, object] = {
        "detector": detector.name,
        "tile_px": settings.tile_px,
        "mpp": settings.mpp,
        "srgb": settings.srgb,
        "stain": settings.stain,
        "stain_target": detector.stain_target,
        "classes": ", ".join(getattr(detector, "classes", ())),
        "trained_on": ", ".join(detector.trained_on),
    }
    if detector.calibration is not None:
        rate = detector.calibration.default_rate
        threshold = detector.calibration.threshold(rate)
        known |= {"false_positive_rate": rate, "threshold": threshold, "calibration": detector.calibration.note}
    return {name: str(value) for name, value in known.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's reports to its developers."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _largest_error(data: bytes, graph: _Graph, batch: int) -> float:
    """Return the largest error of ONNX Runtime relative to torch's largest value; infinite if it cannot run such a batch."""
    import onnxruntime

    images = graph.tiles(batch)
    with torch.inference_mode():
        wanted = graph(images)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        found = session.run(None, {"images": images.numpy()})
    except Exception:  # noqa: BLE001 - of many types
        return float("inf")
    pairs = [(one.numpy(), other) for one, other in zip(wanted, found, strict=True)]
    if any(one.shape != other.shape for one, other in pairs):
        return float("inf")
    return float(np.max([np.abs(other - one).max() / max(np.abs(one).max(), 1e-12) for one, other in pairs]))


def _first_line(err: BaseException) -> str:
    while err.__cause__ is not None:
        err = err.__cause__
    return (str(err).strip().splitlines() or [type(err).__name__])[0][:160]
