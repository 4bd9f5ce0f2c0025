"""Tiny bare towers and language models on disk, to be put together."""

import torch
import transformers
from tiny_families import PATCH, SIDE, SPECIAL, WORDS, text_config, tokenizer
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

BLOCKS = 3
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": BLOCKS, "num_attention_heads": 4,
    "image_size": SIDE, "patch_size": PATCH,
}  # fmt: skip
SQUARE = {"height": SIDE, "width": SIDE}
CROP = {"size": {"shortest_edge": SIDE}, "crop_size": SQUARE}
TOWERS = {
    "siglip": ("SiglipVision", {}, lambda: SiglipImageProcessorPil(size=SQUARE)),
    "clip": ("CLIPVision", {}, lambda: CLIPImageProcessorPil(**CROP)),
    "dinov2": ("Dinov2", {"mlp_ratio": 2}, lambda: BitImageProcessorPil(**CROP)),
    "vit": ("ViT", {}, lambda: ViTImageProcessorPil(size=SQUARE)),
    "dinov2_with_registers": ("Dinov2WithRegisters", {"mlp_ratio": 2}, lambda: BitImageProcessorPil(**CROP)),
}
# As language models write it: text only, with a system turn that comes by itself.
CHAT = (
    "{%- if messages[0]['role'] != 'system' %}{{- '<|im_start|>system three<|im_end|>' }}{%- endif %}"
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + ' ' + message['content'] + '<|im_end|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant ' }}{%- endif %}"
)


def write_tower(folder, family, seed=1, **changes):
    name, extra, processor = TOWERS[family]
    torch.manual_seed(seed)
    model = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**VISION, **extra, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.eval().save_pretrained(folder)
    processor().save_pretrained(folder)
    return model


def write_pair(folder, family, seed=1):
    """A tower with its text tower, as SigLIP and CLIP are published."""
    name, _, processor = TOWERS[family]
    name = name.removesuffix("Vision")
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    torch.manual_seed(seed)
    config = getattr(transformers, f"{name}Config")(vision_config=VISION, text_config=text)
    model = getattr(transformers, f"{name}Model")(config).eval()
    model.save_pretrained(folder)
    processor().save_pretrained(folder)
    return model.vision_model


def write_language_model(folder, kind="llama", seed=2, template=CHAT, rows=None, **changes):
    """A language model whose tokenizer lacks `<image>`, the last of its words."""
    torch.manual_seed(seed)
    words = tokenizer(without=("<image>",))
    words.chat_template = template
    words.save_pretrained(folder)
    config = {**text_config(kind, **changes), "vocab_size": rows or len(words)}
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config))
    model.eval().save_pretrained(folder)
    return model


WORD_COUNT = len(SPECIAL) + len(WORDS) - 1
