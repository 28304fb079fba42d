"""Append results to a csv file row by row, so that a stopped benchmark can continue."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def read_rows(path: Path) -> list[dict]:
    """Return the rows measured so far; all values are text."""
    if not path.exists():
        return []
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


def append_row(path: Path, row: dict) -> None:
    """Add a row; the first one defines the columns."""
    new = not path.exists()
    if not new and list(read_rows(path)[0]) != list(row):
        raise SystemExit(f"{path} has other columns than this run; choose another --out")
    with path.open("a", newline="") as handle:
        writer = csv.DictWriter(handle, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)
