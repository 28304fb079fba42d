"""Rewrites errors for the window: a remedy names a button or step of the panel instead of an option of the terminal."""

from __future__ import annotations

import re

from napari_histoad import errors
from napari_histoad.errors import HistoadError

_OF_TERMINAL = re.compile(
    r"--[a-z]|\bhistoad [a-z]|\b\w+=[^=\s]|\(Python\b|\bin Python\b|\bvips\b|\bdask worker\b|command again|run again"
)

_COARSER = "choose a detector trained at \\g<mpp> µm per pixel or coarser in step 5, or train one in step 4"
_INSTEAD = (
    (r"as square: --slide-mpp (?P<mpp>[\d.]+)", r"resample it, or type \g<mpp> as µm per pixel in step 1"),
    (r"--slide-mpp", "choose ×20 or ×40 in step 1, or type its µm per pixel there"),
    (r"--channels", "make a slide of one channel or of three first; the terminal can"),
    (r"vips", "convert it to a tiled 8-bit RGB TIFF first"),
    (r"--tile-px \d", "outline more normal tissue in step 3, in a few more places"),
    (r"--normal-class|--regions", "outline normal tissue in step 3, or judge more tiles"),
    (r"finer --mpp", "train a detector on a slide with more tissue, and choose it in step 5"),
    (r"trained at (?P<mpp>[\d.]+).*--mpp", _COARSER),
    (r"--fetch|--backbone-weights|backbone_weights", "choose the file of its weights in step 4, or another encoder"),
    (r"--weights", "put the file that it was trained with back where it was, or train the detector again in step 4"),
    (r"trained? (a|it) .*--model|it with .*--model", "choose a file that holds a detector too"),
    (r"--model", "choose a trained detector in step 5, or train one in step 4"),
    (r"--device|--compile", "close other programs that use the memory or the GPU, and click again"),
    (r"histoad train", "choose a .safetensors file that a training has written, or train a detector in step 4"),
)
"""Patterns in remedies for the terminal, and the remedies for the panel that replace them."""

_OF_KIND: dict[type[HistoadError], str] = {
    errors.MissingMppError: "choose ×20 or ×40 in step 1, or type its µm per pixel there",
    errors.RegionError: "correct the file, or draw the outlines again in step 3",
    errors.EmptyTissueError: "click Show tissue in step 2 to see what is taken for tissue, or outline normal tissue",
    errors.TooFewTilesError: "outline more normal tissue in step 3, in a few more places",
    errors.BundleError: "choose another detector in step 5, or train one in step 4",
    errors.EncoderError: "choose another encoder in step 4, or the file of its weights",
    errors.OtherMapError: "move the map that is there to another folder, and click again",
    errors.MapError: "compute the map again in step 5",
    errors.DeviceError: "close other programs that use the memory or the GPU, and click again",
    errors.SlideError: "open another file",
    HistoadError: "choose other settings, and click again",
}
"""Remedies by kind of error, for those without a part that fits the window; the first match is used."""


def of_terminal(words: str) -> bool:
    """Return whether a text mentions commands, options or Python."""
    return _OF_TERMINAL.search(words) is not None


def in_window(err: HistoadError) -> str:
    """Return an error and its remedy in the window as one line."""
    remedy = _remedy(err)
    return f"{err.what}; {remedy}" if remedy else err.what


def note_in_window(note: str) -> str:
    """Return a note without what it says in brackets to those in a terminal."""
    return re.sub(r" \((?=[^()]*--[a-z])[^()]*\)", "", note)


def _remedy(err: HistoadError) -> str:
    words = err.remedy.replace("run the same command again", "click again").replace("and run again", "and click again")
    if not of_terminal(words):
        return words
    for pattern, instead in _INSTEAD:
        if found := re.search(pattern, words):
            return found.expand(instead)
    kept = [part.strip() for part in re.split(r"; |, or |, | or ", words) if part.strip() and not of_terminal(part)]
    if kept and not of_terminal(rejoined := ", or ".join(kept)):
        return rejoined
    return next(remedy for kind, remedy in _OF_KIND.items() if isinstance(err, kind))
