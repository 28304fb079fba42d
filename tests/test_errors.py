import errno

import pytest

from napari_histoad import errors
from napari_histoad.errors import HistoadError, OutputError, writing


def test_no_error_is_a_runtime_error():
    kinds = [kind for name in errors.__all__ if isinstance(kind := getattr(errors, name), type)]
    assert len(kinds) > 10
    assert all(issubclass(kind, HistoadError) and not issubclass(kind, RuntimeError) for kind in kinds)


def test_an_error_says_what_and_how_to_mend_it():
    assert str(HistoadError("the roof leaks", "call the roofer")) == "the roof leaks; call the roofer"
    assert str(HistoadError("the roof leaks")) == "the roof leaks"


@pytest.mark.parametrize(
    ("code", "word"),
    [(errno.ENOSPC, "disk is full"), (errno.EACCES, "permissions"), (errno.EROFS, "read-only"), (errno.EIO, "another place")],
)
def test_writing_translates_faults_of_the_system(code, word):
    with pytest.raises(OutputError, match=word) as caught, writing("out.png"):
        raise OSError(code, "no")
    assert "out.png" in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)
