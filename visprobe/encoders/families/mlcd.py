"""MLCD: CLIP's tower with rotary positions."""

from visprobe.encoders.families.squares import BASE_VIEWS
from visprobe.encoders.structure.family import Family

ORDER = 1
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
        processors=BASE_VIEWS,
    ),
)
