"""Tiny random models of the Qwen-VL line, and their checkpoints in every spelling of tensor names that exists."""

import json

import torch
import transformers
from tiny_checkpoints import filled, write

from visprobe.encoders.checkpoint.quiet import quiet

PATCH, MERGE = 4, 2
PIXELS = 32 * 56  # at patches of 4 and cells of 2 x 2: 4 x 7 cells
_SQUARES = {"depth": 4, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 24}
_TABLE = {**_SQUARES, "num_position_embeddings": 36}
_EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
_HYBRID = {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 2}
KINDS = {  # model_type -> class, vision fields, text fields
    "qwen2_vl": ("Qwen2VL", {"depth": 4, "embed_dim": 32, "hidden_size": 24, "num_heads": 4, "mlp_ratio": 2}, {}),
    # windows of 2 x 2 cells, some cut off by the edge; two of four blocks see the whole image
    "qwen2_5_vl": ("Qwen2_5_VL", {**_SQUARES, "window_size": 16, "fullatt_block_indexes": [1, 3]}, {}),
    "qwen3_vl": ("Qwen3VL", {**_TABLE, "deepstack_visual_indexes": [0, 2]}, {}),
    "qwen3_vl_moe": ("Qwen3VLMoe", {**_TABLE, "deepstack_visual_indexes": [0, 2]}, _EXPERTS),
    "qwen3_5": ("Qwen3_5", _TABLE, _HYBRID),
    "qwen3_5_moe": ("Qwen3_5Moe", _TABLE, {**_HYBRID, **_EXPERTS, "shared_expert_intermediate_size": 16}),
}
_TEXT = {
    "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 12,
    "num_key_value_heads": 2, "vocab_size": 50, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2]},
}  # fmt: skip
_MARKS = {"image_token_id": 46, "video_token_id": 47, "vision_start_token_id": 48, "vision_end_token_id": 49}


def qwen(kind, seed=0, **vision):
    """A model of `kind`, with every weight off its initial value."""
    name, own, text = KINDS[kind]
    sizes = {"patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": 2}
    config = getattr(transformers, f"{name}Config")(
        vision_config={**sizes, **own, **vision}, text_config={**_TEXT, **text}, **_MARKS
    )
    torch.manual_seed(seed)
    with quiet():
        return filled(getattr(transformers, f"{name}ForConditionalGeneration")(config), seed)


def spelled(model, layout):
    """The tensors of `model` under the names of `layout`: "Q-D" as in memory; "Q-A" as Qwen released Qwen2-VL and
    Qwen2.5-VL, and of the later models as their base class without language head is saved."""
    if layout == "Q-D":
        return model.state_dict()
    if model.config.model_type.startswith("qwen3"):
        return model.model.state_dict()
    return {
        name.replace("model.visual.", "visual.", 1).replace("model.language_model.", "model.", 1): tensor
        for name, tensor in model.state_dict().items()
    }


def processor(**fields):
    return transformers.Qwen2VLImageProcessorPil(
        patch_size=PATCH, merge_size=MERGE, temporal_patch_size=2, size={"shortest_edge": 8, "longest_edge": 9999},
        **fields,
    )  # fmt: skip


def write_qwen(folder, model, layout="Q-D", shards=1, stored=None):
    """A checkpoint folder of `model` with the image processor `stored`; in "Q-A" the tower has the model's type, as in
    configurations of the time."""
    config = json.loads(model.config.to_json_string()) | {"architectures": [type(model).__name__]}
    if layout == "Q-A":
        config["vision_config"]["model_type"] = config["model_type"]
    write(folder, spelled(model, layout), config, shards, processor=False)
    (stored or processor()).save_pretrained(folder)
    return folder


def whole(folder, model, layout="Q-D", **options):
    """The checkpoint in `folder` as transformers reads it: tower, and the model that gives image features."""
    base = layout == "Q-A" and model.config.model_type.startswith("qwen3")
    with quiet():
        read = type(model.model if base else model).from_pretrained(folder, **options).eval().requires_grad_(False)
    return (read if base else read.model).visual, read
