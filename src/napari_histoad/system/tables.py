"""Reading csv tables as Excel, pandas, R and people save them; writing them."""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING

from napari_histoad.errors import SettingsError
from napari_histoad.system.atomic import atomic_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark is a prefix of it
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
"""First bytes of .xlsx, .ods and .xls files."""
_SEPARATORS = (",", ";", "\t", "|")
_SEPARATOR_LINE = re.compile(r"^\ufeff?sep=(.)\s*$", re.IGNORECASE)
"""The line that Excel writes and reads before the header."""
_UNNAMED = re.compile(r"^unnamed: ?[\d.]+$")
"""pandas' name, in lower case, for a column without a name."""
_ROW_NUMBERS = ("index", "rownames")
_ALIKE = 0.75
_NEARLY_SAME = 0.9
"""Similarity of label and labels; less between different words such as file and field."""
_MISSING = frozenset({"", "na", "n/a", "<na>", "nan", "null", "none", "?", "-"})
_SHOWN = 8


@dataclass(frozen=True)
class TableRow:
    """One line of a table."""

    line: int  # number of its last line in the file, from 1, as editors count
    cells: dict[str, str]  # by column, without leading and trailing spaces

    def __getitem__(self, column: str) -> str:
        return self.cells.get(column, "")


@dataclass(frozen=True)
class Table:
    """The content of a csv file, without blank lines."""

    name: str  # of the file, for messages
    columns: tuple[str, ...]  # the known columns in the file, in lower case
    others: tuple[str, ...] = ()  # the other columns, as written in the file
    rows: list[TableRow] = field(default_factory=list)


def read_table(
    path: Path,
    known: Sequence[str],
    required: Sequence[str],
    *,
    others: bool = False,
    synonyms: Mapping[str, str] | None = None,
) -> Table:
    """Read a csv file with a header line.

    The separator may be a comma, a semicolon, a tab or a bar; the encoding UTF-8, UTF-16 or UTF-32. Column names are compared
    ignoring case and surrounding spaces. Ignored are row numbers (a first column without a name, as pandas and R write), empty
    columns at the end, blank lines, and comment lines (#) before the header.

    ``known`` and ``required`` are names of columns in lower case. With ``others``, other columns are allowed, except those that
    look like misspelt known ones, unless the table has these too. ``synonyms`` are other common names: if the known column is
    missing, the error says how to rename the other one. Raises `SettingsError` if the file cannot be read, a column is missing,
    unknown or occurs twice, or a line has more cells than the header.
    """
    lines = _Lines(path, _decoded(path), known)
    header = lines.header
    synonyms = synonyms or {}
    hint = f"the columns are {', '.join(known)}"
    names = ["" if _UNNAMED.match(name.casefold()) else name.casefold() for name in header]
    if names and names[0] in _ROW_NUMBERS and names[0] not in known:
        names[0] = ""
    twice = next((name for k, name in enumerate(names) if name and name in names[:k]), None)
    if twice is not None:
        raise SettingsError(f"{path.name} has two columns named {twice}", "keep one of them")
    unknown = [name for k, name in enumerate(header) if names[k] and names[k] not in known]
    missing = [column for column in required if column not in names]
    if missing:
        found = ", ".join(unknown[:_SHOWN]) or "none"
        guess = next((n for n in unknown if _meant(n, known, synonyms) == missing[0]), None)
        remedy = f"rename {guess} to {missing[0]}" if guess else f"its first line names the columns: {', '.join(known)}"
        raise SettingsError(f"{path.name} has no column named {missing[0]} (not understood: {found})", remedy)
    for name in unknown:
        meant = _meant(name, known, synonyms)
        if meant is None and others:
            continue
        if others and meant in names and (name.casefold() in synonyms or _similarity(name, meant) < _NEARLY_SAME):
            continue
        odd = ", ".join(unknown[:_SHOWN])
        raise SettingsError(
            f"{path.name} has an unknown column {name!r}" + (f" (unknown are {odd})" if len(unknown) > 1 else ""),
            f"rename it to {meant}, or leave it out" if meant else f"leave it out; {hint}",
        )
    rows = list(lines.rows(names))
    return Table(path.name, tuple(n for n in names if n in known), tuple(unknown), rows)


def is_missing(text: str) -> bool:
    """Return whether a cell states no value: empty, NA, NaN, null, none."""
    return text.casefold() in _MISSING


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a csv file, atomically; names that are no Unicode are written as they were read."""
    with atomic_path(path) as partial, partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as handle:
        csv.writer(handle).writerows([columns, *rows])


def number(text: str) -> float:
    """Return the number in a cell such as ``0.25`` or ``0,25``; ValueError if it is not a number."""
    return float(text.replace(",", ".") if "." not in text else text)


def listed_path(text: str, folder: Path) -> Path:
    r"""Return the path of a file listed in a table.

    It may be relative to the table's folder, be separated by / or \, and have accents in composed or decomposed Unicode.
    """
    if "://" in text:
        return Path(text)
    if PureWindowsPath(text).drive and not Path(text).is_absolute():
        return Path(text)  # a Windows path on another system: joined to the folder it would only confuse the error message
    if text.isascii() and "\\" not in text and not text.startswith("~"):
        return folder / text  # without looking at the disk: a table may list very many
    spellings = [text, *(unicodedata.normalize(form, text) for form in ("NFC", "NFD"))]
    places = [folder / spelling.replace(*slash) for slash in (("\\", "\\"), ("\\", "/")) for spelling in spellings]
    if text.startswith("~"):
        places.append(Path(text).expanduser())
    return next((place for place in places if place.exists()), places[-1])


def _decoded(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError as err:
        raise SettingsError(f"there is no table {path}", "check the path") from err
    except OSError as err:
        raise SettingsError(f"{path} cannot be read: {err.strerror or err}", "check its permissions") from err
    if raw.startswith(_WORKBOOKS):
        raise SettingsError(f"{path.name} is a spreadsheet, not a csv file", "save it as CSV UTF-8")
    encoding = next((name for mark, name in _BOMS if raw.startswith(mark)), None)
    if encoding is None:
        head = raw[: min(len(raw), 64) // 2 * 2]
        sides = [bool(head) and not any(head[1::2]), bool(head) and not any(head[::2])]
        encoding = "utf-16-le" if sides[0] else "utf-16-be" if sides[1] else "utf-8"
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as err:
        line = raw.count(b"\n", 0, err.start) + 1
        raise SettingsError(f"{path.name}, line {line}: not readable as {encoding.upper()}", "save it as CSV UTF-8") from err
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise SettingsError(f"{path.name}, line {line}: contains a NUL character", "save the table again")
    return text


class _Lines:
    """The cells of a csv text, line by line."""

    def __init__(self, path: Path, text: str, known: Sequence[str]) -> None:
        self.name, self.known = path.name, known
        lines = io.StringIO(text, newline="").readlines() if text else []
        first, separator = 0, None
        while first < len(lines) and (not lines[first].strip(" \t\r\n,;|") or lines[first].lstrip().startswith("#")):
            first += 1
        if first < len(lines) and (said := _SEPARATOR_LINE.match(lines[first])):
            separator, first = said[1], first + 1
        if first == len(lines):
            raise SettingsError(f"{path.name} is empty", f"its first line names the columns: {', '.join(known)}")
        self._skipped = first
        separator = separator or self._separator(lines[first])
        self._reader = csv.reader(lines[first:], delimiter=separator, skipinitialspace=True, strict=True)
        self.header = [cell.strip(" \t\u00a0\ufeff") for cell in self._next() or []]

    def _separator(self, line: str) -> str:
        """Return the separator that gives the header most known columns; among equals, most columns."""

        def worth(separator: str) -> tuple[int, int]:
            cells = next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
            return sum(cell.strip().casefold() in self.known for cell in cells), len(cells)

        return max(_SEPARATORS, key=worth)

    def _next(self) -> list[str] | None:
        try:
            return next(self._reader, None)
        except csv.Error as err:
            raise SettingsError(f"{self.name}, line {self.line}: {err}", "check the quotation marks near that line") from err

    @property
    def line(self) -> int:
        return self._skipped + self._reader.line_num

    def rows(self, names: Sequence[str]) -> list[TableRow]:
        found = []
        numbering = next((k for k, name in enumerate(names) if name), 0)
        while (cells := self._next()) is not None:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            extra = [cell for cell in cells[len(names) :] if cell]
            unnamed = [k for k, name in enumerate(names) if not name and numbering < k < len(cells) and cells[k]]
            if extra or unnamed:
                msg = f"{self.name}, line {self.line}: {len(cells)} cells, the header names {sum(map(bool, names))} columns"
                raise SettingsError(msg, "put cells that contain the separator in quotation marks, or name the column")
            found.append(TableRow(self.line, {n: c for n, c in zip(names, cells, strict=False) if n}))
        return found


def _meant(name: str, known: Sequence[str], synonyms: Mapping[str, str]) -> str | None:
    """Return the known column that a name most likely stands for, or None."""
    plain = name.casefold()
    if plain in synonyms:
        return synonyms[plain]
    return next(iter(difflib.get_close_matches(plain, known, 1, _ALIKE)), None)


def _similarity(name: str, known: str) -> float:
    return difflib.SequenceMatcher(a=name.casefold(), b=known).ratio()
