"""Tiny random models, and their checkpoints in every spelling of tensor names that exists."""

import json

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file

from visprobe.encoders.checkpoint.quiet import quiet

SIDE, PATCH, BLOCKS = 32, 8, 3
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": PATCH,
}
TEXT = {
    "model_type": "llama", "hidden_size": 24, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "vocab_size": 50,
}  # fmt: skip
CONFIGS = {"siglip": transformers.SiglipVisionConfig, "clip": transformers.CLIPVisionConfig}


def filled(model, seed=0):
    """`model` with every weight moved off its initial value, so that no zero or one can hide a fault.

    It is frozen as an encoder is: on some processors torch takes other kernels for weights that require a gradient.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval().requires_grad_(False)


def vision_config(family, **changes):
    return CONFIGS[family](**{**VISION, **changes})


def llava(family="siglip", model_type="llava", seed=0, vision=None, **changes):
    defaults = {"siglip": (-1, "full"), "clip": (-2, "default")}[family]
    options = {"vision_feature_layer": defaults[0], "vision_feature_select_strategy": defaults[1], **changes}
    vision = {"vision_use_head": False, **(vision or {})} if family == "siglip" else vision or {}
    name = {"llava": "Llava", "llava_onevision": "LlavaOnevision"}[model_type]
    config = getattr(transformers, f"{name}Config")(
        vision_config=vision_config(family, **vision).to_dict(), text_config=TEXT, image_token_index=49, **options
    )
    torch.manual_seed(seed)
    with quiet():
        return filled(getattr(transformers, f"{name}ForConditionalGeneration")(config), seed)


def spelled(model, layout):
    """The tensors of a LLaVA `model` under the names of `layout`."""
    return {_spell(name, layout): tensor for name, tensor in model.state_dict().items()}


def _spell(name, layout):
    tower = {"A": "vision_tower.vision_model.", "B": "model.vision_tower.vision_model.", "C": "vision_tower.",
             "D": "model.vision_tower.", "L": "model.vision_tower.vision_tower.vision_model."}[layout]  # fmt: skip
    outer = "" if layout in "AC" else "model."
    if name.startswith("model.vision_tower."):
        return tower + name.removeprefix("model.vision_tower.")
    if name.startswith("model.multi_modal_projector."):
        rest = name.removeprefix("model.multi_modal_projector.")
        if layout == "L":
            return "model.mm_projector." + rest.replace("linear_1", "0").replace("linear_2", "2")
        return f"{outer}multi_modal_projector.{rest}"
    if name.startswith("model.language_model."):
        rest = name.removeprefix("model.language_model.")
        return {"L": "model.", "A": "language_model.model.", "C": "language_model.model."}.get(
            layout, "model.language_model."
        ) + rest
    return "language_model.lm_head.weight" if name == "lm_head.weight" and layout in "AC" else name


def write(folder, tensors, config, shards=1, processor=True):
    """Write a checkpoint folder; the tensors are dealt to the shards in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    config = config if isinstance(config, dict) else json.loads(config.to_json_string())
    (folder / "config.json").write_text(json.dumps(config))
    if processor:
        transformers.SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    names = sorted(tensors)
    files = [f"model-{n + 1:05d}-of-{shards:05d}.safetensors" for n in range(shards)]
    for n, file in enumerate(files):
        save_file({k: tensors[k] for k in names[n::shards]}, folder / file, metadata={"format": "pt"})
    weight_map = {name: files[n % shards] for n, name in enumerate(names)}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def write_llava(folder, model, layout="C", shards=1):
    config = json.loads(model.config.to_json_string()) | {"architectures": [type(model).__name__]}
    return write(folder, spelled(model, layout), config, shards)


def write_original(folder, model, tower, saved=None, shards=1, **fields):
    """An original LLaVA checkpoint made of `model`, whose config.json names `tower`."""
    config = {
        "model_type": "llava_qwen", "architectures": ["LlavaQwenForCausalLM"], "mm_vision_tower": str(tower),
        "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch",
        "image_aspect_ratio": "square", **fields,
    }  # fmt: skip
    return write(folder, saved or spelled(model, "L"), config, shards, processor=False)


def images(count=2, seed=0, size=(40, 50)):
    draw = np.random.default_rng(seed)
    return [Image.fromarray(draw.integers(0, 256, (*size, 3), dtype=np.uint8)) for _ in range(count)]
