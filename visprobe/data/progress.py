"""Type of progress callbacks."""

from __future__ import annotations

from collections.abc import Callable

# Called with the stage, the number done and the total.
Progress = Callable[[str, int, int], None]
