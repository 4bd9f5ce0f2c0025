"""visprobe: what did post-training do to the vision encoder of a multimodal LLM?"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "AttributionConfig", "Options", "align", "compare", "gradcam", "imagenet", "load_encoder", "measure", "probe",
    "read_report", "robust", "segment", "swap", "train", "trajectory",
]  # fmt: skip

if TYPE_CHECKING:
    from visprobe.encoders.load import load_encoder
    from visprobe.pipelines.attribution.run import AttributionConfig, gradcam
    from visprobe.pipelines.compare import compare
    from visprobe.pipelines.measure import measure
    from visprobe.pipelines.measurement import Options, read_report
    from visprobe.pipelines.single import align, imagenet, probe, robust, segment
    from visprobe.pipelines.swap import swap
    from visprobe.pipelines.train import train
    from visprobe.pipelines.trajectory import trajectory

_HOME = {
    "load_encoder": "visprobe.encoders.load",
    "compare": "visprobe.pipelines.compare",
    "measure": "visprobe.pipelines.measure",
    **dict.fromkeys(("Options", "read_report"), "visprobe.pipelines.measurement"),
    **dict.fromkeys(("align", "imagenet", "probe", "robust", "segment"), "visprobe.pipelines.single"),
    **dict.fromkeys(("AttributionConfig", "gradcam"), "visprobe.pipelines.attribution.run"),
    "swap": "visprobe.pipelines.swap",
    "train": "visprobe.pipelines.train",
    "trajectory": "visprobe.pipelines.trajectory",
}


def __dir__() -> list[str]:
    """What completion offers, loaded or not."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Import on first use: `import visprobe` alone loads no torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'visprobe' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
