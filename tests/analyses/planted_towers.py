"""Tiny multimodal checkpoints with random weights, and descendants of them changed in a known way."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

from visprobe.encoders.checkpoint.quiet import quiet

SIDE, BLOCKS, WIDTH, HEADS = 32, 4, 32, 4
VISION = {
    "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": BLOCKS, "num_attention_heads": HEADS,
    "image_size": SIDE, "patch_size": 8,
}  # fmt: skip
TEXT = {
    "model_type": "llama", "hidden_size": 24, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "vocab_size": 50,
}  # fmt: skip
Tensors = dict[str, torch.Tensor]
Change = Callable[[Tensors, torch.Generator], None]


def write_base(folder: Path, seed: int = 0, reads: int = -1, gain: float = 0.1) -> Path:
    """A LLaVA with a SigLIP tower of four blocks, every weight moved off its initial value.

    `reads` is the layer that the language model reads: -1 the last one after the tower's last norm, -2 the one before.
    """
    tower = transformers.SiglipVisionConfig(**VISION, vision_use_head=False).to_dict()
    config = transformers.LlavaConfig(
        vision_config=tower, text_config=TEXT, image_token_index=49, vision_feature_layer=reads,
        vision_feature_select_strategy="full",
    )  # fmt: skip
    torch.manual_seed(seed)
    with quiet(), torch.no_grad():
        model = transformers.LlavaForConditionalGeneration(config)
        for parameter in model.parameters():
            parameter.add_(gain * torch.randn(parameter.shape))
        model.save_pretrained(folder)
    transformers.SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def write_changed(base: Path, folder: Path, change: Change, seed: int = 0) -> Path:
    """A descendant of `base`: its tensors after `change`."""
    shutil.copytree(base, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors, torch.Generator().manual_seed(seed))
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def of_tower(tensors: Tensors, part: str = "") -> list[str]:
    """Names of the tower's tensors that contain `part`."""
    return [name for name in tensors if "vision_tower" in name and part in name]


def noise(part: str, strength: float) -> Change:
    """Gaussian noise of so much of each tensor's own size on the tower's tensors that contain `part`."""

    def change(tensors: Tensors, draw: torch.Generator) -> None:
        for name in of_tower(tensors, part):
            size = tensors[name].square().mean().sqrt()
            tensors[name] = tensors[name] + strength * size * torch.randn(tensors[name].shape, generator=draw)

    return change


def block(number: int) -> str:
    """What the names of the tensors of block `number`, counted from 1, contain."""
    return f"layers.{number - 1}."
