"""The cores that this process may use, and how the C library keeps freed memory."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from typing import Any


def usable_cores() -> int:
    """Return the number of cores that the process may use: jobs on a cluster often get only some of the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _glibc() -> Any:
    """Return the C library, or None if it is not glibc."""
    try:
        library = ctypes.CDLL("libc.so.6")
    except OSError:
        return None
    return library if sys.platform.startswith("linux") and hasattr(library, "malloc_trim") else None


@cache  # once
def keep_freed_memory() -> None:
    """Make glibc keep freed memory instead of returning it to the system: otherwise every network layer page-faults again.

    All threads share one arena, so that one thread can use what another has freed.
    """
    if _glibc() is not None:
        # Mmap threshold, trim threshold, top pad, maximum number of arenas.
        for option, value in ((-3, 1 << 30), (-1, 2**31 - 1), (-2, 64 << 20), (-8, 1)):
            _glibc().mallopt(option, value)


def give_back_freed_memory() -> None:
    """Return the memory that `keep_freed_memory` keeps to the system: after a step whose arrays are not needed again."""
    if _glibc() is not None:
        _glibc().malloc_trim(0)
