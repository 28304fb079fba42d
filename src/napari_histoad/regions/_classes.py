"""The meaning of an outline's class: normal, anomalous, ignored, without a class, or unknown.

A class that is not understood never counts as normal: a detector would be trained on lesions without anyone noticing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Meaning = Literal["normal", "anomalous", "ignored", "unknown", "unclassed"]

NORMAL_NAMES = frozenset({"normal", "benign", "healthy"})
"""Class names, in lower case, that mean normal tissue. "Negative" is not among them: it is about a stain."""

UNREADABLE = "?"
"""The class given to an outline whose stated class cannot be parsed."""

_NORMAL = re.compile(rf"({'|'.join(sorted(NORMAL_NAMES))})( tissues?)?")
_IGNORED = re.compile(r".*\*|ignored?|excluded?")
# Components of derived classes: "Tumor: Negative" is tumour, "Normal: CD3+" is normal. Without letters: intensities (1+).
_STAINING = re.compile(r"negative|positive|[\W\d_]*|[a-z]{0,5}\d+\w* ?[+-]|(er|pr|ar) ?[+-]|low|moderate|medium|high|weak|strong")
_UNSURE = re.compile(r"unsure|uncertain|unknown|unclear|doubtful|unclassified|unlabell?ed|undefined|none|null|nan|n/?a")
_DISEASE = r"tumou?r\w*|cancer\w*|neoplas\w*|malign\w*|lesion\w*|diseased?|abnormal\w*|anomal\w*|patholog\w*"
_DENIED = re.compile(rf"\b(non?|not|without|free of)( an?y?)? ({_DISEASE})|\b({_DISEASE}) free\b")
_ALMOST_NORMAL = re.compile(r"\b(normal|benign|healthy)\b")
_OTHERWISE = re.compile(
    rf"\b({_DISEASE}|\w*carcinom\w*|\w*adenom\w*|\w*sarcom\w*|\w*lymphom\w*|\w*melanom\w*|\w*gliom\w*|\w*blastom\w*"
    r"|metasta\w*|necro\w*|\w*dysplas\w*|\w*hyperplas\w*|\w*metaplas\w*|atyp\w*|inflam\w*|\w*itis|fibros\w*|invasi\w*|in situ"
    r"|[dl]cis|micrometastas\w*|itc|art[ei]fact\w*|blur\w*|folds?|not|non|no|without|suspicious|suspect\w*)\b"
)
_CLASS_KEYS = ("classification", "class", "classname", "label", "labelname", "category", "group")
# Properties that say nothing about the tissue of an outline without a class; any other text may.
_NEUTRAL = re.compile(
    r"name|type|objecttype|(is)?locked|isellipse|ismissing|istmacore|(is)?visible|measurements?|metadata|plane|colou?r(rgb)?|"
    r"(stroke|fill|marker|line|edge|face).*|opacity|id|uuid|guid|fid|objectid|index|order|number|area.*|perimeter.*|length.*|"
    r"author|user(name)?|creator|annotator|owner|(created|updated|modified).*|date.*|time.*|version|source|(file|image|slide).*"
)
_SHAPES = frozenset({"polygon", "multipolygon", "rectangle", "ellipse", "freehand", "polyline", "spline", "roi", "annotation"})
_OF_CLASS = re.compile(r"class|label|categor|grade|tissue|diagnos|group|kind|type")


def class_meaning(name: str) -> Meaning:
    """Return the meaning of a class for the tissue.

    Parameters
    ----------
    name : str
        A class, or a derived class whose components are joined by colons (``"Normal: CD3+"``).

    Returns
    -------
    str
        ``"normal"`` if a component means normal and none contradicts it; ``"ignored"`` for QuPath's classes that end in ``*``
        and for Ignore; ``"unclassed"`` for an empty name; ``"unknown"`` if components contradict each other or none is about
        the tissue ("Negative", "Unsure", "1", "Normal-like"); ``"anomalous"`` for all others.

    Examples
    --------
    >>> class_meaning("Normal: CD3+"), class_meaning("Tumor"), class_meaning("Unsure")
    ('normal', 'anomalous', 'unknown')
    """
    parts = [re.sub(r"[\s_-]+(?=\w)", " ", part.strip().casefold()) for part in name.split(":")]
    parts = [part for part in parts if part]
    if not parts:
        return "unclassed"
    if any(_IGNORED.fullmatch(part) for part in parts):
        return "ignored"
    if any(_NORMAL.fullmatch(part) for part in parts):
        contradicted = any(_OTHERWISE.search(part) or _UNSURE.fullmatch(part) for part in parts)
        return "unknown" if contradicted else "normal"
    vague = (_STAINING.fullmatch, _UNSURE.fullmatch, _DENIED.search, _ALMOST_NORMAL.search)
    if parts == ["positive"] or not all(any(says(part) for says in vague) for part in parts):
        return "anomalous"
    return "unknown"


def is_area_of_interest(name: str) -> bool:
    """Return whether a class is QuPath's ``Region*``, which marks an area to analyse and says nothing about its tissue."""
    return any(part.strip().casefold() == "region*" for part in name.split(":")) and "ignore" not in name.casefold()


def class_of(properties: Mapping[str, Any]) -> str:
    """Return the class stated by the properties of a GeoJSON feature: components joined by ": "; "" if none is stated.

    QuPath writes ``{"classification": {"name": …}}``, with ``names`` for a derived class, before 0.3 with ``parentClass``;
    other programs write a text, a number or a list, or use another key. Without a class, the outline's own name is used.
    The class is `UNREADABLE` if it cannot be parsed, or if there is none but another property is a text that may be one.
    """
    known = {re.sub(r"[\s_-]", "", str(key)).casefold(): value for key, value in properties.items()}
    for key in (*_CLASS_KEYS, "name"):
        parts = _components(known.get(key))
        if parts is None:
            return UNREADABLE
        if parts:
            return ": ".join(parts)
    return UNREADABLE if any(_may_be_a_class(key, value) for key, value in known.items() if key not in _CLASS_KEYS) else ""


def _components(value: Any) -> list[str] | None:
    """Return the components of a class, or None if it cannot be parsed."""
    if value is None:
        return []
    if isinstance(value, str):
        return [part for raw in value.split(":") if (part := raw.strip())]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return [f"{value:g}"]
    if isinstance(value, dict):
        keys = ("parentClass", "name", "names", "value")
        if value and not any(key in value for key in keys):
            return None
        value = [value.get(key) for key in keys]
    if not isinstance(value, list):
        return None
    found: dict[str, str] = {}
    for item in value:
        parts = _components(item)
        if parts is None:
            return None
        for part in parts:
            found.setdefault(part.casefold(), part)
    return list(found.values())


def _may_be_a_class(key: str, value: Any) -> bool:
    if value is None or value in ("", [], {}, False):
        return False
    if key == "type":
        return not isinstance(value, str) or value.casefold() not in _SHAPES
    if isinstance(value, int | float):
        return bool(_OF_CLASS.search(key)) and not _NEUTRAL.fullmatch(key)
    return not _NEUTRAL.fullmatch(key)
