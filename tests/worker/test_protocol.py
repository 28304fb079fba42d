"""Messages come out as they went in."""

import numpy as np
import pytest

from napari_histoad.errors import HistoadError, MissingMppError, SettingsError
from napari_histoad.jobs import Progress
from napari_histoad.worker.protocol import (
    Explain,
    Failed,
    Finished,
    Progressed,
    Request,
    TileExplained,
    Train,
    parse_event,
)

PICTURE = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)


def test_request_survives_the_wire():
    request = Request(id=7, args=Explain(slide="case.tif", model="m.safetensors", centre=(1.5, 2)))
    assert Request.model_validate_json(request.model_dump_json()) == request
    assert "\n" not in request.model_dump_json()


def test_progress_survives_the_wire_with_picture_box_and_nan():
    sent = Progress("Training", 1, 9, "steps", {"loss": float("nan")}, PICTURE, (0, 1, 2, 3), "d.safetensors", "a note")
    got = parse_event(Progressed(id=1, progress=sent).model_dump_json()).progress
    assert np.isnan(got.metrics["loss"])
    assert np.array_equal(got.preview, PICTURE)
    assert (got.stage, got.done, got.total, got.unit, got.updated) == ("Training", 1, 9, "steps", (0, 1, 2, 3))
    assert (got.path, got.note) == ("d.safetensors", "a note")
    bare = parse_event(Progressed(id=1, progress=Progress("Mapping")).model_dump_json()).progress
    assert bare == Progress("Mapping")


def test_pictures_of_an_explanation_survive_the_wire():
    sent = Finished(id=1, result=TileExplained(panels=[("Tile", PICTURE)], words="score 1"))
    ((title, picture),) = parse_event(sent.model_dump_json()).result.panels
    assert title == "Tile"
    assert np.array_equal(picture, PICTURE)


@pytest.mark.parametrize("wrong", [{}, {"out": "d", "modle": 1}, {"out": 3}])
def test_arguments_refuse_missing_unknown_and_wrong_values_in_one_line(wrong):
    with pytest.raises(SettingsError, match=r"^Train: [^\n]+; its fields are job, slide") as caught:
        Train(slide="case.tif", **wrong)
    assert next(iter(wrong.keys() - {"out"}), "out") in caught.value.what


def test_failed_restores_the_class_of_the_error():
    def error(kind):
        return Failed(id=1, kind=kind, what="a", remedy="b").error

    assert type(error("TypeError")) is HistoadError
    assert type(error("writing")) is HistoadError
    assert isinstance(error("MissingMppError"), MissingMppError)
    assert str(error("MissingMppError")) == "a; b"


@pytest.mark.parametrize("line", ["", "hello", "{}", '{"event": "result", "id": 1, "result": {"folder": "d"}}'])
def test_parse_event_raises_value_error_for_other_lines(line):
    with pytest.raises(ValueError, match="validation error"):
        parse_event(line)
