"""One tiny checkpoint of every family, written as users find it."""

import json

import torch
import transformers
from test_aya_vision import tiny as aya_vision
from test_gemma import tiny as gemma
from test_idefics import tiny as idefics
from test_mllama import tiny as mllama
from tiny_checkpoints import VISION, filled, llava, vision_config, write, write_llava, write_original
from tiny_internvl import original as internvl_original
from tiny_internvl import original_config
from tiny_internvl import tiny as internvl
from tiny_native import gemma4, pixtral
from tiny_qwen import KINDS, qwen, write_qwen

from visprobe.encoders.checkpoint.quiet import quiet


def saved(model):
    def write_it(folder):
        with quiet():
            model().save_pretrained(folder)
        return folder

    return write_it


def bare(cls, config):
    return saved(lambda: filled(cls(config())))


def original(folder):
    transformers.SiglipVisionModel(vision_config("siglip", num_hidden_layers=4)).save_pretrained(
        folder / "named-siglip"
    )
    return write_original(folder, llava("siglip", vision_feature_layer=-1), folder / "named-siglip")


def in_bin(folder):
    folder.mkdir(parents=True)
    model = llava("clip")
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(json.loads(model.config.to_json_string())))
    return folder


def internvl_chat(folder):
    return write(folder, internvl_original(internvl()), original_config(), processor=False)


# Name -> how it is written, the family that a scan reports, the site its language model reads.
ZOO = {
    **{f"llava-{x}": (lambda f, x=x: write_llava(f, llava("siglip"), x, 2), "LLaVA", "block_03") for x in "ABCD"},
    "llava-bin": (in_bin, "LLaVA", "block_02"),
    "onevision": (lambda f: write_llava(f, llava("siglip", "llava_onevision"), "A"), "LLaVA-OneVision", "block_03"),
    "original": (original, "LLaVA (original)", "block_03"),
    "pixtral": (saved(lambda: pixtral("llava")), "LLaVA", "block_03"),
    "mistral3": (saved(pixtral), "Mistral 3", "block_03"),
    "aya-vision": (saved(aya_vision), "Aya Vision", "block_03"),
    "gemma4": (saved(gemma4), "Gemma 4", "block_03"),
    "gemma3": (saved(lambda: gemma("gemma3")), "Gemma 3", "final_norm"),
    "paligemma": (saved(lambda: gemma("paligemma")), "PaliGemma", "final_norm"),
    "idefics3": (saved(lambda: idefics("idefics3")), "Idefics3", "final_norm"),
    "smolvlm": (saved(lambda: idefics("smolvlm")), "SmolVLM", "final_norm"),
    "internvl": (saved(internvl), "InternVL", "block_03"),
    "internvl-original": (internvl_chat, "InternVL (original)", "block_03"),
    "mllama": (saved(mllama), "Llama 3.2 Vision", None),
    "clip": (bare(transformers.CLIPVisionModel, lambda: vision_config("clip")), "clip", "block_03"),
    "siglip": (bare(transformers.SiglipVisionModel, lambda: vision_config("siglip")), "siglip", "final_norm"),
    "aimv2": (
        bare(transformers.Aimv2VisionModel, lambda: transformers.Aimv2VisionConfig(**VISION)),
        "aimv2",
        "final_norm",
    ),
    **{kind: (lambda f, kind=kind: write_qwen(f, qwen(kind)), None, "block_04") for kind in KINDS},
}
