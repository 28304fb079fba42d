"""Waiting for a condition, however slow the machine is."""

import threading
from collections.abc import Callable

__all__ = ["wait_until"]


def wait_until(condition: Callable[[], object], timeout_s: float = 600, every_s: float = 0.005) -> None:
    """Return once the condition holds; a test fails that waits for longer than ``timeout_s``."""
    never = threading.Event()
    for _ in range(int(timeout_s / every_s)):
        if condition():
            return
        never.wait(every_s)
    raise TimeoutError(f"still not so after {timeout_s} s")
