"""Marks of planted baselines, by the names that visprobe gives them."""

import re
from typing import Literal

from visprobe.encoders.baseline import Baseline
from visprobe.results.result import BaselineKind

_KINDS: dict[str, Literal["rounding", "arithmetic", "recipe"]] = {
    "bfloat16": "rounding", "float32": "arithmetic", "same recipe": "recipe"
}  # fmt: skip


def mark(name: str, of: str = "base") -> Baseline | None:
    """Return the mark of "untrained", "untrained (x)", "x (bfloat16)", "x (float32)" or "x (same recipe)"."""
    if found := re.fullmatch(r"untrained(?: \((.+)\))?", name):
        return Baseline("untrained", found[1] or of)
    if found := re.fullmatch(r"(.+) \((bfloat16|float32|same recipe)\)", name):
        return Baseline(_KINDS[found[2]], found[1])
    return None


def kind(name: str, role: str = "baseline") -> BaselineKind | None:
    """Return the kind of the baseline `name`; None for a row of another role."""
    if role != "baseline":
        return None
    found = mark(name)
    others: dict[str, BaselineKind] = {"blind": "blind", "chance": "chance"}
    return found.kind if found else others.get(name, "control")
