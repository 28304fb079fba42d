import os
import sys

import pytest


@pytest.fixture(autouse=True)
def real_window():
    """These tests open real windows; without a display they fail and say how to get one. They are never skipped."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        pytest.fail("no display: run the tests with tox, or as python tools/with_display.py pytest tests")
