import errno

import pytest

from napari_histoad import errors
from napari_histoad.errors import HistoadError, OutputError, writing


def test_errors_do_not_derive_from_runtime_error():
    kinds = [kind for name in errors.__all__ if isinstance(kind := getattr(errors, name), type)]
    assert len(kinds) > 10
    assert all(issubclass(kind, HistoadError) and not issubclass(kind, RuntimeError) for kind in kinds)


def test_error_message_is_what_happened_and_the_remedy():
    assert str(HistoadError("case.svs is empty", "copy it again")) == "case.svs is empty; copy it again"
    assert str(HistoadError("case.svs is empty")) == "case.svs is empty"


@pytest.mark.parametrize(
    ("code", "word"),
    [(errno.ENOSPC, "disk is full"), (errno.EACCES, "permissions"), (errno.EROFS, "read-only"), (errno.EIO, "another folder")],
)
def test_writing_turns_system_errors_into_output_errors_with_a_remedy(code, word):
    with pytest.raises(OutputError, match=word) as caught, writing("out.png"):
        raise OSError(code, "no")
    assert "out.png" in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)
