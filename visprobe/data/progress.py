"""How anything long says how far it is."""

from __future__ import annotations

from collections.abc import Callable

# What is done, how many of it are done, and how many there are in all.
Progress = Callable[[str, int, int], None]
