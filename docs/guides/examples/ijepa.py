"""I-JEPA: a ViT without a class token, trained to predict the features of hidden patches."""

from visprobe.encoders.structure.family import Family

TOWERS = (
    Family(
        name="ijepa",
        model_types=("ijepa",),
        tower_class="IJepaModel",
        blocks=(("layers", "num_hidden_layers"),),
        attention_output="attention.o_proj",
        norm="layernorm",
        norm_on_tokens=True,
        outer_prefixes=("ijepa.",),
        processor="ViTImageProcessorPil",
    ),
)
