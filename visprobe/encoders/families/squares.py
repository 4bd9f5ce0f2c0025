"""Towers that read one square image: SigLIP, CLIP, DINOv2, ViT."""

from visprobe.encoders.family import Family

TOWERS = (
    Family(
        name="siglip",
        model_types=("siglip_vision_model", "siglip"),
        tower_class="SiglipVisionModel",
        norm="post_layernorm",
        norm_on_tokens=True,
        head="head",
        outer_prefixes=("vision_model.",),
        processor="SiglipImageProcessorPil",
    ),
    Family(
        name="clip",
        model_types=("clip_vision_model", "clip"),
        tower_class="CLIPVisionModel",
        norm="post_layernorm",
        has_cls=True,
        outer_prefixes=("vision_model.",),
        processor="CLIPImageProcessorPil",
    ),
    Family(
        name="dinov2",
        model_types=("dinov2",),
        tower_class="Dinov2Model",
        blocks=(("encoder.layer", "num_hidden_layers"),),
        norm="layernorm",
        norm_on_tokens=True,
        has_cls=True,
        outer_prefixes=("dinov2.",),
        processor="BitImageProcessorPil",
    ),
    Family(
        name="dinov2_with_registers",
        model_types=("dinov2_with_registers",),
        tower_class="Dinov2WithRegistersModel",
        blocks=(("encoder.layer", "num_hidden_layers"),),
        norm="layernorm",
        norm_on_tokens=True,
        has_cls=True,
        outer_prefixes=("dinov2_with_registers.",),
        processor="BitImageProcessorPil",
    ),
    Family(
        name="vit",
        model_types=("vit",),
        tower_class="ViTModel",
        blocks=(("layers", "num_hidden_layers"),),
        norm="layernorm",
        norm_on_tokens=True,
        head="pooler",
        has_cls=True,
        outer_prefixes=("vit.",),
        processor="ViTImageProcessorPil",
    ),
)
