"""Names fit for display: nothing invisible, nothing longer than its place."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import takewhile

from visprobe.io.inert import escape_control_characters

_BLOCK = re.compile(r"block_0*(\d+)")
_SITES = {"final_norm": "norm", "embeddings": "embed.", "projected": "projected", "projector": "projector"}


def shorten(text: str, length: int = 24) -> str:
    """Return `text` on one line in at most `length` characters, cut in the middle: both ends tell names apart."""
    shown = escape_control_characters(text)
    if len(shown) <= length:
        return shown
    head = (length - 1) // 2
    return f"{shown[:head]}…{shown[head + 1 - length :]}"


def unique_short_labels(names: Sequence[str], short: Callable[[str], str] | None = None) -> list[str]:
    """Shorten `names`, keeping different names different where possible.

    Where those that would look alike begin alike, that beginning is left out instead of their middles.

    Args:
        names: Any names.
        short: Shortens one name; `shorten` if None.
    """
    short = short or shorten
    found = [short(name) for name in names]
    if len(set(found)) == len(set(names)):
        return found
    alike = [found.count(one) > 1 for one in found]
    letters = zip(*(name for name, one in zip(names, alike, strict=True) if one), strict=False)
    same = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, letters))
    return [short(f"…{name[same:]}") if one and same else short(name) for name, one in zip(names, alike, strict=True)]


def block_number(site: str) -> int | None:
    """Return the number of a block site ("block_03" gives 3), None for every other site."""
    match = _BLOCK.fullmatch(site)
    return int(match[1]) if match else None


def on_two_lines(text: str) -> str:
    """Break `text` at its middle space: "read by" above "the LLM"."""
    words = text.split()
    half = (len(words) + 1) // 2
    return "\n".join(" ".join(part) for part in (words[:half], words[half:]) if part)


def site_label(site: str) -> str:
    """Return the axis label of a site or weight group: "3" for "block_03", "norm" for "final_norm"."""
    number = block_number(site)
    return str(number) if number is not None else _SITES.get(site, shorten(site, 12))


def class_label(name: str) -> str:
    """Return the axis label of a class of weights: "attn. q" for "attention_q"."""
    return name.replace("attention_", "attn. ").replace("_embedding", " embed.").replace("_", " ").replace("mlp", "MLP")
