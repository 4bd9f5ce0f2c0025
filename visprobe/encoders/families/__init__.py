"""Every family that visprobe reads: one module each, with rows for its towers and its multimodal models."""

from visprobe.encoders.families import (
    dinov3,
    gemma,
    gemma4,
    idefics,
    internvl,
    llava,
    llava_next,
    mlcd,
    mllama,
    pixtral,
    qwen,
    siglip2,
    squares,
)
from visprobe.encoders.structure.family import Family
from visprobe.encoders.structure.model import Model

_MODULES = (squares, mlcd, llava, llava_next, qwen, gemma, idefics, internvl, mllama, siglip2, pixtral, gemma4, dinov3)
TOWERS: tuple[Family, ...] = tuple(row for module in _MODULES for row in getattr(module, "TOWERS", ()))
MODELS: tuple[Model, ...] = tuple(row for module in _MODULES for row in getattr(module, "MODELS", ()))
TOWER_OF = {model_type: family for family in TOWERS for model_type in family.model_types}
MODEL_OF = {model_type: model for model in MODELS for model_type in model.model_types}
