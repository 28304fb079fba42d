"""Parsing lengths from metadata: units in all spellings, and numbers with a decimal point or comma."""

from __future__ import annotations

import math
import re
import unicodedata

_PREFIXES = (
    "yotta zetta exa peta tera giga mega kilo hecto deca deka  deci centi milli micro micro nano pico femto atto zepto yocto"
)
_SYMBOLS = "Y Z E P T G M k h da da  d c m u μ n p f a z y"
_POWERS = (24, 21, 18, 15, 12, 9, 6, 3, 2, 1, 1, 0, -1, -2, -3, -6, -6, -9, -12, -15, -18, -21, -24)
_SI = {symbol: 10.0**power for symbol, power in zip(_SYMBOLS.split(" "), _POWERS, strict=True)}
_METRE = ("meter", "metre")
_INCH_UM, _FOOT_UM = 25400.0, 304800.0
_WORDS_UM = {
    **{f"{prefix}{word}": 10.0 ** (n + 6) for prefix, n in zip(_PREFIXES.split(" "), _POWERS, strict=True) for word in _METRE},
    **dict.fromkeys(("micron", "μ", "u", "mcm", "um", "μm"), 1.0),
    **dict.fromkeys(("å", "angstrom", "ångström", "angström", "ångstrom"), 1e-4),
    **dict.fromkeys(("in", "inch", "inche", '"'), _INCH_UM),
    **dict.fromkeys(("mil", "thou"), _INCH_UM / 1000),
    **dict.fromkeys(("li", "line"), _INCH_UM / 12),
    **dict.fromkeys(("pt", "point"), _INCH_UM / 72),
    **dict.fromkeys(("ft", "foot", "feet"), _FOOT_UM),
    **dict.fromkeys(("yd", "yard"), 3 * _FOOT_UM),
    **dict.fromkeys(("mi", "mile"), 5280 * _FOOT_UM),
}
"""µm per unit, by the unit's name in lower case and singular."""

_ESCAPED = re.compile(r"\\u([0-9a-f]{4})|\\x([0-9a-f]{2})", re.IGNORECASE)
_NUMBER = re.compile(r"\s*([+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:[eE][+-]?\d+)?)\s*(.*?)\s*", re.DOTALL)


def unit_um(text: str | None) -> float | None:
    """Return the length of a unit in µm, such as 25400.0 for ``inch``; None if it is not a unit of length.

    Accepts both code points of µ and Å, also escaped or doubly encoded; symbols with SI prefixes (Mm is not mm); and names in any
    case, singular or plural.
    """
    if not text:
        return None
    unit = _ESCAPED.sub(lambda found: chr(int(found[1] or found[2], 16)), text)
    unit = unicodedata.normalize("NFKC", unit.replace("Â", "").replace("â„«", "Å")).strip().strip(".")
    if unit.endswith("m") and unit[:-1] in _SI:
        return _SI[unit[:-1]] * 1e6
    word = unit.lower()
    return _WORDS_UM.get(word, _WORDS_UM.get(word.removesuffix("s")))


def length_um(text: object, unit: str | None = "µm") -> float | None:
    """Return a length such as ``0.5``, ``0,5`` or ``500 nm`` in µm, by default in ``unit``; None if it is no positive length."""
    found = _NUMBER.fullmatch(str(text))
    value, factor = (_positive(found[1]), unit_um(found[2] or unit)) if found else (None, None)
    return None if value is None or factor is None else value * factor


def size_um(y: float | None, x: float | None) -> tuple[float, float] | None:
    """Return the size of a pixel (y, x); if one side is unknown, the pixel is taken as square."""
    y, x = y or x, x or y
    return None if y is None or x is None else (y, x)


def _positive(digits: str) -> float | None:
    value = float(digits.replace(",", "."))
    return value if value > 0 and math.isfinite(value) else None
