"""Options of the linear probes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from visprobe.metrics.classifiers.label_draws import PER_CLASS


@dataclass(frozen=True)
class ProbeConfig:
    """Options of the linear probes.

    Attributes:
        targets: "classes", "labels", "numbers", the name of one target, or "auto": classes where there are some.
        sites: "read" for the sites that matter, or "all".
        per_class: Numbers of images of each class that few-label probes are fitted to.
        seeds: Number of draws of these.
    """

    targets: str = "auto"
    sites: Literal["read", "all"] = "read"
    per_class: tuple[int, ...] = PER_CLASS
    seeds: int = 5
