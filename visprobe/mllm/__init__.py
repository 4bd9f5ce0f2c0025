"""Multimodal LLMs: loading, rendering of conversations, scoring and generation of answers, and their parts."""

from typing import Literal

Resample = Literal["processor", "bilinear", "bicubic"]  # how images are resized; "processor": as the model's own does
