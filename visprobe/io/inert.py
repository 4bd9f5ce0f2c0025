"""Text from outside made inert: it steers no terminal, and no spreadsheet runs it."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_FORMULA_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # the wide ones too begin a formula in some languages

_MARKS = re.compile(r"[\\`*\[\]#|~$!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")  # an underscore within a word is none


def escape_control_characters(text: str) -> str:
    r"""`text` with every control character, bidirectional mark and lone surrogate written out as an escape.

    Names of files, classes and checkpoints come from outside: an escape sequence could repaint a terminal, a
    right-to-left mark could reverse a line, a lone surrogate cannot be written as UTF-8.

    Args:
        text: Any text.

    Returns:
        Printable text on one line, for example `a\u202eb` with the mark spelled out in six characters.
    """
    if text.isprintable():  # nearly every text, and told without looking at each character here
        return text
    return "".join(_escape(c) if unicodedata.category(c) in _UNSEEN else c for c in text)


def csv_safe(cell: Any) -> Any:
    """`cell` of a CSV file: text is made visible, and what a spreadsheet would run as a formula gets an apostrophe."""
    if not isinstance(cell, str):
        return cell
    safe = escape_control_characters(cell)
    return f"'{safe}" if cell.lstrip().startswith(_FORMULA_STARTS) else safe


def escape_markdown(text: str) -> str:
    """`text` as Markdown, and HTML in it, that shows it as it is on one line: no link, image, heading, tag or code."""
    escaped = _MARKS.sub(r"\\\g<0>", escape_control_characters(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
