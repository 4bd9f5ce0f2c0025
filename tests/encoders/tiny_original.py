"""Tiny towers of every kind that original LLaVA trains, and their weights as its checkpoints spell them."""

import re

import torch
import transformers
from tiny_checkpoints import filled, vision_config, write_original
from transformers.models.sam.modeling_sam import SamVisionEncoder

from visprobe.encoders.layouts import original_towers as known_towers

TOWER = "model.vision_tower.vision_tower."
WIDTH, HEADS, TEXT = 32, 4, 24
SHAPE = {"hidden_size": WIDTH, "num_hidden_layers": 3, "num_attention_heads": HEADS}
KINDS = ("clip", "mlcd", "dinov2", "timm", "sam")


def shrink(monkeypatch):
    """Makes the towers that are known by name alone as small as the others."""
    monkeypatch.setattr(known_towers, "_VIT_SIZES", dict.fromkeys("blh", (WIDTH, 48, 3, HEADS)))
    monkeypatch.setattr(known_towers, "_SAM_SIZES", dict.fromkeys("blh", (WIDTH, 3, HEADS, (1,))))
    monkeypatch.setattr(known_towers, "_SAM_SIDE", 64)


def tower(kind, folder):
    """A tower, what `mm_vision_tower` says of it, and its weights by name on disk."""
    if kind == "timm":
        module = filled(transformers.ViTModel(known_towers.known_tower("mae-vit-h-14"), add_pooling_layer=False))
        return module, "mae-vit-h-14", in_timm(module.state_dict())
    if kind == "sam":
        module = filled(SamVisionEncoder(known_towers.known_tower("sam_vit_b")))
        return module, "sam_vit_b-interp4", in_segment_anything(module.state_dict())
    module = filled(
        {
            "clip": lambda: transformers.CLIPVisionModel(vision_config("clip")),
            "mlcd": lambda: transformers.MLCDVisionModel(
                transformers.MLCDVisionConfig(**SHAPE, intermediate_size=48, image_size=32, patch_size=8)
            ),
            "dinov2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**SHAPE, image_size=32, patch_size=8)),
        }[kind]()
    )
    module.config.save_pretrained(folder / kind)
    level = "" if kind == "dinov2" else "vision_model."
    return module, str(folder / kind), {level + name: weight for name, weight in module.state_dict().items()}


def in_timm(weights):
    """The weights of a ViT under the names of timm, query, key and value in one."""
    names = {
        "embeddings.cls_token": "cls_token", "embeddings.position_embeddings": "pos_embed",
        "embeddings.patch_embeddings.projection": "patch_embed.proj", "layernorm_before": "norm1",
        "layernorm_after": "norm2", "attention.o_proj": "attn.proj", "layernorm": "norm", "layers.": "blocks.",
    }  # fmt: skip
    saved = {}
    for name, weight in weights.items():
        if "q_proj" in name:
            parts = [weights[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            name, weight = name.replace("attention.q_proj", "attn.qkv"), torch.cat(parts)
        elif "k_proj" in name or "v_proj" in name:
            continue
        for own, theirs in names.items():
            name = name.replace(own, theirs)
        saved[name] = weight
    return saved


def in_segment_anything(weights):
    """The weights of SAM's tower under the names of its own code."""
    neck = {"conv1": "0", "layer_norm1": "1", "conv2": "2", "layer_norm2": "3"}
    saved = {}
    for name, weight in weights.items():
        name = name.replace("patch_embed.projection", "patch_embed.proj").replace("layers.", "blocks.")
        name = re.sub(r"blocks\.(\d+)\.layer_norm", r"blocks.\1.norm", name)
        name = re.sub(r"neck\.(\w+)\.", lambda match: f"neck.{neck[match[1]]}.", name)
        saved[name] = weight
    return saved


def mlp(width=WIDTH, layers=2, seed=0):
    """Weights of `mlpNx_gelu` under `model.mm_projector.`."""
    generator = torch.Generator().manual_seed(seed)
    saved = {}
    for number in range(layers):
        place, before = f"model.mm_projector.{2 * number}", TEXT if number else width
        saved[f"{place}.weight"] = torch.randn(TEXT, before, generator=generator) * 0.1
        saved[f"{place}.bias"] = torch.randn(TEXT, generator=generator)
    return saved


def through_mlp(tokens, saved):
    """`tokens` through the linear layers of `saved`, in plain operations."""
    numbers = sorted({int(name.split(".")[2]) for name in saved})
    for number in numbers:
        tokens = torch.nn.functional.gelu(tokens) if number else tokens
        weight, bias = (saved[f"model.mm_projector.{number}.{kind}"] for kind in ("weight", "bias"))
        tokens = tokens @ weight.T + bias
    return tokens


def write_tower(folder, saved, named, projector=None, **fields):
    """An original LLaVA checkpoint of tower weights by name on disk, and a projector."""
    tensors = {TOWER + name: weight for name, weight in saved.items()} | (mlp() if projector is None else projector)
    tensors["model.embed_tokens.weight"] = torch.ones(5, TEXT)
    return write_original(folder, None, named, tensors, **fields)
