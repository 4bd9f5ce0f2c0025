"""visprobe: what did post-training do to the vision encoder of a multimodal LLM?"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Look", "Options", "align", "compare", "gradcam", "imagenet", "load_encoder", "measure", "probe", "read_report",
    "robust", "segment", "swap", "train", "trajectory",
]  # fmt: skip

if TYPE_CHECKING:
    from visprobe.encoders.load import load_encoder
    from visprobe.report.compare import compare
    from visprobe.report.gradcam import Look, gradcam
    from visprobe.report.measure import measure
    from visprobe.report.measurement import Options, read_report
    from visprobe.report.questions import align, imagenet, probe, robust, segment
    from visprobe.report.swap import swap
    from visprobe.report.train import train
    from visprobe.report.trajectory import trajectory

_HOME = {
    "load_encoder": "visprobe.encoders.load",
    "compare": "visprobe.report.compare",
    "measure": "visprobe.report.measure",
    **dict.fromkeys(("Options", "read_report"), "visprobe.report.measurement"),
    **dict.fromkeys(("align", "imagenet", "probe", "robust", "segment"), "visprobe.report.questions"),
    **dict.fromkeys(("Look", "gradcam"), "visprobe.report.gradcam"),
    "swap": "visprobe.report.swap",
    "train": "visprobe.report.train",
    "trajectory": "visprobe.report.trajectory",
}


def __dir__() -> list[str]:
    """What completion offers, loaded or not."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Import on first use: `import visprobe` alone loads no torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'visprobe' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
