"""MLCD: CLIP's tower with rotary positions."""

from visprobe.encoders.structure.family import Family

TOWERS = (
    Family(
        name="mlcd",
        model_types=("mlcd_vision_model", "mlcd"),
        tower_class="MLCDVisionModel",
        norm="post_layernorm",
        pools=True,
        has_cls=True,
        outer_prefixes=("vision_model.",),
        processor="CLIPImageProcessorPil",
    ),
)
