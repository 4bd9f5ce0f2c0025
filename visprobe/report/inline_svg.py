"""An SVG file as a part of an HTML page: no global style, no id that another figure also has."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_LEFT_OUT = {f"{{{_SVG}}}{tag}" for tag in ("metadata", "style", "script", "foreignObject")}
_LARGEST, _SMALLEST = 1.9, 1.15  # pixels per point: text of 7 pt is never above 13 px or below 8 px
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def inline_svg(svg: str, prefix: str, label: str, hover: Mapping[str, Sequence[str]] | None = None) -> str:
    """`svg` ready to stand inside a page.

    Args:
        svg: A whole SVG file.
        prefix: Put before every id, so that two figures on one page do not share one.
        label: What the figure shows, for readers who do not see it.
        hover: Id of a group to what is told of its parts, in order, to readers who point at them.

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
    for name, texts in (hover or {}).items():
        _add_titles(root, f"{prefix}-{name}", texts)
    root.set("role", "img")
    root.set("aria-label", label)
    width = float(root.get("width", "0").removesuffix("pt"))
    sizes = f"max-width: {width * _LARGEST:.0f}px; --legible: {width * _SMALLEST:.0f}px"
    root.set("style", f"stroke-linejoin: round; stroke-linecap: butt; {sizes}")  # the first two as matplotlib's own CSS
    return ElementTree.tostring(root, encoding="unicode")


def _add_titles(root: ElementTree.Element, group: str, texts: Sequence[str]) -> None:
    """Give each part of a group its text; a group whose parts are not as many keeps silent rather than mislead."""
    parts = list(root.find(f".//*[@id='{group}']") or ())
    if len(parts) == len(texts):
        for part, text in zip(parts, texts, strict=True):
            ElementTree.SubElement(part, f"{{{_SVG}}}title").text = text


def _prefixed(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return f"{prefix}-{value}"
    if name in ("href", f"{{{_XLINK}}}href") and value.startswith("#"):
        return f"#{prefix}-{value[1:]}"
    return _REFERENCE.sub(lambda match: f"url(#{prefix}-{match[1]})", value)
