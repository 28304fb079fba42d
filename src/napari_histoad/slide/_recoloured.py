"""A slide whose colours are converted by a look-up table, such as for stain normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_histoad.slide._base import Slide

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_histoad.slide._colour import ColourTable


class RecolouredSlide(Slide):
    """A slide with its colours converted by a table, after the conversion to sRGB if that is set.

    It reads through the given slide, which is not closed with it.
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
        """Do nothing: the underlying slide is closed by its owner."""

    def __reduce__(self) -> tuple[Any, ...]:
        return RecolouredSlide, (self._slide, self._table)
