"""Conversion of an SVG file into an element of an HTML page, without global style or clashing ids."""

from __future__ import annotations

import re
from xml.etree import ElementTree

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_LEFT_OUT = {f"{{{_SVG}}}{tag}" for tag in ("metadata", "style", "script", "foreignObject")}
_LARGEST, _SMALLEST = 1.9, 1.15  # pixels per point: text of 7 pt is never above 13 px or below 8 px
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def inline_svg(svg: str, prefix: str, label: str) -> str:
    """Return `svg` as an element that can stand inside a page.

    Args:
        svg: A whole SVG file.
        prefix: Put before every id, so that two figures on one page do not share one.
        label: Text of `aria-label`, for screen readers.

    Returns:
        One `<svg>` element without XML declaration, style sheet, metadata or script.
    """
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in [c for c in parent if c.tag in _LEFT_OUT]:
            parent.remove(child)
        for name, value in parent.attrib.items():
            parent.set(name, _prefixed(name, value, prefix))
    root.set("role", "img")
    root.set("aria-label", label)
    width = float(root.get("width", "0").removesuffix("pt"))
    sizes = f"max-width: {width * _LARGEST:.0f}px; --legible: {width * _SMALLEST:.0f}px"
    root.set("style", f"stroke-linejoin: round; stroke-linecap: butt; {sizes}")  # the first two as matplotlib's own CSS
    return ElementTree.tostring(root, encoding="unicode")


def _prefixed(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return f"{prefix}-{value}"
    if name in ("href", f"{{{_XLINK}}}href") and value.startswith("#"):
        return f"#{prefix}-{value[1:]}"
    return _REFERENCE.sub(lambda match: f"url(#{prefix}-{match[1]})", value)
