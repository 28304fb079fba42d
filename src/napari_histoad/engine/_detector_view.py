"""Slides and tile files as a detector sees them: tile size, resolution, sRGB and stain normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_histoad.slide import RecolouredSlide
from napari_histoad.tiles import Stain, find_tissue, read_tile_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from napari_histoad.detectors import Detector
    from napari_histoad.slide import Slide
    from napari_histoad.tiles import StainMethod, TileFile, TissueMask

_FILES_FOR_STAIN = 32


@dataclass(frozen=True)
class DetectorView:
    """How a detector sees slides."""

    tile_px: int
    mpp: float  # µm per tile pixel
    srgb: bool = False  # colours are converted to sRGB
    stain: Stain | None = None  # every slide is normalised to it, if it is given

    @classmethod
    def of(cls, detector: Detector) -> DetectorView:
        """Return the view of a trained detector."""
        settings = detector.settings
        stain = None if settings.stain == "none" else Stain(settings.stain, detector.stain_target)
        return cls(settings.tile_px, settings.mpp, settings.srgb, stain)

    def measure(self, slide: Slide, tissue: TissueMask | None = None) -> Stain | None:
        """Return a slide's own stains, or None if this view leaves stains unchanged; an error if too little is stained."""
        if self.stain is None:
            return None
        slide = self.of_slide(slide)
        return Stain.of_slide(slide, tissue or find_tissue(slide), self.stain.method, tile_px=self.tile_px, mpp=self.mpp)

    def of_slide(self, slide: Slide, own: Stain | None = None) -> Slide:
        """Return a slide as the detector sees it; without ``own``, which `measure` returns, its stains stay as they are."""
        slide = slide.in_srgb(self.srgb)
        return slide if own is None or self.stain is None else RecolouredSlide(slide, own.to(self.stain))

    def normalise_files(self, images: NDArray[np.uint8], files: Sequence[TileFile]) -> None:
        """Normalise the stains of tiles (N, H, W, 3) uint8 in place; they are measured on the files that they are from."""
        if self.stain is not None:
            stain_of_files(files, self.stain.method, self.tile_px).to(self.stain)(images)


def stain_of_files(files: Sequence[TileFile], method: StainMethod, tile_px: int) -> Stain:
    """Measure the stains that a set of tile files has in common, on at most 32 of them."""
    few = files[:: -(-len(files) // _FILES_FOR_STAIN)]
    return Stain.of_pixels(read_tile_files(few, tile_px, errors={}).images, method, f"{few[0].path.parent.name}/")
