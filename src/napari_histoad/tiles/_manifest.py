"""Tables of tiles: manifest.csv, and PatchCamelyon's train_labels.csv."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from napari_histoad.errors import SettingsError
from napari_histoad.system.tables import is_missing, listed_path, read_table
from napari_histoad.tiles._class_names import class_of_label, kind_of

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from napari_histoad.system.tables import TableRow

_COLUMNS = ("file", "label", "class", "group")
_SYNONYMS = (
    dict.fromkeys(("filename", "file_name", "path", "filepath", "file_path", "image", "tile", "patch", "name"), "file")
    | dict.fromkeys(("target", "y", "lbl", "gt", "ground_truth", "truth", "anomaly", "anomalous", "is_anomaly", "tumor"), "label")
    | dict.fromkeys(("tumour", "is_tumor", "is_tumour", "malignant", "abnormal", "normal", "status"), "label")
    | dict.fromkeys(("classname", "class_name", "category", "diagnosis", "type", "tissue"), "class")
    | dict.fromkeys(("patient", "patient_id", "case", "case_id", "subject", "slide", "slide_id", "wsi", "donor"), "group")
)


class ListedTile(NamedTuple):
    """A line of a manifest: file, name as listed, label (0 normal; None unknown), class and group (empty if not listed)."""

    path: Path
    name: str
    label: int | None
    class_name: str
    group: str


class Manifest(NamedTuple):
    """The tiles of a table, whether it states which are normal, and notes on what was ignored."""

    tiles: list[ListedTile]
    labelled: bool
    notes: list[str]


def read_manifest(source: Path, normal: Collection[str] = ()) -> Manifest:
    """Read a table with the columns file, label, class, group, or id and label beside a folder train (PatchCamelyon).

    Classes that the user declares ``normal`` replace the known names. Raises `SettingsError` if a column is missing or unknown, a
    label is invalid, or lines contradict each other.
    """
    table = read_table(source, (*_COLUMNS, "id"), (), others=True, synonyms=_SYNONYMS)
    labelled = "label" in table.columns or "class" in table.columns
    if "file" not in table.columns and not {"id", "label"} <= set(table.columns):
        read_table(source, _COLUMNS, ("file",), others=True, synonyms=_SYNONYMS)  # raises the error that names the column
    if table.others and not labelled:
        msg = f"{source.name} has no column label or class, but unknown ones: {', '.join(table.others)}"
        raise SettingsError(msg, "rename the column that states which tiles are normal to label or class, or leave it out")
    tiles: dict[Path, ListedTile] = {}
    notes, again = [], 0
    for row in table.rows:
        tile = _tile(row, source, normal)
        before = tiles.setdefault(tile.path, tile)
        again += before is not tile
        if (before.label, before.class_name) != (tile.label, tile.class_name):
            msg = f"{source.name}, line {row.line}: {tile.name} was listed above with another label or class"
            raise SettingsError(msg, "keep the correct line")
    if again:
        notes.append(f"{source.name}: {again:,} lines repeat a file; each file counts once.")
    if table.others:
        notes.append(f"{source.name}: unused columns: {', '.join(table.others)}.")
    return Manifest(list(tiles.values()), labelled, notes)


def _tile(row: TableRow, source: Path, normal: Collection[str]) -> ListedTile:
    where = f"{source.name}, line {row.line}"
    name = row["file"]
    if "file" not in row.cells and row["id"]:
        name = f"{row['id']}.tif"
    if not name:
        raise SettingsError(f"{where}: the column file is empty", "fill it in")
    folder = source.parent if "file" in row.cells else source.parent / "train"
    text, named = ("" if is_missing(row[column]) else row[column] for column in ("label", "class"))
    label = class_of_label(text, normal if not named else ()) if text else None
    if text and label is None:
        msg = f"{where}: label {text!r} is neither a whole number from 0 nor a word"
        raise SettingsError(msg, "write 0 for normal, 1 for anomalous, nothing for unknown")
    by_class = {"normal": 0, "anomalous": 1}.get(kind_of(named))
    if named and normal:
        label = class_of_label(named, normal)
    elif label is None:
        label = by_class
    elif by_class is not None and (by_class == 0) != (label == 0):
        raise SettingsError(f"{where}: the label is {text} but the class is {named}", "correct the one that is wrong")
    number = text.removesuffix(".0") if label is not None else text
    return ListedTile(listed_path(name, folder), name, label, named or number, row["group"])
