"""Tiny two-tower models of CLIP, AIMv2, SigLIP and SigLIP 2 with tokenizers that spell, and their folders."""

import string

import transformers
from test_bare import PAIR
from tiny_checkpoints import SIDE, filled
from tiny_native import VISION as NATIVE
from tokenizers import Tokenizer, models, pre_tokenizers

from visprobe.encoders.checkpoint.quiet import quiet

LETTERS = string.ascii_lowercase + string.digits + ".,-"
LENGTH = 40


def clip_tokenizer():
    pieces = [letter + end for letter in LETTERS for end in ("", "</w>")]
    vocab = {piece: n for n, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    return transformers.CLIPTokenizer(vocab=vocab, merges=[])


def siglip_tokenizer():
    vocab = {"<pad>": 0, "</s>": 1, "<unk>": 2, **{letter: n for n, letter in enumerate(" " + LETTERS, start=3)}}
    spelling = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    spelling.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=spelling, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", padding_side="right"
    )


def two_tower(folder, kind="clip", seed=0, eos=None, tokenizer=True, text=None, **changes):
    """A whole model, saved into `folder`; they see SIDE pixels, "siglip2" is of native resolution."""
    spelling = clip_tokenizer() if kind in ("clip", "aimv2") else siglip_tokenizer()
    text = {**PAIR["text_config"], **(text or {}), "num_hidden_layers": 2, "vocab_size": len(spelling)}
    text |= {"max_position_embeddings": LENGTH, "eos_token_id": eos or spelling.eos_token_id}
    name = {"clip": "CLIP", "siglip": "Siglip", "siglip2": "Siglip2", "aimv2": "Aimv2"}[kind]
    vision = {**NATIVE, "num_patches": 16} if kind == "siglip2" else PAIR["vision_config"]
    config = getattr(transformers, f"{name}Config")(vision_config=vision, text_config=text, **changes)
    with quiet():
        model = filled(getattr(transformers, f"{name}Model")(config), seed)
        model.save_pretrained(folder)
    if tokenizer:
        spelling.save_pretrained(folder)
    if kind != "siglip2":
        transformers.SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return model
