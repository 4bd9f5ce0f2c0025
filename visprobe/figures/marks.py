"""Tooltips of a figure's marks: titles inside the SVG that say what each mark stands for."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from weakref import WeakKeyDictionary
from xml.sax.saxutils import escape

from matplotlib.artist import Artist
from matplotlib.figure import Figure

from visprobe.io.inert import escape_control_characters
from visprobe.results.result import Estimate, Row

_TOLD: WeakKeyDictionary[Artist, list[str]] = WeakKeyDictionary()
# A group as matplotlib writes it, up to the first end tag with the indentation of its start.
_GROUP = re.compile(r'^( *)<g id="marks(\d+)">\n(.*?)^\1</g>$', re.DOTALL | re.MULTILINE)
_PART = {"use": re.compile(r"(<use [^>]*?)/>"), "path": re.compile(r"(<path [^>]*?)/>")}
_NEAR_ONE = ("CKA", "cosine", "similarity", "correlation", "R²")  # compared by their distance from 1
_MINUS = "\N{MINUS SIGN}"


def add_tooltips(artist: Artist, texts: Iterable[str]) -> None:
    """Attach tooltips to the marks of an artist.

    Args:
        artist: Points (`axes.lines[-1]`), or the cells of a map (`axes.collections[0]`), row by row.
        texts: One text per mark, in order; for a line without marks they are told together.
    """
    _TOLD[artist] = [escape_control_characters(text) for text in texts]


def of_rows(rows: Iterable[Row]) -> Iterator[str]:
    """Yield the tooltip of each row."""
    for row in rows:
        difference = row.role == "difference"
        name = f"{row.checkpoint} {_MINUS} {row.reference}" if difference else row.checkpoint
        yield text(f"{name}, {row.site}, {row.measure.replace('_', ' ')}", row.estimate, difference)


def at_sites(name: str, sites: Sequence[str], estimates: Sequence[Estimate], difference: bool = False) -> Iterator[str]:
    """Yield the tooltips of one checkpoint's marks, a site each; `difference` is as in `text`."""
    for site, estimate in zip(sites, estimates, strict=True):
        yield text(f"{name}, {site}", estimate, difference)


def text(what: str, estimate: Estimate, difference: bool = False) -> str:
    """Format an estimate in full: "sft, block_03: CKA 0.99731 [0.99602, 0.99801], n = 1,000 (…)".

    Args:
        what: Name of what is estimated.
        estimate: Value with its interval.
        difference: True for a paired difference: shares are then in percentage points, with their sign.
    """
    fraction, sign = estimate.unit == "fraction", "+" if difference else ""
    form = f".{_decimals(estimate.value)}f" if estimate.unit in _NEAR_ONE else ".4g"

    def shown(value: float) -> str:
        return (f"{100 * value:{sign}.2f}" if fraction else f"{value:{sign}{form}}").replace("-", _MINUS)

    unit = " percentage points" if difference else " %"
    number = shown(estimate.value) + unit if fraction else f"{estimate.unit} {shown(estimate.value)}"
    interval = f" [{shown(estimate.low)}, {shown(estimate.high)}]" if estimate.low != estimate.high else ""
    return f"{what}: {number}{interval}, n = {estimate.n:,} ({estimate.method})"


def _decimals(value: float) -> int:
    """Return the decimals that show three digits of the distance to the nearer of 0 and 1."""
    distance = min(abs(value), abs(1 - value))
    return max(4, min(10, 2 - math.floor(math.log10(distance)))) if distance else 4


def name_marks(figure: Figure) -> dict[str, list[str]]:
    """Give the artists that have tooltips an id in the SVG; return the tooltips by id."""
    found = {}
    for number, artist in enumerate(a for a in figure.findobj() if a in _TOLD):
        artist.set_gid(f"marks{number}")
        found[f"marks{number}"] = _TOLD[artist]
    return found


def with_titles(svg: str, told: dict[str, list[str]]) -> str:
    """Return `svg` with a title in each mark; groups that have not one text per mark stay untouched.

    Args:
        svg: SVG that matplotlib wrote after `name_marks`.
        told: Tooltips by id, from `name_marks`.
    """

    def titled(group: re.Match[str]) -> str:
        texts = told.get(f"marks{group[2]}", [])
        kind = "use" if "<use " in group[3] else "path"
        count = 0 if kind == "path" and "<defs>" in group[3] else len(_PART[kind].findall(group[3]))
        shown = ["\n".join(texts)] if kind == "path" and count == 1 and texts else texts
        if len(shown) != count:
            return group[0]
        each = iter(shown)
        return _PART[kind].sub(lambda part: f"{part[1]}><title>{escape(next(each))}</title></{kind}>", group[0])

    return _GROUP.sub(titled, svg)
