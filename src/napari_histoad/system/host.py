"""What of the machine this process may use, and how it keeps its memory."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from typing import Any

__all__ = ["give_back_freed_memory", "keep_freed_memory", "usable_cores"]


def usable_cores() -> int:
    """Return the number of cores that the process may run on: a job of a cluster is often given a part of them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _glibc() -> Any:
    """Return the C library, or None where it is not glibc."""
    try:
        library = ctypes.CDLL("libc.so.6")
    except OSError:
        return None
    return library if sys.platform.startswith("linux") and hasattr(library, "malloc_trim") else None


@cache  # once
def keep_freed_memory() -> None:
    """Tell glibc to keep freed activations mapped: without it every layer page-faults its output anew.

    In one arena for all threads: what one thread has freed another uses, instead of keeping as much for itself.
    """
    if _glibc() is not None:
        # Mmap threshold, trim threshold, top pad, most arenas.
        for option, value in ((-3, 1 << 30), (-1, 2**31 - 1), (-2, 64 << 20), (-8, 1)):
            _glibc().mallopt(option, value)


def give_back_freed_memory() -> None:
    """Give back once what `keep_freed_memory` keeps: after a step whose arrays have other sizes than what follows."""
    if _glibc() is not None:
        _glibc().malloc_trim(0)
