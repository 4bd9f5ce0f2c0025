"""AIMv2: a ViT with gated MLPs and RMS norms, without a class token; its pooling head is one attention layer."""

from visprobe.encoders.structure.family import Family

TOWERS = (
    Family(
        name="aimv2",
        model_types=("aimv2_vision_model", "aimv2"),
        tower_class="Aimv2VisionModel",
        attention_output="attention.out_proj",
        norm="rms_norm",
        norm_on_tokens=True,
        head="head",
        head_field="use_head",
        pools=True,
        projection="visual_projection",
        text_class="Aimv2TextModel",
        outer_prefixes=("vision_model.",),
        any_size=lambda config: bool(config.is_native),  # its positions are then computed for each image
        processor="CLIPImageProcessorPil",
    ),
)
