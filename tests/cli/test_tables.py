"""Tables on terminals: whatever the width, no word is broken or cut."""

import io
import re
import sys

import pytest

from visprobe.cli.output import print_table

COLUMNS = ("checkpoint", "tower", "off path")
LINES = [
    ("checkpoints/sft-7b", "siglip_vision_model, 27 blocks", "block_26, final_norm (15.2M)"),
    ("[bold]odd\x1b[2J", "clip_vision_model, 24 blocks", ""),
]


@pytest.mark.parametrize("width", range(30, 120, 3))
def test_no_word_is_broken(width, monkeypatch):
    out = io.StringIO()
    out.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    print_table("two checkpoints", COLUMNS, LINES)
    assert "\x1b[2J" not in out.getvalue()
    text = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    words = {word for line in (COLUMNS[1:], *LINES) for cell in line for word in re.split(r"[\s,]+", cell)}
    assert {word.replace("\x1b", "\\x1b") for word in words} <= {*re.split(r"[\s,;]+", text), ""}
    assert ("─" in text) == (width >= 18 + 20 + 10 + 10)  # the longest words, and what stands around three columns
