"""Rows of figures in a csv file, kept as they come: a benchmark that was stopped goes on where it was."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def read_rows(path: Path) -> list[dict]:
    """Return what was measured before, all as text."""
    if not path.exists():
        return []
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


def append_row(path: Path, row: dict) -> None:
    """Add a row; the first one says what the columns are."""
    new = not path.exists()
    if not new and list(read_rows(path)[0]) != list(row):
        raise SystemExit(f"{path} has other columns than what is measured now; give --out another name")
    with path.open("a", newline="") as handle:
        writer = csv.DictWriter(handle, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)
