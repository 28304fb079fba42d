"""Slides behind URLs: an HTTP server with range requests, and fsspec's memory."""

import pickle
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
import tifffile

from napari_histoad import open_slide
from napari_histoad.errors import SlideError
from napari_histoad.gui.controller import output_folder


@pytest.fixture
def tiff(tmp_path):
    """A TIFF of 13 MB with a level, and its pixels."""
    image = np.random.default_rng(0).integers(0, 256, (2048, 2048, 3), np.uint8)
    with tifffile.TiffWriter(tmp_path / "case.tif") as tif:
        options = {"tile": (128, 128), "photometric": "rgb", "metadata": None, "resolutionunit": "CENTIMETER"}
        tif.write(image, resolution=(20000, 20000), **options)
        tif.write(image[::4, ::4], subfiletype=1, resolution=(5000, 5000), **options)
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


def test_a_tiff_over_http_gives_the_same_pixels_and_fetches_only_what_is_looked_at(tiff, server):
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


def test_pathlib_dropping_a_slash_does_no_harm(tiff, server):
    url, _ = server
    with open_slide(Path(f"{url}/case.tif")) as slide:
        assert slide.shape == (2048, 2048)


def test_any_file_system_of_fsspec_will_do(tiff):
    path, image = tiff
    fsspec.filesystem("memory").pipe("/bucket/case.tif", path.read_bytes())
    with open_slide("memory://bucket/case.tif") as slide:
        assert np.array_equal(slide.read(0, 0, 0, 2048, 2048), image)


def test_what_is_not_there_or_cannot_be_reached_is_one_line(server):
    url, _ = server
    with pytest.raises(SlideError, match="missing.tif"):
        open_slide(f"{url}/missing.tif")
    with pytest.raises(SlideError, match="cannot be reached"):
        open_slide("nosuchthing://x/y.tif")
    with pytest.raises(SlideError, match=r"y\.tif"):
        open_slide("http://127.0.0.1:9/y.tif")


def test_only_tiffs_are_read_over_the_network(tmp_path, server):
    url, _ = server
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n0000")
    with pytest.raises(SlideError, match="only those are read over the network"):
        open_slide(f"{url}/a.png")


def test_a_server_that_goes_away_is_named_with_the_tile(tiff, server, tmp_path):
    url, _ = server
    with open_slide(f"{url}/case.tif") as slide:
        (tmp_path / "case.tif").unlink()
        with pytest.raises(SlideError, match="row 15, column 15"):
            slide.read(0, 1930, 1930, 100, 100)
