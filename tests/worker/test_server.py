"""The server, spoken to line by line."""

import json
import subprocess
import sys

import pytest

NOISY = """
from napari_histoad.worker import jobs, protocol, server

def check(args):
    print("noise on stdout")
    import os
    os.write(1, b"more noise\\n")
    yield protocol.Progress("Opening")
    if args.model.name == "broken":
        raise ZeroDivisionError("by zero")

jobs.JOBS[protocol.CheckModel] = check
server.main()
"""


@pytest.fixture
def talk():
    def talk(*requests):
        lines = "".join(json.dumps(r) + "\n" for r in requests)
        process = subprocess.Popen([sys.executable, "-c", NOISY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            process.stdin.write(lines)
            process.stdin.flush()
            while True:
                yield json.loads(process.stdout.readline())
        finally:
            process.kill()
            process.communicate()

    return talk


def test_server_keeps_what_libraries_print_out_of_the_events(talk):
    events = talk({"id": 3, "args": {"job": "check", "model": "m"}})
    assert next(events)["progress"]["stage"] == "Opening"
    assert next(events) == {"event": "result", "id": 3, "result": None}
    events.close()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"job": "dance"}, "dance"),
        ({"job": "check"}, "CheckModel: model: Field required"),
        ({"job": "check", "model": "m", "modle": 1}, "CheckModel: modle: Extra inputs"),
        ({"job": "explain", "slide": "s", "model": "m", "centre": [1]}, "Explain: centre"),
    ],
)
def test_server_refuses_wrong_arguments_in_one_line_and_goes_on(talk, args, words):
    events = talk({"id": 1, "args": args}, {"id": 2, "args": {"job": "check", "model": "m"}})
    refused = next(events)
    assert (refused["event"], refused["id"], refused["kind"]) == ("error", 1, "SettingsError")
    assert words in refused["what"]
    assert "\n" not in refused["what"]
    assert refused["remedy"]
    assert next(events)["id"] == 2
    events.close()


def test_server_reports_an_unexpected_error_in_one_line_and_goes_on(talk):
    events = talk(*({"id": n, "args": {"job": "check", "model": m}} for n, m in enumerate(["broken", "m"], 1)))
    assert next(events)["event"] == "progress"
    failed = next(events)
    assert failed["what"] == "check failed unexpectedly (ZeroDivisionError: by zero)"
    assert [next(events)["event"], next(events)["event"]] == ["progress", "result"]
    events.close()
