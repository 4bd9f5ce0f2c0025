"""Text that fits its place whatever a checkpoint is called, and numbers short enough for maps."""

from __future__ import annotations

from functools import cache

from matplotlib.font_manager import findfont, get_font

from visprobe.figures.labels import shorten
from visprobe.io.inert import escape_control_characters

_BREAKS = "-_/. :@"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def fitted(text: str, points: float, size: float) -> str:
    """Shorten `text` in the middle until it is at most `points` wide at font size `size`."""
    shown = escape_control_characters(text)
    length = len(shown)
    while length > 2 and width_of(shorten(shown, length)) * size > points:
        length -= 1
    return shorten(shown, length)


def in_two_lines(text: str, points: float, size: float) -> str:
    """Break `text` into two lines if it exceeds `points`, at the end of a word if possible."""
    shown = escape_control_characters(text)
    if width_of(shown) * size <= points:
        return shown
    fits = max((i for i in range(1, len(shown)) if width_of(shown[:i]) * size <= points), default=1)
    at = max((i for i in range(max(2, fits // 2), fits + 1) if shown[i - 1] in _BREAKS), default=fits)
    return f"{shown[:at].rstrip()}\n{fitted(shown[at:].lstrip(), points, size)}"


def short_number(value: float, digits: int = 3) -> str:
    """Format `value` with so many digits: "−0.0120", "1.20·10⁻⁵"."""
    if value == 0:
        return "0"
    mantissa, power = f"{value:.{digits - 1}e}".split("e")
    if -4 < int(power) < 5:
        text = f"{value:#.{digits}g}".rstrip(".") if int(power) < digits else f"{value:.0f}"
    else:
        text = f"{mantissa}·10{str(int(power)).translate(_SUPERSCRIPT)}"
    return text.replace("-", "−")


def width_of(text: str) -> float:
    """Return the width of `text` in ems of the figures' font."""
    return sum(map(_advance, text))


@cache
def _advance(character: str) -> float:
    """Return the width of a character in ems; 1 where the font lacks it, as for most scripts that it lacks."""
    font = get_font(findfont("DejaVu Sans"))
    font.set_size(100, 72)
    if not font.get_char_index(ord(character)):
        return 1.0
    return float(font.load_char(ord(character)).linearHoriAdvance) / 65536 / 100
