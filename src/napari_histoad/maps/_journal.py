"""The journal of an unfinished map: which blocks are scored and flushed to disk, one number per line."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from napari_histoad.system.atomic import atomic_path, fsync_path

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class Journal:
    """The journal of the map in a folder."""

    def __init__(self, store: Path) -> None:
        self.path = store / "journal"

    def blocks(self) -> set[int]:
        """Return which blocks are done; none if there is no journal."""
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return set()
        return {int(line) for line in lines[:-1] if line.isdigit()}  # what follows the last newline was cut short

    def add(self, blocks: Iterable[int]) -> None:
        """Record blocks as done and flush the record to disk; their scores and error maps must have been flushed before.

        Call `begin` first. Only one process at a time may call this, see `lock_output`.
        """
        with self.path.open("ab") as journal:
            journal.write(b"".join(b"%d\n" % block for block in blocks))
            journal.flush()
            os.fsync(journal.fileno())

    def replace(self, blocks: Iterable[int]) -> None:
        """Replace the record: exactly these blocks are done."""
        with atomic_path(self.path) as partial:
            partial.write_bytes(b"".join(b"%d\n" % block for block in sorted(blocks)))

    def begin(self) -> None:
        """Create the journal if there is none, and drop an incomplete last line: the next one would be appended to its digits."""
        with self.path.open("ab+") as journal:
            journal.seek(0)
            journal.truncate(journal.read().rfind(b"\n") + 1)
        fsync_path(self.path.parent)
