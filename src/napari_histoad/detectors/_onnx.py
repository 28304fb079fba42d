"""A detector as an ONNX file, for programs that know nothing of this package."""

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
_CAN = "vqvae, embedding, adversarial_autoencoder, perceptual_autoencoder, perceptual_gan, geometric_transforms and colour"


def export_onnx(detector: Detector, out: Path) -> int:
    """Write what a detector computes of a batch of tiles as an ONNX file.

    Input ``images`` (B, H, W, 3) uint8; outputs ``score`` (B,), and where the method has them ``error_map`` (B, h, w) and
    ``probabilities`` (B, K), all float32. The file's metadata say how large tiles are and what calibrates the scores. It is
    kept only if ONNX Runtime computes from it what torch does.

    Parameters
    ----------
    detector : Detector
        Trained; stays as it is.
    out : Path
        The ``.onnx`` file to write.

    Returns
    -------
    int
        How many tiles a batch must have; 0 if as many as one likes.

    Raises
    ------
    SettingsError
        If the extra ``onnx`` is not installed, or the method does something that ONNX cannot say.
    OutputError
        If the file cannot be written.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        msg = f"{missing[0]} is not installed"
        raise SettingsError(msg, 'install what writes and checks ONNX: pip install "napari-histoad[onnx]"')
    graph = _Graph(detector)
    data, batch = _written(graph, 2), 0
    if not _farthest(data, graph, 3) <= _TOLERANCE:  # NaN neither; it holds for two tiles alone
        data, batch = _written(graph, 1), 1
        far = _farthest(data, graph, 1)
        if not far <= _TOLERANCE:
            what = f"ONNX Runtime computes something else of {detector.name} than torch does (off by {far:.1%})"
            raise SettingsError(what, "nothing was written; another version of torch or onnxruntime may do")
    with atomic_path(out) as partial:
        partial.write_bytes(data)
    return batch


class _Graph(nn.Module):
    """A copy of a detector as a module: tiles in, what it says of them out."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = copy.deepcopy(detector)
        self.detector.to(torch.device("cpu"))
        self.side = detector.settings.tile_px
        for module in _modules(self.detector):
            module.eval().requires_grad_(requires_grad=False)
            for part in module.modules():
                if part._buffers.pop("initted", None) is not None:
                    vars(part)["initted"] = True  # a codebook's: a graph has no branches, and after training it is
        with torch.inference_mode():
            self.names = tuple(self._said(torch.zeros((1, self.side, self.side, 3), dtype=torch.uint8)))

    def _said(self, images: Tensor) -> dict[str, Tensor]:
        result = self.detector.score(images)
        found = {"score": result.score, "error_map": result.error_map, "probabilities": result.probabilities}
        return {name: value.float() for name, value in found.items() if value is not None}

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._said(images).values())

    def tiles(self, count: int) -> Tensor:
        """Return tiles to try."""
        values = np.random.default_rng(0).integers(0, 256, (count, self.side, self.side, 3), np.uint8)
        return torch.from_numpy(values)


def _modules(owner: object) -> list[nn.Module]:
    """Return the networks that a detector holds, and what it is made of: detectors themselves are no modules."""
    found = []
    for value in [*vars(owner).values()]:
        if isinstance(value, nn.Module):
            found.append(value)
        elif type(value).__module__.startswith("napari_histoad."):
            found += _modules(value)
    return found


def _written(graph: _Graph, batch: int) -> bytes:
    """Return the ONNX file as written after what happens to a batch of so many tiles; more than one stand for any number."""
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
        raise SettingsError(what, f"ONNX does not know all that this method computes; it does of {_CAN}") from err
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
        known |= {"false_positive_rate": rate, "threshold": detector.calibration.threshold(rate)}
    return {name: str(value) for name, value in known.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep from the user what torch reports to its developers."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _farthest(data: bytes, graph: _Graph, batch: int) -> float:
    """Return how far ONNX Runtime's values are off at most, relative to torch's largest; infinite if it takes no such batch."""
    import onnxruntime

    images = graph.tiles(batch)
    with torch.inference_mode():
        wanted = graph(images)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        found = session.run(None, {"images": images.numpy()})
    except Exception:  # noqa: BLE001 - it has many kinds
        return float("inf")
    pairs = [(one.numpy(), other) for one, other in zip(wanted, found, strict=True)]
    if any(one.shape != other.shape for one, other in pairs):
        return float("inf")
    return float(np.max([np.abs(other - one).max() / max(np.abs(one).max(), 1e-12) for one, other in pairs]))


def _first_line(err: BaseException) -> str:
    while err.__cause__ is not None:
        err = err.__cause__
    return (str(err).strip().splitlines() or [type(err).__name__])[0][:160]
