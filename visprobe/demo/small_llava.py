"""Demo model: a stock LLaVA of under a million parameters for the digit scenes."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from visprobe.demo.questions import vocabulary
from visprobe.demo.scenes import SIDE

PATCH = 8
# The usual 0.02 is far too small for layers of about 100 units, which then learn 2-4 times slower.
INIT_RANGE = 0.08

# <|im_end|> is inside the generation block, so that the loss on answers also teaches the model to stop.
CHAT_TEMPLATE = """
{%- macro text(content) -%}
{%- if content is string -%}{{ content }}{%- else -%}
{%- for part in content -%}{{ '<image>\n' if part['type'] == 'image' else part['text'] }}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{ text(message['content']) + '<|im_end|>' }}{%- endgeneration -%}
{%- else -%}{{ text(message['content']) + '<|im_end|>' }}{%- endif -%}
{{- '\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}
"""


def build_processor() -> Any:
    """Make a `LlavaProcessor` of tokenizer (one token per word), image processor and chat template."""
    image_processor = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        image_token="<image>",
        chat_template=CHAT_TEMPLATE,
    )


def _tokenizer() -> Any:
    special = ["<pad>", "<unk>", "<|im_start|>", "<|im_end|>", "<image>"]
    words = [*special, "user", "assistant", *vocabulary()]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    marks = pre_tokenizers.Split(Regex("[?.,]"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), marks])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token=None,
        eos_token="<|im_end|>",
        extra_special_tokens={"image_token": "<image>", "start_token": "<|im_start|>"},
        padding_side="left",
    )


def build_model(processor: Any, seed: int) -> Any:
    """Make an untrained LLaVA: SigLIP tower of 4 blocks x 96, two-layer projector, Qwen2 of 2 blocks x 128.

    Args:
        processor: Result of `build_processor`; it fixes the vocabulary.
        seed: Seed of the initial weights.

    Returns:
        `LlavaForConditionalGeneration` in float32.
    """
    tokenizer = processor.tokenizer
    tokens = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    vision = SiglipVisionConfig(
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        vision_use_head=False,
    )
    text = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        initializer_range=INIT_RANGE,
        tie_word_embeddings=True,
        **tokens,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(SIDE // PATCH) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        initializer_range=INIT_RANGE,
        tie_word_embeddings=True,
        **tokens,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    _init_tower(model.model.vision_tower)
    return model


def _init_tower(tower: Any) -> None:
    for layer in tower.encoder.modules():
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.normal_(layer.weight, std=INIT_RANGE)
    with torch.no_grad():
        tower.embeddings.position_embedding.weight.copy_(_sin_cos(SIDE // PATCH, tower.config.hidden_size))


def _sin_cos(grid: int, width: int) -> torch.Tensor:
    """Return two-dimensional sine and cosine waves as initial position embedding, float32 of shape (grid**2, width)."""
    rates = 1 / 10 ** torch.linspace(0, 1, width // 4)
    waves = torch.arange(grid)[:, None] * rates
    axis = torch.cat([waves.sin(), waves.cos()], 1)
    return 0.3 * torch.cat([axis.repeat_interleave(grid, 0), axis.repeat(grid, 1)], 1)
