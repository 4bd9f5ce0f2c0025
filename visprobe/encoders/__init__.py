"""Vision encoders: from a checkpoint folder to tower, projector and image processor."""

from visprobe.encoders.encoder import Site, VisionEncoder
from visprobe.encoders.load import load_encoder
from visprobe.encoders.settings import Provenance

__all__ = ["Provenance", "Site", "VisionEncoder", "load_encoder"]
