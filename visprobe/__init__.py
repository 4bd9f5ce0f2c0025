"""visprobe: what did post-training do to the vision encoder of a multimodal LLM?"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Options", "compare", "imagenet", "load_encoder"]

if TYPE_CHECKING:
    from visprobe.encoders.load import load_encoder
    from visprobe.report.compare import compare
    from visprobe.report.measure import imagenet
    from visprobe.report.measurement import Options

_HOME = {
    "load_encoder": "visprobe.encoders.load",
    "compare": "visprobe.report.compare",
    "imagenet": "visprobe.report.measure",
    "Options": "visprobe.report.measurement",
}


def __getattr__(name: str) -> Any:
    """Import on first use: `import visprobe` alone loads no torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'visprobe' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
