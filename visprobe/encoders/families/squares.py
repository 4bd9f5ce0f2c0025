"""Towers that read one square image: SigLIP, CLIP, DINOv2, ViT, and MLCD, which is CLIP's with rotary positions."""

from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from visprobe.encoders.structure.family import Family

ORDER = 0
# A tower alone may be saved with the processor of an MLLM: that processor to the class that makes its base view.
BASE_VIEWS = {
    "Gemma3ImageProcessor": "Gemma3ImageProcessorPil",
    "LlavaOnevisionImageProcessor": "SiglipImageProcessorPil",
}


def _dinov2(name: str, cls: str) -> Family:
    return Family(
        name=name,
        model_types=(name,),
        tower_class=cls,
        blocks=(("encoder.layer", "num_hidden_layers"),),
        norm="layernorm",
        norm_on_tokens=True,
        pools=True,
        has_cls=True,
        outer_prefixes=(f"{name}.",),
        attention_output="attention.o_proj",
        unread=("embeddings.mask_token",),
        any_size=lambda config: True,
        processor="BitImageProcessorPil",
        processors=BASE_VIEWS,
        processor_fields={"image_mean": IMAGENET_DEFAULT_MEAN, "image_std": IMAGENET_DEFAULT_STD},
    )


TOWERS = (
    Family(
        name="siglip",
        model_types=("siglip_vision_model", "siglip"),
        tower_class="SiglipVisionModel",
        norm="post_layernorm",
        norm_on_tokens=True,
        head="head",
        text_class="SiglipTextModel",
        pools=True,
        outer_prefixes=("vision_model.",),
        processor="SiglipImageProcessorPil",
        processors=BASE_VIEWS,
    ),
    Family(
        name="clip",
        model_types=("clip_vision_model", "clip"),
        tower_class="CLIPVisionModel",
        norm="post_layernorm",
        pools=True,
        projection="visual_projection",
        text_class="CLIPTextModel",
        projection_std=lambda config: float(config.hidden_size**-0.5 * config.initializer_factor),
        has_cls=True,
        outer_prefixes=("vision_model.",),
        processor="CLIPImageProcessorPil",
        processors=BASE_VIEWS,
    ),
    _dinov2("dinov2", "Dinov2Model"),
    _dinov2("dinov2_with_registers", "Dinov2WithRegistersModel"),
    Family(
        name="vit",
        model_types=("vit",),
        tower_class="ViTModel",
        blocks=(("layers", "num_hidden_layers"),),
        norm="layernorm",
        norm_on_tokens=True,
        head="pooler",
        pools=True,
        has_cls=True,
        outer_prefixes=("vit.",),
        attention_output="attention.o_proj",
        head_option="add_pooling_layer",
        processor="ViTImageProcessorPil",
        processors=BASE_VIEWS,
    ),
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
