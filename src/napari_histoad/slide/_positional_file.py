"""Reading a file from many threads."""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class PositionalFile:
    """A file that any number of threads and forked processes can read at any position at the same time."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = threading.Lock()
        self.close = weakref.finalize(self, os.close, self._fd)

    def read(self, count: int, offset: int) -> bytes:
        """Return ``count`` bytes, fewer at the end of the file."""
        if not self.close.alive:
            raise OSError("the slide has been closed")
        if hasattr(os, "pread"):
            return os.pread(self._fd, count, offset)
        with self._lock:  # Windows has no pread
            os.lseek(self._fd, offset, os.SEEK_SET)
            return os.read(self._fd, count)
