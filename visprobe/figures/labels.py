"""Names as a reader may see them: nothing invisible, nothing longer than its place."""

from __future__ import annotations

import re
import unicodedata

_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_BLOCK = re.compile(r"block_0*(\d+)")
_SITES = {"final_norm": "norm", "embeddings": "embed.", "projected": "projected", "projector": "projector"}


def visible(text: str) -> str:
    r"""`text` with every control character, bidirectional mark and lone surrogate written out as an escape.

    Names of files, classes and checkpoints come from outside: an escape sequence could repaint a terminal, a
    right-to-left mark could reverse a line, a lone surrogate cannot be written as UTF-8.

    Args:
        text: Any text.

    Returns:
        Printable text on one line, for example `a\u202eb` with the mark spelled out in six characters.
    """
    return "".join(_escape(c) if unicodedata.category(c) in _UNSEEN else c for c in text)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def shorten(text: str, length: int = 24) -> str:
    """`visible(text)` in at most `length` characters, with an ellipsis in the middle (both ends tell names apart)."""
    shown = visible(text)
    if len(shown) <= length:
        return shown
    head = (length - 1) // 2
    return f"{shown[:head]}…{shown[head + 1 - length :]}"


def block_number(site: str) -> int | None:
    """The number of a block site ("block_03" gives 3), None for every other site."""
    match = _BLOCK.fullmatch(site)
    return int(match[1]) if match else None


def site_label(site: str) -> str:
    """A site or weight group as an axis shows it: "3" for "block_03", "norm" for "final_norm"."""
    number = block_number(site)
    return str(number) if number is not None else _SITES.get(site, shorten(site, 12))


def class_label(name: str) -> str:
    """What a weight does, as an axis shows it: "attn. q" for "attention_q"."""
    return name.replace("attention_", "attn. ").replace("_embedding", " embed.").replace("_", " ").replace("mlp", "MLP")
