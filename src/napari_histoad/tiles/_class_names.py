"""Which class names and labels mean normal tissue."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Collection

ALL_TILES = "all-tiles"
"""Given instead of a class name: all tiles are normal, whatever the names of their folders."""
_NEGATED = "(?:non|no|not|un|without|free)"
_ANOMALY = (
    r"(?:tumou?rs?|tumou?rous|tumou?ral|cancers?|cancerous|carcinomas?|adenocarcinomas?|malignan(?:t|cy)|metasta(?:sis|ses|tic)"
    r"|neoplas(?:m|ms|ia|tic)|lesions?|lesional|anomal(?:y|ies|ous)|abnormal(?:ity|ities)?|defect(?:s|ive)?|diseased?|infected"
    r"|parasitized|patholog(?:y|ic|ical)|lymphomas?|melanomas?|sarcomas?|idc|ilc|dcis|oscc|scc|dysplas(?:ia|tic)|necro(?:sis|tic)"
    r"|positives?|pos|bad|broken|outliers?)"
)
_NORMAL = re.compile(
    rf"normals?|norm|benign|healthy|negatives?|neg|good|ok|inliers?|uninfected|{_NEGATED}{_ANOMALY}"
    rf"|{_ANOMALY}(?:{_NEGATED}|negative)"
)
_ABNORMAL = re.compile(rf"{_ANOMALY}|tum|mal|nonnormal|notnormal|unhealthy|nonbenign|notgood|unwell")
_PREFIXES = ("class", "label")
_OPPOSITES = {"negative", "negatives", "neg"}, {"positive", "positives", "pos"}
_FILLERS = {
    "tissue",
    "tissues",
    "mucosa",
    "tile",
    "tiles",
    "patch",
    "patches",
    "image",
    "images",
    "cells",
    "cell",
    "case",
    "slide",
    "window",
    "windows",
    "patient",
    "patients",
}

Kind = Literal["normal", "anomalous", ""]


def words_of(name: str) -> list[str]:
    """Return the words of a name in lower case, without numbers."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return [word.casefold() for word in re.findall(r"[^\W\d_]+", apart)]


def kind_of(name: str) -> Kind:
    """Return the meaning of a class name: normal, anomalous, or unknown.

    Numbers, as in ``0_normal`` or ``normal_012``, are ignored. A name with both negative and positive in it is unknown.
    """
    words = [word for word in words_of(name) if word not in _FILLERS and word not in _PREFIXES]
    joined = "".join(words)
    if not words:
        return ""
    if _NORMAL.fullmatch(joined):
        return "normal"
    if _OPPOSITES[0] & set(words) and _OPPOSITES[1] & set(words):
        return ""  # as a negative part of a positive whole
    if _ABNORMAL.fullmatch(joined) or any(_ABNORMAL.fullmatch(word) for word in words):
        return "anomalous"
    return "normal" if all(_NORMAL.fullmatch(word) for word in words) else ""


def class_of_label(text: str, normal: Collection[str] = ()) -> int | None:
    """Return 0 for a label that means normal, another number for one that does not, None for an unknown one.

    Labels are such as 0, 1, 0.0, True, normal or tumour; if the user declares some ``normal``, all others are anomalous.
    """
    word = text.strip().casefold()
    if normal:
        return 0 if word in {name.casefold() for name in normal} else 1
    if word in ("true", "yes"):
        return 1
    if word in ("false", "no"):
        return 0
    try:
        value = float(word)
    except ValueError:
        return 0 if kind_of(word) == "normal" else 1 if words_of(word) else None
    return int(value) if value >= 0 and value.is_integer() else None
