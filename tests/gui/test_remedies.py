"""What the window says of errors: every remedy of the package is walked."""

import ast
from pathlib import Path

import pytest

import napari_histoad
from napari_histoad import errors
from napari_histoad.errors import HistoadError, MissingMppError, TooFewTilesError, writing
from napari_histoad.gui.remedies import in_window, of_terminal
from napari_histoad.worker.protocol import Failed

SRC = Path(napari_histoad.__file__).parent
KINDS = {name for name in errors.__all__ if isinstance(getattr(errors, name), type)}


def _words(node):
    """The text of a string, formatted or joined, with X where a value goes."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_words(v) if isinstance(v, ast.Constant) else "0.5" for v in node.values)
    if isinstance(node, ast.BinOp):
        return _words(node.left) + _words(node.right)
    return ""


def _errors():
    """Each error raised in the package, with its remedy; every text of a module that names options, as any error's."""
    for file in sorted(SRC.rglob("*.py")):
        if "cli" in file.relative_to(SRC).parts:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS:
                what, remedy = (*(_words(a) for a in node.args), "", "")[:2]
                if remedy:
                    yield file.name, getattr(errors, node.func.id)(what, remedy)
            elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None and of_terminal(_words(node.value)):
                yield file.name, HistoadError("it failed", _words(node.value))


def test_remedies_name_no_options_or_commands():
    found = list(_errors())
    assert len(found) > 100
    assert sum(of_terminal(err.remedy) for _, err in found) > 20
    named = [(file, in_window(err)) for file, err in found if of_terminal(in_window(err).removeprefix(err.what))]
    assert named == []
    assert [file for file, err in found if in_window(err) == err.what] == []


@pytest.mark.parametrize(
    "remedy",
    [
        "use --new-option 3",
        "use larger outlines, or --new-option 3",
        "histoad something --else",
        "pass size=3 (Python)",
        "say it: --x 1 (terminal), x=1 (Python)",
        "start it with --one, --two or --three",
    ],
)
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_remedies_of_unknown_errors_name_no_option(kind, remedy):
    words = in_window(Failed(id=1, kind=kind, what="it failed", remedy=remedy).error)
    assert words.startswith("it failed; ")
    assert not of_terminal(words)
    assert len(words) > len("it failed; ") + 10


def test_remedies_that_fit_the_window_are_kept():
    words = in_window(TooFewTilesError("only 30 normal tiles", "outline more normal tissue, add slides, or use --tile-px 128"))
    assert words == "only 30 normal tiles; outline more normal tissue in step 3, in a few more places"
    assert in_window(HistoadError("a", "use larger outlines, or --new 3")) == "a; use larger outlines"
    assert "×20" in in_window(MissingMppError("no mpp", "say it: --slide-mpp 0.25 (terminal), slide_mpp=0.25 (Python)"))
    assert in_window(HistoadError("the roof leaks", "call the roofer")) == "the roof leaks; call the roofer"
    assert in_window(HistoadError("the roof leaks")) == "the roof leaks"


def test_remedy_of_a_full_disk_is_a_click():
    with pytest.raises(errors.OutputError) as caught, writing("map"):
        raise OSError(28, "No space left on device")
    assert "click again, it resumes" in in_window(caught.value)
