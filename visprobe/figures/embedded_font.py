"""Embedding of a figure's font in its SVG file, cut to the letters used, so that it looks alike on every machine."""

from __future__ import annotations

import base64
import io
import re
from functools import cache
from html import unescape

from fontTools import subset
from fontTools.ttLib import TTFont
from matplotlib.font_manager import FontProperties, findfont

_FAMILY = "DejaVu Sans"
_TEXT = re.compile(r'<text style="([^"]*)"[^>]*>([^<]*)</text>')
# Every subset holds these, the signs that figures use: most figures then share one, which is made once.
_LETTERS = "".join(map(chr, range(32, 127))) + "−–·×±≤≥Δ‖…→⁻⁰¹²³⁴⁵⁶⁷⁸⁹"
_FACES = {"": ("normal", "normal"), "bold": ("normal", "bold"), "italic": ("italic", "normal")}


def with_font(svg: str) -> str:
    """Return `svg` with a font of the glyphs of its texts, which its texts name.

    Texts stay texts, for search, readers and editors. A page that inlines the figure leaves the font out.
    """
    used: dict[str, set[str]] = {}
    for shape, text in _TEXT.findall(svg):
        face = "bold" if re.search(r"\b(bold|700)\b", shape) else "italic" if "italic" in shape else ""
        used.setdefault(face, set(_LETTERS)).update(unescape(text))
    rules = "".join(_rule(face, "".join(sorted(letters))) for face, letters in sorted(used.items()))
    return svg.replace("</defs>", f'<style type="text/css">{rules}</style>\n </defs>', 1) if rules else svg


@cache
def _rule(face: str, letters: str) -> str:
    style, weight = _FACES[face]
    path = findfont(FontProperties(family=_FAMILY, style="italic" if face == "italic" else "normal", weight=weight))
    options = subset.Options(flavor="woff", hinting=False, layout_features=["kern"], notdef_outline=True)
    options.drop_tables += ["FFTM"]  # timestamps of FontForge, which would change the bytes
    font = TTFont(path, recalcTimestamp=False)
    cut = subset.Subsetter(options)
    cut.populate(text=letters)
    cut.subset(font)
    font.flavor = "woff"
    made = io.BytesIO()
    font.save(made)
    data = base64.b64encode(made.getvalue()).decode()
    return (
        f"@font-face{{font-family:'{_FAMILY}';font-style:{style};font-weight:{weight};"
        f"src:url(data:font/woff;base64,{data}) format('woff')}}"
    )
