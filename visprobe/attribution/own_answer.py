"""What a model says of a picture by itself, where nobody has written an answer down."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from visprobe.errors import DataError
from visprobe.training.collate import RowEncoder, SupervisedCollator
from visprobe.training.rows import IMAGE, Row, Turn

PROMPT = "Describe the image."
MOST_TOKENS = 32


class _OnePicture:
    """A source of one row, for `RowEncoder`."""

    name = "one picture"

    def __init__(self, picture: Image.Image, prompt: str) -> None:
        text = prompt if IMAGE in prompt else f"{IMAGE}\n{prompt}"
        self._picture, self._row = picture, Row("the picture", (Turn("user", text),), ("picture",))

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Row:
        return self._row

    def image(self, key: str) -> Image.Image:
        return self._picture

    def content_hash(self) -> str:
        return ""


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
    rows = RowEncoder(processor, _OnePicture(picture, prompt))
    inputs = SupervisedCollator(rows)([{"row": 0}])
    inputs.pop("labels")
    given = inputs["input_ids"].shape[1]
    on_device = {
        name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
        for name, tensor in inputs.items()
    }
    with torch.inference_mode():
        ids = model.generate(**on_device, do_sample=False, max_new_tokens=MOST_TOKENS)
    text: str = processor.tokenizer.decode(ids[0, given:], skip_special_tokens=True).strip()
    if not text:
        raise DataError(f"the model answers {prompt!r} with nothing", hint="Give an answer: --answer TEXT.")
    return text
