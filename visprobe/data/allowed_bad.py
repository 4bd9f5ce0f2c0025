"""Number of unusable items that is let pass, by itself: the command line asks before Pillow and numpy are imported."""

from __future__ import annotations

import math
import re

from visprobe.errors import UsageError


def allowed_bad(text: str, total: int, *, round_up: bool = False) -> int:
    """Return how many of `total` items may be bad, from "N" or "P%".

    Args:
        text: The number or the share.
        total: Number of items.
        round_up: Whether to round a share up, so that one of a few may be bad, instead of down.

    Raises:
        UsageError: If the text is neither a number nor a percentage.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", text.strip())
    if not match or (not match[2] and "." in match[1]):
        raise UsageError(f"--max-bad {text!r} is neither a number nor a percentage", hint="Write 20 or 1%.")
    share = float(match[1]) * total / 100
    return (math.ceil(share) if round_up else int(share)) if match[2] else int(match[1])
