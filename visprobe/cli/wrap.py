"""Lines of a given width in which no number is torn from its interval's other end, its sign or its unit."""

from __future__ import annotations

import re

from rich.cells import cell_len, chop_cells

_TOGETHER = re.compile(r"\[[^\s\[\]]+, [^\s\[\]]+\]|\b[nkp] = \S+|[\d.,]+ %|\d (?:[KMGT]?i?B|s)\b")
_HELD = "\0"  # stands for a space that must stay; `printable` text has none


def words(text: str) -> list[str]:
    """`text` cut where a line may end: "0.9 [0.8, 1.0]" has two words, "n = 100" one."""
    return [
        word.replace(_HELD, " ") for word in _TOGETHER.sub(lambda match: match[0].replace(" ", _HELD), text).split()
    ]


def wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """`text` in lines of at most `width` columns; a word that is longer is cut.

    Args:
        text: Text without control characters.
        width: Columns of a line.
        indent: What each line but the first begins with.
    """
    lines, line = [], ""
    for word in words(text):
        if line.strip() and cell_len(line) + 1 + cell_len(word) > width:
            lines.append(line)
            line = indent
        *full, rest = chop_cells(word, max(width - cell_len(indent), 1)) or [""]
        for part in full:
            if line.strip():
                lines.append(line)
            lines.append((indent if lines else "") + part)
            line = indent
        line += f" {rest}" if line.strip() else rest
    return [*lines, line] if line.strip() or not lines else lines
