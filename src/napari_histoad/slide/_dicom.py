"""DICOM slides in encodings that OpenSlide refuses: RLE, JPEG-LS, High-Throughput JPEG 2000, JPEG XL. Extra ``dicom``."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, ClassVar

from napari_histoad.errors import SlideError
from napari_histoad.slide._base import CHOOSE_CHANNELS, Slide, make_levels

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["WsiDicomSlide"]

_EXTRA = 'install what decodes them: pip install "napari-histoad[dicom]"'


class WsiDicomSlide(Slide):
    """A DICOM slide read through wsidicom: the instances of one series in one folder, any of which names it.

    Raises
    ------
    SlideError
        If the extra is not installed, or wsidicom cannot read the file either.
    """

    format: ClassVar[str] = "DICOM"

    def __init__(self, path: Path, mpp: float | None, file: Path, notes: Sequence[str] = ()) -> None:
        try:
            self._library = importlib.import_module("wsidicom")
        except ImportError as err:
            raise SlideError(f"{path.name} is DICOM in an encoding that OpenSlide does not decode", _EXTRA) from err
        pydicom = importlib.import_module("pydicom")
        try:
            series = _series(pydicom, file)
            files = [one for one in sorted(file.parent.iterdir()) if one == file or _series(pydicom, one) == series]
            handle = self._library.WsiDicom.open(files)
            levels = list(handle.pyramid)
            samples = {level.default_instance.image_data.samples_per_pixel for level in levels}
            spacing = handle.mpp
            paths = handle.metadata.pyramid.optical_paths
        except Exception as err:  # a damaged header surfaces as whatever the parser was doing
            raise SlideError(f"{path.name} is not a slide that can be read ({err})", "check the file") from err
        if samples != {3}:
            handle.close()
            raise SlideError(f"{path.name} is not an 8-bit RGB picture", CHOOSE_CHANNELS)
        self._handle: Any = handle
        self._numbers = [int(level.level) for level in levels]
        super().__init__(
            path,
            make_levels([(level.size.height, level.size.width) for level in levels]),
            file_mpp_yx=(float(spacing.height), float(spacing.width)),
            mpp=mpp,
            properties={"series": str(series), "instances": str(len(files))},
            icc_profile=paths[0].icc_profile if paths else None,
            notes=notes,
        )

    def _read_inside(self, level: int, y: int, x: int, out: NDArray[np.uint8]) -> None:
        if self._handle is None:
            raise SlideError(f"{self.path.name} has been closed", "open it again")
        h, w = out.shape[:2]
        try:
            out[:] = self._handle.read_region((x, y), self._numbers[level], (w, h), as_array=True)
        except Exception as err:  # so does a damaged frame, and by the codec
            msg = f"{self.path.name}: level {level} cannot be decoded at y={y}, x={x} ({err})"
            raise SlideError(msg, "the file is damaged there: copy it again from its source") from err

    def close(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.close()


def _series(pydicom: Any, file: Path) -> Any:
    """Return the series that a file belongs to, None if it says none."""
    header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"], force=True)
    return header.get("SeriesInstanceUID")
