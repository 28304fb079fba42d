"""URLs of slides given in the terminal: a signature in the query holds only for the address as it was written."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.testing import CliRunner

from napari_histoad import train
from napari_histoad.cli._app import app

ADDRESS = "/folder//with%2Fslashes/case.tif?to=https://host//a%2Fb&signature=A//b%2F+c=="


@pytest.fixture
def url(sample):
    """Serve the sample under one address, exactly as written; nothing else is allowed."""
    data = sample.path.read_bytes()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            if self.path != ADDRESS:
                self.send_error(403)
                return
            first, last = (int(n) for n in self.headers["Range"].removeprefix("bytes=").split("-"))
            part = data[first : last + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            self.wfile.write(part)

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.handle_error = lambda *_: None  # a client that has seen enough closes the connection
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}{ADDRESS}"
    httpd.shutdown()
    httpd.server_close()


def histoad(*args):
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert "signature" not in result.output
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def model(sample, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "colour.safetensors"
    train(sample.path, path, detector="colour", tile_px=64, mpp=1)
    return path


def test_commands_request_a_url_exactly_as_typed(url, model, tmp_path):
    shown = json.loads(histoad("info", url, "--json"))
    assert shown["path"].endswith("/folder//with%2Fslashes/case.tif")
    histoad("convert", url, "--out", tmp_path / "copy.tif")
    histoad("map", url, "--out", tmp_path / "maps", "--model", model)
    histoad("train", url, "--out", tmp_path / "m.safetensors", "--detector", "colour", "--max-tiles", "100")
    histoad("recalibrate", model, url, "--out", tmp_path / "r.safetensors", "--max-tiles", "60")
    mapped = tmp_path / "maps" / "case.ome.zarr"
    histoad("export", mapped, "--png", "--slide", url)
    histoad("report", mapped, "--slide", url, "--out", tmp_path / "r.html")
    assert "<img" in (tmp_path / "r.html").read_text("utf-8")
    for file in (*mapped.glob("*.json"), mapped / ".zattrs", tmp_path / "r.html"):
        assert not file.exists() or "signature" not in file.read_text("utf-8")


def test_map_and_info_take_urls_from_tables(url, model, tmp_path):
    (tmp_path / "cohort.csv").write_text(f"slide,mpp\n{url},0.5\n", "utf-8")
    result = json.loads(histoad("map", tmp_path / "cohort.csv", "--out", tmp_path / "maps", "--model", model, "--json"))
    assert result["failed"] == []
    (tmp_path / "mpp.csv").write_text(f"slide,mpp\n{url},0.25\n{url.replace('A//', 'B//')},1\n", "utf-8")
    assert json.loads(histoad("info", url, "--slide-mpp", tmp_path / "mpp.csv", "--json"))["mpp"] == 0.25


def test_train_takes_a_url_as_text(url, tmp_path):
    trained = train([url], tmp_path / "m.safetensors", detector="colour", tile_px=64, mpp=1)
    assert trained.trained_on == ("case.tif",)
