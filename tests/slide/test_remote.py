"""Slides behind URLs: an HTTP server with range requests, and fsspec's memory."""

import base64
import gzip
import os
import pickle
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from napari_histoad import open_slide
from napari_histoad.cli._app import app
from napari_histoad.engine import TrainingSource, gather_job
from napari_histoad.errors import SlideError
from napari_histoad.gui.output_paths import output_folder
from napari_histoad.jobs import run
from napari_histoad.slide import _http, locate


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "case.tif"
    image = np.random.default_rng(0).integers(0, 256, (2048, 2048, 3), np.uint8)
    with tifffile.TiffWriter(path) as tif:
        options = {"tile": (128, 128), "photometric": "rgb", "metadata": None, "resolutionunit": "CENTIMETER"}
        tif.write(image, resolution=(20000, 20000), **options)
        tif.write(image[::4, ::4], subfiletype=1, resolution=(5000, 5000), **options)
    return path, image


@pytest.fixture
def tiff(written, tmp_path):
    """A TIFF of 13 MB with a level, and its pixels."""
    path, image = written
    os.link(path, tmp_path / "case.tif")
    return tmp_path / "case.tif", image


@pytest.fixture
def server(tmp_path):
    """Serve tmp_path; counts the bytes it sent."""
    sent = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self):
            self._answer(body=False)

        def do_GET(self):
            self._answer(body=True)

        def _answer(self, *, body):
            file = tmp_path / self.path.lstrip("/")
            if not file.is_file():
                self.send_error(404)
                return
            data, status = file.read_bytes(), 200
            headers = {"Accept-Ranges": "bytes"}
            wanted = self.headers.get("Range")
            if wanted:
                first, last = wanted.removeprefix("bytes=").split("-")
                last = min(int(last or len(data) - 1), len(data) - 1)
                headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
                data, status = data[int(first) : last + 1], 206
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(data))}).items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                sent.append(len(data))
                self.wfile.write(data)

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}", sent
    httpd.shutdown()
    httpd.server_close()


def test_tiff_over_http_has_the_same_pixels_and_fetches_only_needed_bytes(tiff, server):
    path, image = tiff
    url, sent = server
    with open_slide(f"{url}/case.tif") as slide:
        assert slide.mpp == pytest.approx(0.5)
        assert len(slide.levels) == 2
        assert np.array_equal(slide.read(0, 300, 400, 100, 120), image[300:400, 400:520])
        assert np.array_equal(slide.read(1, 0, 0, 256, 256), image[:1024:4, :1024:4])
        copy = pickle.loads(pickle.dumps(slide))
        assert np.array_equal(copy.read(0, 0, 0, 50, 50), image[:50, :50])
        assert slide.name == "case"
        assert output_folder(slide).parent == Path.home()
    assert sum(sent) < path.stat().st_size / 3


def test_url_that_pathlib_cut_to_one_slash_is_read(tiff, server):
    url, _ = server
    with open_slide(Path(f"{url}/case.tif")) as slide:
        assert slide.shape == (2048, 2048)


def test_tiff_is_read_over_any_fsspec_file_system(tiff):
    path, image = tiff
    fsspec.filesystem("memory").pipe("/bucket/case.tif", path.read_bytes())
    with open_slide("memory://bucket/case.tif") as slide:
        assert np.array_equal(slide.read(0, 0, 0, 2048, 2048), image)


def test_missing_or_unreachable_urls_are_one_line_errors(server):
    url, _ = server
    with pytest.raises(SlideError, match="missing.tif"):
        open_slide(f"{url}/missing.tif")
    with pytest.raises(SlideError, match="cannot be reached"):
        open_slide("nosuchthing://x/y.tif")
    with pytest.raises(SlideError, match=r"y\.tif"):
        open_slide("http://127.0.0.1:9/y.tif")


def test_open_slide_refuses_urls_that_are_not_tiff(tmp_path, server):
    url, _ = server
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n0000")
    with pytest.raises(SlideError, match="only those are read over the network"):
        open_slide(f"{url}/a.png")


def test_read_names_the_tile_and_a_server_that_went_away(tiff, server, tmp_path):
    url, _ = server
    with open_slide(f"{url}/case.tif") as slide:
        (tmp_path / "case.tif").unlink()
        with pytest.raises(SlideError, match="row 15, column 15"):
            slide.read(0, 1930, 1930, 100, 100)


@pytest.fixture
def odd_server(tmp_path):
    """Serve tmp_path by byte ranges, with one oddity: ``state["odd"]`` changes (status, headers, body) of an answer to GET."""
    state = {"odd": lambda request, status, headers, body: (status, headers, body)}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            data = (tmp_path / self.path.partition("?")[0].lstrip("/")).read_bytes()
            first, last = (int(n) for n in self.headers["Range"].removeprefix("bytes=").split("-"))
            last = min(last, len(data) - 1)
            headers = {"Content-Range": f"bytes {first}-{last}/{len(data)}", "ETag": '"one"'}
            status, headers, body = state["odd"](self, 206, headers, data[first : last + 1])
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.handle_error = lambda *_: None  # a client that has seen enough closes the connection
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}", state
    httpd.shutdown()
    httpd.server_close()


ODD = {
    "ignores ranges": (lambda r, s, h, b: (200, {}, b), "sends no byte ranges.*download"),
    "web page": (lambda r, s, h, b: (200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>"), "is a web page"),
    "shifted": (lambda r, s, h, b: (206, {"Content-Range": "bytes 7-262150/9999999"}, b), "other bytes than requested"),
    "shorter": (lambda r, s, h, b: (206, {"Content-Range": "bytes 0-99/9999999"}, b[:100]), "other bytes than requested"),
    "fewer than announced": (lambda r, s, h, b: (206, h, b[:-1]), "a different number of bytes"),
    "no range stated": (lambda r, s, h, b: (206, {}, b), "does not state which bytes"),
    "several ranges": (lambda r, s, h, b: (206, {"Content-Type": "multipart/byteranges; boundary=x"}, b), "which bytes"),
    "no length stated": (lambda r, s, h, b: (206, {"Content-Range": f"bytes 0-{len(b) - 1}/*"}, b), "how long the file is"),
    "compressed": (lambda r, s, h, b: (206, {**h, "Content-Encoding": "gzip"}, gzip.compress(b)), "compresses what it sends"),
    "not found": (lambda r, s, h, b: (404, {}, b""), "there is no file .*404"),
    "gone": (lambda r, s, h, b: (410, {}, b""), "there is no file .*410"),
    "forbidden": (lambda r, s, h, b: (403, {}, b""), "gives no access .*403.*expire"),
    "unauthorised": (lambda r, s, h, b: (401, {}, b""), "gives no access .*401"),
    "broken": (lambda r, s, h, b: (500, {}, b""), "answers with an error .*500"),
    "busy": (lambda r, s, h, b: (429, {}, b""), "answers with an error .*429"),
    "empty": (lambda r, s, h, b: (416, {"Content-Range": "bytes */0"}, b""), "is empty"),
    "redirects without end": (lambda r, s, h, b: (302, {"Location": r.path}, b""), "redirects endlessly"),
}


@pytest.mark.parametrize("odd", ODD)
def test_open_slide_reports_faulty_servers(tiff, odd_server, odd):
    url, state = odd_server
    state["odd"], words = ODD[odd]
    with pytest.raises(SlideError, match=words) as caught:
        open_slide(f"{url}/case.tif?X-Amz-Signature=secret")
    assert "damaged" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("odd", [odd for odd in ODD if odd != "empty"])
def test_read_reports_servers_that_become_faulty(tiff, odd_server, odd):
    url, state = odd_server
    with open_slide(f"{url}/case.tif") as slide:
        state["odd"], words = ODD[odd]
        with pytest.raises(SlideError, match=rf"row 15, column 15.*({words}|has changed|other bytes)") as caught:
            slide.read(0, 1930, 1930, 100, 100)
        assert "damaged" not in str(caught.value)


@pytest.mark.parametrize(
    "other",
    [
        {"ETag": '"two"'},
        {"ETag": 'W/"two"'},
        {"ETag": "", "Last-Modified": "Sat, 28 Nov 2026 12:00:00 GMT"},
        {"Content-Range": "bytes {0}-{1}/14000000"},
    ],
)
def test_http_file_refuses_a_file_that_changes_while_it_is_open(tiff, odd_server, other):
    url, state = odd_server
    first = {"Last-Modified": "Fri, 27 Nov 2026 12:00:00 GMT"}
    state["odd"] = lambda r, s, h, b: (s, {**h, **first} if other.get("ETag") != "" else {**h, **first, "ETag": ""}, b)
    with open_slide(f"{url}/case.tif") as slide:
        assert slide.read(0, 0, 0, 50, 50).any()

        def changed(r, s, h, b):
            begin, end = h["Content-Range"].split()[1].split("/")[0].split("-")
            return s, {**h, **first, **{name: value.format(begin, end) for name, value in other.items()}}, b

        state["odd"] = changed
        with pytest.raises(SlideError, match="has changed since it was opened"):
            slide.read(0, 1000, 1000, 50, 50)
        with pytest.raises(SlideError, match="has changed"):  # the same for what reads the index again
            slide.with_mpp(0.3)
    open_slide(f"{url}/case.tif").close()


def test_http_file_refuses_a_file_that_shrinks(tiff, odd_server):
    url, state = odd_server
    with open_slide(f"{url}/case.tif") as slide:
        state["odd"] = lambda r, s, h, b: (416, {}, b"")
        with pytest.raises(SlideError, match="has changed"):
            slide.read(0, 1000, 1000, 50, 50)


def test_http_file_follows_redirects_and_needs_no_head_request(tiff, odd_server):
    _, image = tiff
    url, state = odd_server
    state["odd"] = lambda r, s, h, b: (s, h, b) if "moved" in r.path else (302, {"Location": f"{r.path}?moved"}, b"")
    with open_slide(f"{url}/case.tif") as slide:  # this server answers 501 to HEAD
        assert np.array_equal(slide.read(0, 300, 400, 100, 120), image[300:400, 400:520])


def test_http_file_reports_unreachable_hosts(tiff, odd_server, monkeypatch):
    with pytest.raises(SlideError, match=r"cannot be reached \(it refuses connections\)"):
        open_slide("http://127.0.0.1:9/y.tif")
    assert "no such host" in _http._reason(socket.gaierror(-2, "Name or service not known"))
    url, state = odd_server
    done = threading.Event()

    def silent(r, s, h, b):
        done.wait(60)
        return s, h, b

    state["odd"] = silent
    monkeypatch.setattr(_http, "_SILENCE_S", 0.2)
    with pytest.raises(SlideError, match=r"cannot be reached \(it does not answer\)"):
        open_slide(f"{url}/case.tif")
    done.set()


def test_presigned_url_is_used_but_never_shown(sample, detector_file, tmp_path, odd_server):
    (tmp_path / "case.tif").write_bytes(sample.path.read_bytes())
    url, state = odd_server
    wanted = "Basic " + base64.b64encode(b"user:password").decode()

    def guarded(r, s, h, b):
        allowed = r.path.endswith("?X-Amz-Signature=se%2Fcret&sig=a") and r.headers.get("Authorization") == wanted
        return (s, h, b) if allowed else (403, {}, b"")

    state["odd"] = guarded
    address = f"{url.replace('//', '//user:password@')}/case.tif?X-Amz-Signature=se%2Fcret&sig=a"
    with open_slide(address) as slide:
        shown = [
            repr(slide),
            str(slide.path),
            slide.name,
            slide.file_name,
            slide.advice,
            *slide.notes,
            *slide.properties.values(),
        ]
        assert slide.name == "case"
        again = pickle.loads(pickle.dumps(slide))
        assert again.read(0, 0, 0, 8, 8).shape == (8, 8, 3)
        with pytest.raises(SlideError) as caught:
            slide.read(9, 0, 0, 1, 1)
        shown.append(str(caught.value))
    for command in (
        ["info", address, "--json"],
        ["map", address, "--out", str(tmp_path / "out"), "--model", str(detector_file), "--device", "cpu", "--json"],
        ["map", address + "x", "--out", str(tmp_path / "out"), "--model", str(detector_file), "--device", "cpu"],
    ):
        result = CliRunner().invoke(app, command)
        shown += [result.stdout, result.stderr]
    source = TrainingSource(Path(address))
    (progress, *_) = gather_job([source], 64, 1.0, max_tiles=48)
    tiles = run(gather_job([source], 64, 1.0, max_tiles=48))[0]
    shown += [str(progress), str(source), *tiles.sources]
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert [path for path in written if "case.ome.zarr" in str(path)]
    for secret in ("cret", "password", "Signature", "sig="):
        assert not [text for text in shown if secret in text]
        assert not [path for path in written if secret in str(path) or secret.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://user:pw@host:8080/a/b.tif?token=x#part", "https://host:8080/a/b.tif"),
        ("https://token@host/b.tif", "https://host/b.tif"),
        ("s3://key:pw@bucket/b.tif?versionId=x", "s3://bucket/b.tif"),
        ("abfs://container@account.dfs.core.windows.net/a@b.tif", "abfs://container@account.dfs.core.windows.net/a@b.tif"),
    ],
)
def test_url_is_shown_without_its_secrets(address, shown):
    path = locate(address)
    assert str(path) == shown
    assert pickle.loads(pickle.dumps(path)) == path
    assert "pw" not in f"{path!r} {path.parent}"
    with pytest.raises(SlideError) as caught:
        open_slide(f"nosuchthing:{address.partition(':')[2]}")
    assert "pw" not in str(caught.value)


def test_file_url_is_a_local_file(tiff):
    path, _ = tiff
    with open_slide(path.as_uri()) as slide:
        assert slide.path == path
