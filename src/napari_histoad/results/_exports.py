"""Exports: files that other programs can read, one `Export` class per kind of file."""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import tifffile
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from napari_histoad.errors import SettingsError
from napari_histoad.regions import write_geojson
from napari_histoad.results._figures import overlay
from napari_histoad.results._findings import provenance
from napari_histoad.results._regions import measure_regions
from napari_histoad.system.atomic import atomic_path, lock_output
from napari_histoad.system.extensions import load_extensions
from napari_histoad.tiles import kinds_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from napari_histoad.maps import AnomalyMap
    from napari_histoad.regions import Region
    from napari_histoad.slide import Slide


class Export(ABC):
    """One kind of file that a map can be written as.

    The terminal (``histoad export --NAME``), the panel and the documentation list the exports from these attributes. Another
    package adds its own class under the entry-point group ``napari_histoad.exports``.

    Attributes
    ----------
    name : str
        Name of the option in the terminal, without dashes in front: ``"ome-tiff"``.
    title : str
        What the file holds and its format, for people: ``"Flagged regions as QuPath annotations (GeoJSON)"``.
    ending : str
        End of the file's name, after the slide's name: ``"anomalies.geojson"``.
    side_endings : tuple of str
        Ends of the names of further files that are written beside it.
    needs_slide : bool
        Whether the pixels of the slide are needed.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    ending: ClassVar[str]
    side_endings: ClassVar[tuple[str, ...]] = ()
    needs_slide: ClassVar[bool] = False

    @abstractmethod
    def write(self, source: AnomalyMap, path: Path, *, slide: Slide | None = None, rate: float | None = None) -> None:
        """Write the file.

        Parameters
        ----------
        source : AnomalyMap
        path : Path
            In an existing folder; its name ends in `ending`.
        slide : Slide, optional
            The slide that was mapped; never None where `needs_slide` is set.
        rate : float, optional
            False-positive rate of the threshold, for exports of flagged regions; default: `AnomalyMap.default_rate`.

        Raises
        ------
        HistoadError
            If it cannot be written.
        """


class GeoJsonExport(Export):
    """The flagged regions as annotations for QuPath."""

    name = "geojson"
    title = "Flagged regions as QuPath annotations (GeoJSON)"
    ending = "anomalies.geojson"

    def write(self, source: AnomalyMap, path: Path, *, slide: Slide | None = None, rate: float | None = None) -> None:
        about = provenance(source, source.default_rate if rate is None else rate)
        write_geojson(measure_regions(source, rate), path, about)


class ParquetExport(Export):
    """A table of the tiles: y, x, size (level-0 pixels), score, p_value, and p_<class> for each class of a classifier.

    Where a fitted tail gives finer p-values, the column extrapolated says for which tiles (true or false).
    If artefacts were looked for: artefact, the probability of one, and artefact_kind, empty where it is below one half.

    The provenance of the map is in the metadata of the table.
    """

    name = "parquet"
    title = "One row per tile: position, score, p-value, class probabilities (Parquet)"
    ending = "tiles.parquet"

    def write(self, source: AnomalyMap, path: Path, *, slide: Slide | None = None, rate: float | None = None) -> None:
        table = _tile_table(source).replace_schema_metadata({"napari_histoad": json.dumps(provenance(source))})
        with atomic_path(path) as partial:
            pa.parquet.write_table(table, partial)


class CsvExport(Export):
    """The same table as `ParquetExport`; the provenance of the map is in a .json file of the same name."""

    name = "csv"
    title = "One row per tile: position, score, p-value, class probabilities (CSV)"
    ending = "tiles.csv"
    side_endings = ("tiles.json",)

    def write(self, source: AnomalyMap, path: Path, *, slide: Slide | None = None, rate: float | None = None) -> None:
        with atomic_path(path) as partial:
            pa.csv.write_csv(_tile_table(source), partial)
        with atomic_path(path.with_suffix(".json")) as partial:
            partial.write_text(json.dumps(provenance(source), indent=2), encoding="utf-8")


class OmeTiffExport(Export):
    """The anomaly map with its pixel size in µm; NaN where no tile was scored."""

    name = "ome-tiff"
    title = "Anomaly map as a pyramidal float32 image (OME-TIFF)"
    ending = "anomaly.ome.tif"

    def write(self, source: AnomalyMap, path: Path, *, slide: Slide | None = None, rate: float | None = None) -> None:
        levels = source.levels
        um = source.geometry.cell_l0 * source.info.slide_mpp
        size = {f"PhysicalSize{axis}": um for axis in "XY"} | {f"PhysicalSize{axis}Unit": "µm" for axis in "XY"}
        what = "Error map" if source.levels_hold_errors else "Anomaly map"  # in maps of earlier versions
        about = {"Name": f"{what} of {source.info.slide}", "Description": json.dumps(provenance(source))}
        metadata: dict[str, Any] = {"axes": "YX", **about, **size}
        options: dict[str, Any] = {"tile": (256, 256), "compression": "zlib"}
        with atomic_path(path) as partial, tifffile.TiffWriter(partial, bigtiff=True, ome=True) as tif:
            tif.write(np.asarray(levels[0]), subifds=len(levels) - 1, metadata=metadata, **options)
            for level in levels[1:]:
                tif.write(np.asarray(level), subfiletype=1, **options)


class PngExport(Export):
    """The picture that `overlay` returns; its options ``truth`` and ``max_px`` are attributes.

    Examples
    --------
    >>> with open_slide("case.svs") as slide:  # doctest: +SKIP
    ...     PngExport(max_px=4000).write(AnomalyMap.open("maps/case.ome.zarr"), Path("case.png"), slide=slide)
    """

    name = "png"
    title = "Picture of the slide with the anomaly map and the flagged regions (PNG)"
    ending = "overlay.png"
    needs_slide = True

    def __init__(self, truth: Sequence[Region] = (), max_px: int = 2000) -> None:
        self.truth, self.max_px = truth, max_px

    def write(self, source: AnomalyMap, path: Path, *, slide: Slide | None = None, rate: float | None = None) -> None:
        if slide is None:
            raise SettingsError(f"{self.name} needs the slide of the map", "pass slide=open_slide(...)")
        picture = Image.fromarray(overlay(source, slide, rate=rate, truth=self.truth, max_px=self.max_px))
        about = PngInfo()
        about.add_itxt("Description", json.dumps(provenance(source, source.default_rate if rate is None else rate)))
        with atomic_path(path) as partial:
            picture.save(partial, format="PNG", pnginfo=about)


def _tile_table(source: AnomalyMap) -> pa.Table:
    columns: dict[str, Any] = {
        "y": source.origins[:, 0],
        "x": source.origins[:, 1],
        "size": np.full(len(source), source.info.tile_l0),
    }
    p_values, calibration = source.p_values, source.calibration
    columns |= {"score": source.scores, "p_value": p_values}
    if calibration.extrapolated:
        columns["extrapolated"] = calibration.is_extrapolated(p_values)
    if source.artefacts is not None:
        found = source.artefacts.of_boxes(source.boxes)
        columns |= {"artefact": found.sum(axis=1), "artefact_kind": kinds_of(found)}
    classes = zip(source.info.classes, source.probabilities.T, strict=True)
    return pa.table({**columns, **{f"p_{name}": values for name, values in classes}})


BUILT_IN: tuple[type[Export], ...] = (GeoJsonExport, CsvExport, ParquetExport, OmeTiffExport, PngExport)


def exports() -> tuple[Export, ...]:
    """Return one of each export: the built-in ones, and those that other packages register under ``napari_histoad.exports``.

    Examples
    --------
    >>> from napari_histoad.results import exports
    >>> [export.name for export in exports()]  # doctest: +ELLIPSIS
    ['geojson', 'csv', 'parquet', 'ome-tiff', 'png'...]
    """
    found = {kind.name: kind() for kind in BUILT_IN}
    for label, kind in load_extensions("napari_histoad.exports").items():
        if not (isinstance(kind, type) and issubclass(kind, Export)):
            logging.getLogger("napari_histoad").warning(
                "the export %s is left out: it is not a class derived from napari_histoad.results.Export", label
            )
        elif kind.name not in found:
            found[kind.name] = kind()
    return tuple(found.values())


def write_exports(
    source: AnomalyMap, chosen: Sequence[Export], folder: Path, *, slide: Slide | None = None, rate: float | None = None
) -> list[Path]:
    """Write exports of a map into a folder, which is made if needed, and return the files.

    Parameters
    ----------
    source : AnomalyMap
    chosen : sequence of Export
        Some of `exports`.
    folder : Path
    slide : Slide, optional
        The slide that was mapped, for exports that need it.
    rate : float, optional
        False-positive rate of the threshold; default: `AnomalyMap.default_rate`.

    Raises
    ------
    OutputError
        If a file cannot be written, or another run is writing it.
    """
    stem = source.path.name.removesuffix(".ome.zarr")
    written = []
    for export in chosen:
        path = folder / f"{stem}.{export.ending}"
        with lock_output(path):
            export.write(source, path, slide=slide, rate=rate)
        written += [path, *(folder / f"{stem}.{ending}" for ending in export.side_endings)]
    return written
