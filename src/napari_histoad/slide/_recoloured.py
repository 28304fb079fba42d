"""A slide seen through a table of colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_histoad.slide._base import Slide

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_histoad.slide._colour import ColourTable

__all__ = ["RecolouredSlide"]


class RecolouredSlide(Slide):
    """Another slide with its colours looked up in a table, after sRGB if that is asked for.

    It reads through the other one, which stays its owner's to close.

    Parameters
    ----------
    slide : Slide
    colours : ColourTable
    """

    def __init__(self, slide: Slide, colours: ColourTable) -> None:
        super().__init__(
            slide.path, slide.levels, file_mpp_yx=slide.file_mpp_yx, mpp=slide.mpp, properties=dict(slide.properties)
        )
        self.format = slide.format  # type: ignore[misc]
        self.on_disk = slide.on_disk  # type: ignore[misc]
        self.srgb = slide.srgb
        self.notes = slide.notes
        self._slide, self._table, self._sources = slide, colours, slide._sources

    def _read_inside(self, source: int, y: int, x: int, out: NDArray[np.uint8]) -> None:
        self._slide._read_colours(source, y, x, out)
        self._table(out)

    def read_stored(self, y: int, x: int, h: int, w: int) -> NDArray[np.uint8]:
        return self._slide.read_stored(y, x, h, w)

    @property
    def index_digest(self) -> str:
        return self._slide.index_digest

    def forget_tiles(self) -> None:
        self._slide.forget_tiles()

    def with_mpp(self, mpp: float) -> Slide:
        return RecolouredSlide(self._slide.with_mpp(mpp), self._table)

    def in_srgb(self, srgb: bool) -> Slide:  # noqa: FBT001 - as in the base class
        return self if srgb == self.srgb else RecolouredSlide(self._slide.in_srgb(srgb), self._table)

    def close(self) -> None:
        """Nothing of its own is open."""

    def __reduce__(self) -> tuple[Any, ...]:
        return RecolouredSlide, (self._slide, self._table)
