"""OME-Zarr 0.4 and 0.5: chunked pyramids in a folder.

Specification: https://ngff.openmicroscopy.org/0.5/ (multiscales, axes, coordinateTransformations).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from napari_histoad.errors import SlideError, first_line
from napari_histoad.slide._array import ArraySlide, Planes, tile_of_chunks
from napari_histoad.slide._base import CHOOSE_CHANNELS
from napari_histoad.slide._units import unit_um

if TYPE_CHECKING:
    from pathlib import Path

    import zarr


def is_zarr(path: Path) -> bool:
    """Return whether a folder is a zarr group."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup"))


class OmeZarrSlide(ArraySlide):
    """An OME-Zarr image of three or four 8-bit channels."""

    format: ClassVar[str] = "OME-Zarr"
    patterns: ClassVar[tuple[str, ...]] = ("*.zarr",)

    @classmethod
    def supports(cls, path: Path, head: bytes | None) -> bool:
        return head is None and (path.suffix.lower() == ".zarr" or is_zarr(path))

    on_disk: ClassVar[bool] = True

    def __init__(self, path: Path, mpp: float | None = None) -> None:
        planes, mpp_yx, about = read_multiscales(path)
        channels, dtype = planes[0].shape[2], planes[0].dtype
        if dtype != np.uint8 or channels not in (3, 4):
            msg = f"{path.name} holds {channels} channels of {dtype}, not 8-bit RGB"
            raise SlideError(msg, CHOOSE_CHANNELS)
        tile, notes = tile_of_chunks(planes[0].chunks), planes[0].notes
        super().__init__(planes, path, mpp_yx=mpp_yx, mpp=mpp, tile=tile, properties=about, notes=notes)


def read_multiscales(path: Path) -> tuple[list[Planes], tuple[float, float] | None, dict[str, str]]:
    """Return the levels of an OME-Zarr image, µm per pixel (y, x), and its metadata; `SlideError` if it is not a single image."""
    import zarr  # takes longer to load than a TIFF takes to open

    try:
        group = zarr.open_group(path, mode="r")
        attributes: dict[str, Any] = dict(group.attrs)
        if "bioformats2raw.layout" in attributes.get("ome", attributes):
            group = zarr.open_group(path / "0", mode="r")  # a collection: its first image is the slide
            attributes = dict(group.attrs)
        ome = attributes.get("ome", attributes)
        scales = ome["multiscales"][0]
        axes = "".join(axis["name"] for axis in scales["axes"])
        levels = [Planes(cast("zarr.Array[Any]", group[dataset["path"]]), axes) for dataset in scales["datasets"]]
        mpp_yx, notes = _mpp(scales)
        levels[0].notes += notes
    except SlideError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, OSError, AttributeError) as err:
        msg = f"{path.name} is not an OME-Zarr slide ({first_line(err)})"
        raise SlideError(msg, "give the folder that contains the multiscales metadata") from err
    version = str(ome.get("version") or scales.get("version") or "0.4")
    return levels, mpp_yx, {"OME-Zarr version": version, "Name": str(scales.get("name") or path.stem)}


def _mpp(scales: dict[str, Any]) -> tuple[tuple[float, float] | None, tuple[str, ...]]:
    """Return µm per level-0 pixel (y, x) from the scale transformations; None and a note if the axes have no unit of length."""
    factors = np.ones(len(scales["axes"]))
    for step in (*scales.get("coordinateTransformations", []), *scales["datasets"][0].get("coordinateTransformations", [])):
        if step.get("type") == "scale":
            factors = factors * np.asarray(step["scale"], float)
    sizes = {}
    for axis, factor in zip(scales["axes"], factors, strict=True):
        if axis["name"] in "yx":
            unit = unit_um(axis.get("unit"))
            if unit is None:
                stated = f"the unit {axis['unit']}, not a unit of length" if axis.get("unit") else "no unit"
                return None, () if factor == 1 else (f"Its scale of {factor:g} has {stated}: it is not used as µm per pixel.",)
            sizes[axis["name"]] = float(factor) * unit
    return (sizes["y"], sizes["x"]), ()
