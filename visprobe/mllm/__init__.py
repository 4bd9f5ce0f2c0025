"""A whole multimodal LLM: loading it, rendering a conversation, scoring and generating answers, its parts."""

from typing import Literal

Resample = Literal["processor", "bilinear", "bicubic"]  # how images are resized; "processor": as the model's own does
