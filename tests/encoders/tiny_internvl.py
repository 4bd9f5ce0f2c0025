"""A tiny InternVL, its names before it was part of transformers, and the original model written out."""

import re

import torch
import transformers
from tiny_checkpoints import BLOCKS, PATCH, SIDE, TEXT, filled
from torch.nn.functional import gelu, layer_norm, linear, scaled_dot_product_attention

HEADS, WIDTH, EPS = 4, 32, 1e-6


def tiny(layer=-1, **vision):
    config = transformers.InternVLConfig(
        vision_config={
            "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": BLOCKS, "num_attention_heads": HEADS,
            "image_size": SIDE, "patch_size": PATCH, "attention_bias": True, **vision,
        },
        text_config={**TEXT, "model_type": "qwen2"}, image_token_id=49, vision_feature_layer=layer,
    )  # fmt: skip
    torch.manual_seed(0)
    return filled(transformers.InternVLForConditionalGeneration(config))


def inner(name):
    """Names as `save_pretrained` and the hub have them."""
    if name.startswith("model.language_model."):
        return name.replace("model.language_model.", "language_model.model.")
    return f"language_model.{name}" if name.startswith("lm_head") else name.removeprefix("model.")


def first_names(name):
    """Names of the conversions that came before InternVL was part of transformers."""
    name = inner(name)
    for new, old in (
        (r"\.attention\.q_proj", ".attention.attention.query"),
        (r"\.attention\.k_proj", ".attention.attention.key"),
        (r"\.attention\.v_proj", ".attention.attention.value"),
        (r"\.attention\.projection_layer", ".attention.output.dense"),
        (r"(layer\.\d+)\.mlp\.fc1", r"\1.intermediate.dense"),
        (r"(layer\.\d+)\.mlp\.fc2", r"\1.output.dense"),
    ):
        name = re.sub(new, old, name) if name.startswith("vision_tower.") else name
    return name


def original(model):
    """The same weights under the names of the original code, queries, keys and values fused."""
    tensors = {inner(name): tensor for name, tensor in model.state_dict().items()}
    result = {name: tensor for name, tensor in tensors.items() if name.startswith("language_model.")}
    vision = {n.removeprefix("vision_tower."): t for n, t in tensors.items() if n.startswith("vision_tower.")}
    result["vision_model.embeddings.class_embedding"] = vision["embeddings.cls_token"]
    result["vision_model.embeddings.position_embedding"] = vision["embeddings.position_embeddings"]
    for kind in ("weight", "bias"):
        patches = vision[f"embeddings.patch_embeddings.projection.{kind}"]
        result[f"vision_model.embeddings.patch_embedding.{kind}"] = patches
        for theirs, ours in (("0", "layer_norm"), ("1", "linear_1"), ("3", "linear_2")):
            result[f"mlp1.{theirs}.{kind}"] = tensors[f"multi_modal_projector.{ours}.{kind}"]
    pairs = {
        "attn.proj.weight": "attention.projection_layer.weight", "attn.proj.bias": "attention.projection_layer.bias",
        "attn.q_norm.weight": "attention.q_norm.weight", "attn.k_norm.weight": "attention.k_norm.weight",
        "norm1.weight": "layernorm_before.weight", "norm1.bias": "layernorm_before.bias",
        "norm2.weight": "layernorm_after.weight", "norm2.bias": "layernorm_after.bias",
        "ls1": "lambda_1", "ls2": "lambda_2", **{f"mlp.{n}.{k}": f"mlp.{n}.{k}" for n in ("fc1", "fc2")
                                                for k in ("weight", "bias")},
    }  # fmt: skip
    for number in range(BLOCKS):
        here, there = f"encoder.layer.{number}.", f"vision_model.encoder.layers.{number}."
        result |= {there + old: vision[here + new] for old, new in pairs.items() if here + new in vision}
        for kind in ("weight", "bias"):
            parts = [vision.get(f"{here}attention.{part}_proj.{kind}") for part in "qkv"]
            if parts[0] is not None:
                result[f"{there}attn.qkv.{kind}"] = torch.cat(parts)
    return result


def original_config(**changes):
    """config.json as the original code writes it; `vision` changes fields of the tower."""
    vision = {
        "architectures": ["InternVisionModel"], "model_type": "intern_vit_6b", "hidden_size": WIDTH,
        "intermediate_size": 48, "num_hidden_layers": BLOCKS, "num_attention_heads": HEADS, "image_size": SIDE,
        "patch_size": PATCH, "qkv_bias": True, "qk_normalization": False, "norm_type": "layer_norm",
        "hidden_act": "gelu", "layer_norm_eps": EPS, "initializer_factor": 1.0, "drop_path_rate": 0.1,
        "use_flash_attn": True, **changes.pop("vision", {}),
    }  # fmt: skip
    return {
        "model_type": "internvl_chat", "architectures": ["InternVLChatModel"], "vision_config": vision,
        "auto_map": {"AutoConfig": "configuration_internvl_chat.InternVLChatConfig"},
        "llm_config": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 24},
        "downsample_ratio": 0.5, "select_layer": -1, "ps_version": "v2", "force_image_size": SIDE,
        "dynamic_image_size": True, "use_thumbnail": True, **changes,
    }  # fmt: skip


def rms(x, weight):
    return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS)


def original_forward(tensors, pixels, *, norm="layer_norm"):
    """States of the tower after each block, and projected tokens, from tensors in the original names.

    Source: the equations of InternVL's modeling_intern_vit.py and modeling_internvl_chat.py.
    """
    w = {name.removeprefix("vision_model."): tensor for name, tensor in tensors.items()}

    def normed(x, name):
        return layer_norm(x, (WIDTH,), w[f"{name}.weight"], w[f"{name}.bias"], EPS) if norm == "layer_norm" else rms(
            x, w[f"{name}.weight"]
        )  # fmt: skip

    patches = torch.nn.functional.conv2d(
        pixels, w["embeddings.patch_embedding.weight"], w["embeddings.patch_embedding.bias"], stride=PATCH
    )
    count = patches.shape[-1]
    tokens = patches.flatten(2).transpose(1, 2)
    x = torch.cat([w["embeddings.class_embedding"].expand(len(tokens), 1, -1), tokens], 1)
    states = [x := x + w["embeddings.position_embedding"]]
    for number in range(BLOCKS):
        block = f"encoder.layers.{number}."
        qkv = linear(normed(x, block + "norm1"), w[block + "attn.qkv.weight"], w.get(block + "attn.qkv.bias"))
        q, k, v = qkv.view(len(x), -1, 3, WIDTH).unbind(2)
        if block + "attn.q_norm.weight" in w:
            q, k = rms(q, w[block + "attn.q_norm.weight"]), rms(k, w[block + "attn.k_norm.weight"])
        q, k, v = (part.view(len(x), -1, HEADS, WIDTH // HEADS).transpose(1, 2) for part in (q, k, v))
        mixed = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + w[block + "ls1"] * linear(mixed, w[block + "attn.proj.weight"], w[block + "attn.proj.bias"])
        wide = gelu(linear(normed(x, block + "norm2"), w[block + "mlp.fc1.weight"], w[block + "mlp.fc1.bias"]))
        states.append(x := x + w[block + "ls2"] * linear(wide, w[block + "mlp.fc2.weight"], w[block + "mlp.fc2.bias"]))
    grid = x[:, 1:].view(len(x), count, count, WIDTH)
    joined = torch.cat([grid[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], -1).flatten(1, 2)
    joined = layer_norm(joined, (4 * WIDTH,), w["mlp1.0.weight"], w["mlp1.0.bias"])
    hidden = gelu(linear(joined, w["mlp1.1.weight"], w["mlp1.1.bias"]))
    return states, linear(hidden, w["mlp1.3.weight"], w["mlp1.3.bias"])
