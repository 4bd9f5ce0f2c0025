"""Baselines made of encoders: what a number of a checkpoint is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Baseline:
    """Mark of an encoder that is no checkpoint of the user's but a baseline for one.

    Attributes:
        kind: "untrained" (the same tower with fresh weights), "rounding" (weights rounded to bfloat16), "arithmetic"
            (the same weights run in float32) or "recipe" (another run of the same recipe).
        of: Name of the checkpoint that it is a baseline for.
    """

    kind: Literal["untrained", "rounding", "arithmetic", "recipe"]
    of: str
