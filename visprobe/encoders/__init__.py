"""Vision encoders: from a checkpoint folder to tower, projector and image processor."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visprobe.encoders.encoder import Site, VisionEncoder
    from visprobe.encoders.load import load_encoder
    from visprobe.encoders.settings import Provenance

__all__ = ["EMBEDDING", "HEADS", "Provenance", "Site", "VisionEncoder", "load_encoder"]
EMBEDDING = "embedding"  # the tower's own pooled output, asked for as a site is
HEADS = "heads"  # begins the names of the sites of attention heads
_HOME = {"Provenance": "settings", "Site": "encoder", "VisionEncoder": "encoder", "load_encoder": "load"}


def __getattr__(name: str) -> Any:
    """Import on first use: analyses that only name these two sites wait for no model classes."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
