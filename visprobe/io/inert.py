"""Escaping of text from outside, so that it steers no terminal and no spreadsheet runs it."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_FORMULA_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # in some languages the wide ones begin a formula too

_MARKS = re.compile(r"[\\`*\[\]#|~$!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")  # an underscore within a word is none


def escape_control_characters(text: str) -> str:
    r"""Escape every control character, bidirectional mark and lone surrogate in `text`.

    Names of files, classes and checkpoints come from outside: an escape sequence could repaint a terminal, a
    right-to-left mark could reverse a line, a lone surrogate cannot be written as UTF-8.

    Args:
        text: Any text.

    Returns:
        Printable text on one line, for example `a\u202eb` with the mark spelled out in six characters.
    """
    if text.isprintable():  # a fast path that nearly every text takes
        return text
    return "".join(_escape(c) if unicodedata.category(c) in _UNSEEN else c for c in text)


def csv_safe(cell: Any) -> Any:
    """Escape a `cell` of a CSV file, with an apostrophe before text that a spreadsheet would run as a formula."""
    if not isinstance(cell, str):
        return cell
    safe = escape_control_characters(cell)
    return f"'{safe}" if cell.lstrip().startswith(_FORMULA_STARTS) else safe


def escape_markdown(text: str) -> str:
    """Escape `text` so that Markdown, and HTML in it, shows it as it is on one line: no link, heading, tag or code."""
    escaped = _MARKS.sub(r"\\\g<0>", escape_control_characters(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
