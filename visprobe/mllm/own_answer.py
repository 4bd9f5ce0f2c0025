"""What a model says of a picture by itself, where nobody has written an answer down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from visprobe.data.rows import Row, Turn
from visprobe.errors import DataError
from visprobe.mllm.answer_tokens import OneImage
from visprobe.mllm.batches import RowEncoder
from visprobe.mllm.question import Question

PROMPT = "Describe the image."
MOST_TOKENS = 32


@dataclass(frozen=True)
class OwnAnswer:
    """What a model says.

    Attributes:
        text: Its answer, without special tokens.
        forced: Whether it says nothing by itself, so that `text` is the likeliest token among those that say something.
    """

    text: str
    forced: bool = False


def own_answer(model: Any, processor: Any, picture: Image.Image, prompt: str = PROMPT) -> OwnAnswer:
    """The model's most likely answer, token by token; one token where that is the end of the turn at once.

    Args:
        model: A multimodal LLM of transformers, in evaluation mode.
        processor: Its processor, with image token and chat template.
        picture: RGB image.
        prompt: What is asked; the image stands where it says "<image>", or in front.

    Returns:
        At most 32 tokens as text.

    Raises:
        DataError: If no token of the vocabulary says anything.
    """
    rows = RowEncoder(processor, OneImage(picture))
    row = rows.encode(Row("the picture", (Turn("user", Question(prompt, "").turn),), ("picture",)))
    ids = torch.tensor([[token for part in row.prompt for token in part.ids]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **rows.token_types(ids), **row.images}
    on_device = {
        name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
        for name, tensor in inputs.items()
    }
    with torch.inference_mode():
        said = model.generate(
            **on_device, do_sample=False, max_new_tokens=MOST_TOKENS, output_logits=True, return_dict_in_generate=True
        )
    text: str = processor.tokenizer.decode(said.sequences[0, ids.shape[1] :], skip_special_tokens=True).strip()
    return OwnAnswer(text) if text else OwnAnswer(_likeliest(said.logits[0][0], processor.tokenizer), forced=True)


def _likeliest(logits: torch.Tensor, tokenizer: Any) -> str:
    """The text of the likeliest token that has one and that the tokenizer reads again as that text."""
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    for token in logits.argsort(descending=True, stable=True).tolist():
        text: str = "" if token in special else tokenizer.decode([token]).strip()
        if text and tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]).strip() == text:
            return text
    raise DataError("no token of the tokenizer's vocabulary says anything", hint="Give an answer: --chosen TEXT.")
