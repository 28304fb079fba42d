"""What tests need of a bare Linux box is installed, also while another program installs something."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "with_display.py"


@pytest.fixture
def tool(monkeypatch, tmp_path):
    """The tool, as root, on a machine whose apt-get is a script: `answer` is what it does, given how often it was called."""
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux needs system libraries for Qt")
    spec = importlib.util.spec_from_file_location("with_display", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "LOCK_WAIT_S", 0)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    script = tmp_path / "apt-get"
    script.write_text(f'#!/bin/sh\necho call >> "{tmp_path}/calls"\nexec sh "{tmp_path}/answer" "$(wc -l < {tmp_path}/calls)"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    module.answer = (tmp_path / "answer").write_text
    module.calls = lambda: len((tmp_path / "calls").read_text().splitlines())
    return module


LOCKED = "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 4711 (apt-get)"


def test_with_display_tries_a_locked_apt_again(tool, capfd):
    tool.answer(f'[ "$1" -ge 4 ] || {{ echo "{LOCKED}" >&2; exit 100; }}')
    tool.install(["libegl1"])
    assert tool.calls() == 5  # three refusals, then update and install
    assert "trying again" in capfd.readouterr().err


@pytest.mark.parametrize("message", [LOCKED, "E: Unable to locate package libegl1"])
def test_with_display_names_the_command_to_run_if_it_cannot_install(tool, capfd, message):
    tool.LOCK_ATTEMPTS = 3
    tool.answer(f'echo "{message}" >&2; exit 100')
    with pytest.raises(SystemExit) as stopped:
        tool.install(["libegl1"])
    assert stopped.value.code == 3
    assert "apt-get install" in capfd.readouterr().err
    assert tool.calls() == (3 if message == LOCKED else 1)
