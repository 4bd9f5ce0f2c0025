"""What a model says of a picture by itself, where nobody has written an answer down."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from visprobe.attribution.answer_tokens import OneImage
from visprobe.attribution.question import Question
from visprobe.errors import DataError
from visprobe.training.collate import RowEncoder
from visprobe.training.rows import Row, Turn

PROMPT = "Describe the image."
MOST_TOKENS = 32


def own_answer(model: Any, processor: Any, picture: Image.Image, prompt: str = PROMPT) -> str:
    """The model's most likely answer, token by token.

    Args:
        model: A multimodal LLM of transformers, in evaluation mode.
        processor: Its processor, with image token and chat template.
        picture: RGB image.
        prompt: What is asked; the image stands where it says "<image>", or in front.

    Returns:
        At most 32 tokens as text, without special tokens.

    Raises:
        DataError: If the model says nothing.
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
        said = model.generate(**on_device, do_sample=False, max_new_tokens=MOST_TOKENS)
    text: str = processor.tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True).strip()
    if not text:
        raise DataError(f"the model answers {prompt!r} with nothing", hint="Give an answer: --answer TEXT.")
    return text
