"""Rows into batches. Each row is tokenized and its image processed once, not once per epoch.

The trainers of trl tokenize, template and process images anew for every batch; on small models that is a third
of the time. Prompts are padded on the right, together with their answers: positions are the same for every
row whatever else is in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

IGNORED = -100


@dataclass(frozen=True)
class PreferenceRow:
    """One image, one question, a right and a wrong answer; supervised training reads only `chosen`.

    Attributes:
        image: Key that the image loader understands.
        prompt: The question, plain text.
        chosen: The preferred answer.
        rejected: The other answer.
    """

    image: int
    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class _Encoded:
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    pixel_values: torch.Tensor


class RowEncoder:
    """Tokenizes rows and processes their images, each once.

    Args:
        processor: A transformers processor with a chat template.
        rows: The rows.
        load_image: From a row's image key to an RGB image.
    """

    def __init__(self, processor: Any, rows: Sequence[PreferenceRow], load_image: Callable[[int], Image.Image]) -> None:
        self._processor = processor
        self._rows = rows
        self._load_image = load_image
        self._done: dict[int, _Encoded] = {}

    @property
    def pad(self) -> int:
        """The token that fills a batch up."""
        return int(self._processor.tokenizer.pad_token_id)

    def __getitem__(self, index: int) -> _Encoded:
        if index not in self._done:
            self._done[index] = self._encode(self._rows[index])
        return self._done[index]

    def _encode(self, row: PreferenceRow) -> _Encoded:
        content = [{"type": "image"}, {"type": "text", "text": row.prompt}]
        user = [{"role": "user", "content": content}]
        prompt = self._processor.apply_chat_template(user, add_generation_prompt=True)
        inputs = self._processor(
            images=[self._load_image(row.image)], text=[prompt], add_special_tokens=False, return_tensors="pt"
        )
        answers = [self._answer(user, prompt, answer) for answer in (row.chosen, row.rejected)]
        return _Encoded(inputs["input_ids"][0].tolist(), *answers, inputs["pixel_values"])

    def _answer(self, user: list[dict[str, Any]], prompt: str, answer: str) -> list[int]:
        turn = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
        whole = self._processor.apply_chat_template([*user, turn])
        if not whole.startswith(prompt):
            raise ValueError("the chat template does not continue its own generation prompt")
        ids = self._processor.tokenizer(whole.removeprefix(prompt), add_special_tokens=False)["input_ids"]
        return list(ids)


def _padded(sequences: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
    width = max(map(len, sequences))
    return torch.tensor([[*sequence, *[fill] * (width - len(sequence))] for sequence in sequences])


class SupervisedCollator:
    """Batches for SFT: the loss is on the chosen answer and its end-of-turn token only."""

    def __init__(self, encoder: RowEncoder) -> None:
        self._encoder = encoder

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Input ids, attention mask and labels of shape (batch, length), pixel values."""
        rows = [self._encoder[example["row"]] for example in examples]
        return {
            "input_ids": _padded([row.prompt + row.chosen for row in rows], self._encoder.pad),
            "attention_mask": _padded([[1] * len(row.prompt + row.chosen) for row in rows], 0),
            "labels": _padded([[IGNORED] * len(row.prompt) + row.chosen for row in rows], IGNORED),
            "pixel_values": torch.cat([row.pixel_values for row in rows]),
        }


class PreferenceCollator:
    """Batches for DPO as trl wants them: all chosen first, then all rejected, images repeated."""

    def __init__(self, encoder: RowEncoder) -> None:
        self._encoder = encoder

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Input ids, attention mask and completion mask of shape (2 batch, length), pixel values."""
        rows = [self._encoder[example["row"]] for example in examples]
        pairs = [(row.prompt, row.chosen) for row in rows] + [(row.prompt, row.rejected) for row in rows]
        return {
            "input_ids": _padded([prompt + answer for prompt, answer in pairs], self._encoder.pad),
            "attention_mask": _padded([[1] * len(prompt + answer) for prompt, answer in pairs], 0),
            "completion_mask": _padded([[0] * len(prompt) + [1] * len(answer) for prompt, answer in pairs], 0),
            "pixel_values": torch.cat([row.pixel_values for row in rows] * 2),
        }
