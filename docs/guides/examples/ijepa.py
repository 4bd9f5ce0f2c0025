"""I-JEPA: a ViT without a class token, trained to predict the features of hidden patches."""

from visprobe.encoders.structure.family import Family

TOWERS = (
    Family(
        name="ijepa",
        model_types=("ijepa",),
        tower_class="IJepaModel",
        blocks=(("layers", "num_hidden_layers"),),
        norm="layernorm",
        norm_on_tokens=True,
        outer_prefixes=("ijepa.",),
        processor="ViTImageProcessorPil",
    ),
)
