"""A map for other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import tifffile
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from napari_histoad.errors import SettingsError, writing
from napari_histoad.regions import write_geojson
from napari_histoad.results._figures import overlay
from napari_histoad.results._findings import provenance
from napari_histoad.results._regions import measure_regions
from napari_histoad.system.atomic import write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from napari_histoad.maps._store import AnomalyMap
    from napari_histoad.regions import Region
    from napari_histoad.slide import Slide

__all__ = ["export_geojson", "export_ome_tiff", "export_png", "export_table"]


def export_geojson(source: AnomalyMap, path: str | PathLike[str], rate: float | None = None) -> int:
    """Write the flagged regions as QuPath annotations and return how many there are."""
    regions = measure_regions(source, rate)
    write_geojson(regions, path, provenance(source, source.default_rate if rate is None else rate))
    return len(regions)


def export_table(source: AnomalyMap, path: str | PathLike[str]) -> int:
    """Write one row per tile, as .csv or .parquet by the name's ending, and return the number of rows.

    What is to be known of the map, such as its notes and which tiles could not be read, is in the metadata of a .parquet, and
    in a .json of the same name beside a .csv, where lines that are no rows would trouble other programs.

    Columns: y, x (level-0 pixels of the tile's top left corner), size (level-0 pixels), score, p_value, and p_<class> for
    each class that the map holds.

    Raises
    ------
    SettingsError
        If the ending is another.
    """
    target = Path(path)
    table = pa.table(
        {
            "y": source.origins[:, 0],
            "x": source.origins[:, 1],
            "size": np.full(len(source), source.info.tile_l0),
            "score": source.scores,
            "p_value": source.p_values,
            **{f"p_{name}": values for name, values in zip(source.info.classes, source.probabilities.T, strict=True)},
        }
    )
    writers = {".csv": pa.csv.write_csv, ".parquet": pa.parquet.write_table}
    if target.suffix not in writers:
        raise SettingsError(
            f"tables are written as .csv or .parquet, not {target.suffix or 'without an ending'}", "change the name"
        )
    table = table.replace_schema_metadata({"napari_histoad": json.dumps(provenance(source))})  # Parquet keeps it
    with writing(target):
        writers[target.suffix](table, target)
    if target.suffix == ".csv":
        write_whole(target.with_suffix(".json"), json.dumps(provenance(source), indent=2).encode())
    return len(source)


def export_png(
    source: AnomalyMap,
    slide: Slide,
    path: str | PathLike[str],
    *,
    rate: float | None = None,
    truth: Sequence[Region] = (),
    max_px: int = 2000,
) -> None:
    """Write the overlay picture, see `overlay`."""
    picture = Image.fromarray(overlay(source, slide, rate=rate, truth=truth, max_px=max_px))
    about = PngInfo()
    about.add_itxt("Description", json.dumps(provenance(source, source.default_rate if rate is None else rate)))
    with writing(path):
        picture.save(path, format="PNG", pnginfo=about)


def export_ome_tiff(source: AnomalyMap, path: str | PathLike[str]) -> None:
    """Write the map as a pyramidal float32 OME-TIFF with its pixel size."""
    levels = source.levels
    um = source.geometry.cell_l0 * source.info.slide_mpp
    metadata: dict[str, Any] = {
        "axes": "YX",
        "PhysicalSizeX": um,
        "PhysicalSizeY": um,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeYUnit": "µm",
    }
    metadata["Description"] = json.dumps(provenance(source))
    with writing(path), tifffile.TiffWriter(path, bigtiff=True, ome=True) as tif:
        tif.write(np.asarray(levels[0]), subifds=len(levels) - 1, tile=(256, 256), compression="zlib", metadata=metadata)
        for level in levels[1:]:
            tif.write(np.asarray(level), subfiletype=1, tile=(256, 256), compression="zlib")
