"""How probes are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from visprobe.metrics.classifiers.label_draws import PER_CLASS


@dataclass(frozen=True)
class How:
    """How probes are made.

    Attributes:
        targets: "classes", "labels", "numbers", the name of one target, or "auto": classes where there are some.
        sites: Where the language model reads, or at every site.
        per_class: How many images of each class few-label probes see.
        seeds: How many draws of these.
    """

    targets: str = "auto"
    sites: Literal["read", "all"] = "read"
    per_class: tuple[int, ...] = PER_CLASS
    seeds: int = 5
