"""Short names that tell checkpoints apart in tables and figures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from visprobe.analyses.drift.moved import noise_floors
from visprobe.encoders.exchange.swap import parse_swap
from visprobe.errors import UsageError
from visprobe.io.redact import redact

_UNTRAINED = re.compile(r"untrained( \(.*\))?")


def distinct_names(specs: Sequence[str | Path]) -> list[str]:
    """The shortest endings of the paths that tell them apart: folder names, with parents where needed.

    None of them is the name of a floor, whose features would otherwise be taken for those of the checkpoint. In an
    expression of two checkpoints each is shortened.

    Raises:
        UsageError: If two checkpoints are the same, or one cannot be told from the floor of the first.
    """
    whole = [_ending(str(spec), None) for spec in specs]
    if len(set(whole)) < len(whole):
        raise UsageError("the same checkpoint is named twice", hint="Name each checkpoint once.")
    for depth in range(1, max(name.count("/") for name in whole) + 2):
        names = [redact(_ending(str(spec), depth)) for spec in specs]  # told apart as they are shown
        floors = [name for name in names if _UNTRAINED.fullmatch(name) or name in noise_floors(names[0])]
        if len(set(names)) == len(names) and not floors:
            return names
    if floors:
        raise UsageError(f"{floors[0]} is the name of a floor of {names[0]}", hint="Rename that checkpoint's folder.")
    return [f"{name} ({number})" for number, name in enumerate(names, start=1)]  # only secrets tell them apart


def _ending(spec: str, depth: int | None) -> str:
    """The last `depth` parts of the path, or all of them."""
    if swap := parse_swap(spec):
        return f"{_ending(swap.into, depth)}[{swap.parts} <- {_ending(swap.source, depth)}]"
    parts = Path(spec).resolve().parts
    return "/".join(parts[-depth:] if depth else parts)
