"""Batches of rows. Each row is tokenized and its images are processed once, not once per epoch.

trl's trainers apply the template, tokenize and process images anew for every batch, a third of the time on small
models. Everything is padded on the right, so that positions do not depend on the rest of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch

from visprobe.data.rows import IMAGE, BadRow, Row, Rows
from visprobe.errors import DataError
from visprobe.mllm.conversation import Conversations, Tokens

IGNORED = -100
_TOKEN_TYPES = ("mm_token_type_ids", "token_type_ids")


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens that are all given (prompt) or all answered (the model's own turn)."""

    ids: list[int]
    answered: bool


@dataclass(frozen=True)
class EncodedRow:
    """Row as tokens and image tensors.

    Attributes:
        prompt: Given and answered segments, up to the end of the conversation or up to the two answers.
        chosen: Token ids of the preferred answer with its end of turn; empty for a supervised row.
        rejected: Token ids of the other answer.
        images: Image tensors of the processor by name ("pixel_values", "image_grid_thw"), concatenated along dim 0.
    """

    prompt: list[Segment]
    chosen: list[int]
    rejected: list[int]
    images: dict[str, torch.Tensor]


class RowEncoder:
    """Encoder that tokenizes rows by the model's chat template and processes their images, each once.

    Args:
        processor: Processor of transformers with a chat template.
        rows: The rows.
        memory: Bytes of encoded rows to cache; further rows are encoded again each time.
        end_turns: Whether to end answers with the end-of-sequence token if the template writes no end of turn.
    """

    def __init__(self, processor: Any, rows: Rows, *, memory: int = 1 << 30, end_turns: bool = True) -> None:
        self._processor, self._rows, self._free = processor, rows, memory
        self._conversations = Conversations(processor, end_turns=end_turns)
        self._done: dict[int, EncodedRow] = {}

    @property
    def pad(self) -> int:
        """Token id that pads a batch."""
        return int(self._processor.tokenizer.pad_token_id)

    def __getitem__(self, index: int) -> EncodedRow:
        if index in self._done:
            return self._done[index]
        row = self._rows[index]
        try:
            encoded = self.encode(row)
        except BadRow as error:  # found only now, because the survey of rows processes no images
            raise DataError(f"{row.id}: {error}", hint="Take this row out and start again.") from error
        if (size := _size(encoded)) <= self._free:
            self._free -= size
            self._done[index] = encoded
        return encoded

    def encode(self, row: Row) -> EncodedRow:
        """Tokenize a row and process its images.

        Raises:
            BadRow: If images cannot be loaded or do not match the `<image>` marks.
        """
        images = [self._rows.image(key) for key in row.images]
        if sum(turn.text.count(IMAGE) for turn in row.turns) != len(images):
            raise BadRow(f"it has {len(images)} images and another number of {IMAGE} marks")
        answers = [answer for answer in (row.chosen, row.rejected) if answer is not None]
        if row.turns[-1].role == "assistant" or not answers:  # the conversation holds the answer, or there is none
            told = self._conversations.tokens(row.turns, images, ask=row.turns[-1].role != "assistant")
            return EncodedRow(_segments(told, len(told.ids)), [], [], told.images)
        both = self._conversations.pair(row.turns, answers, images)
        # A token that merges the end of the prompt with an answer belongs to the answer: cut before it, in both alike.
        asked = min(_prompt(both[0], one) for one in both)
        chosen, rejected = [*(one.ids[asked:] for one in both), []][:2]
        return EncodedRow(_segments(both[0], asked), chosen, rejected, both[0].images)

    def token_types(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Mark image tokens (1) and text tokens (0), for models with such an input.

        Args:
            ids: Token ids of shape (batch, length), int64.

        Returns:
            int64 of the shape of `ids`, under the model's name for it; empty for models without this input.
        """
        asked = [name for name in _TOKEN_TYPES if name in self._processor.model_input_names]
        if not asked:
            return {}
        marks = torch.tensor(self._processor.image_token_ids)
        return {asked[0]: torch.isin(ids, marks).long()}


def _prompt(one: Tokens, other: Tokens) -> int:
    """Count the tokens before the last answer of `other` that `one` shares."""
    last = max((number for number, answered in enumerate(other.answered) if not answered), default=-1) + 1
    return next((n for n in range(last) if one.ids[n : n + 1] != other.ids[n : n + 1]), last)


def _segments(tokens: Tokens, count: int) -> list[Segment]:
    """Group the first `count` tokens into given and answered runs."""
    runs = groupby(zip(tokens.ids[:count], tokens.answered[:count], strict=True), key=lambda pair: pair[1])
    return [Segment([token for token, _ in run], answered) for answered, run in runs]


def _size(row: EncodedRow) -> int:
    """Estimate bytes in memory: tensors, and 36 for each token in a list."""
    tokens = sum(len(segment.ids) for segment in row.prompt) + len(row.chosen) + len(row.rejected)
    return sum(value.nbytes for value in row.images.values()) + 36 * tokens


def _padded(sequences: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
    width = max(map(len, sequences))
    return torch.tensor([[*sequence, *[fill] * (width - len(sequence))] for sequence in sequences])


def _images(rows: Sequence[EncodedRow]) -> dict[str, torch.Tensor]:
    names = dict.fromkeys(name for row in rows for name in row.images)
    return {name: _stacked([row.images[name] for row in rows if name in row.images]) for name in names}


def _stacked(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Concatenate along dim 0, padding with zeros where images have different numbers of tiles."""
    if parts[0].dim() < 2:
        return torch.cat(list(parts))
    most = max(part.shape[1] for part in parts)
    filled = [torch.cat([part, part.new_zeros(len(part), most - part.shape[1], *part.shape[2:])], 1) for part in parts]
    return torch.cat(filled)


class SupervisedCollator:
    """Collator for SFT; the loss is on the model's own turns and their end-of-turn tokens only."""

    def __init__(self, encoder: RowEncoder) -> None:
        self._encoder = encoder

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return input ids, attention mask and labels, int64 of shape (batch, length), and image tensors."""
        rows = [self._encoder[example["row"]] for example in examples]
        parts = [[*row.prompt, *([Segment(row.chosen, True)] if row.chosen else [])] for row in rows]
        ids = [[token for segment in row for token in segment.ids] for row in parts]
        labels = [[token if segment.answered else IGNORED for segment in row for token in segment.ids] for row in parts]
        input_ids = _padded(ids, self._encoder.pad)
        return {
            "input_ids": input_ids,
            "attention_mask": _padded([[1] * len(row) for row in ids], 0),
            "labels": _padded(labels, IGNORED),
            **self._encoder.token_types(input_ids),
            **_images(rows),
        }


class PreferenceCollator:
    """Collator for DPO in trl's order: all chosen answers, then all rejected ones.

    Args:
        encoder: Encoder of the rows.
        repeat_images: Whether images come twice too, for a model that does not repeat their features itself.
    """

    def __init__(self, encoder: RowEncoder, *, repeat_images: bool = True) -> None:
        self._encoder, self._times = encoder, 2 if repeat_images else 1

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return input ids, attention mask and completion mask, int64 of shape (2 batch, length), and image tensors."""
        rows = [self._encoder[example["row"]] for example in examples]
        prompts = [[token for segment in row.prompt for token in segment.ids] for row in rows]
        answers = [row.chosen for row in rows] + [row.rejected for row in rows]
        pairs = list(zip(prompts * 2, answers, strict=True))
        input_ids = _padded([prompt + answer for prompt, answer in pairs], self._encoder.pad)
        return {
            "input_ids": input_ids,
            "attention_mask": _padded([[1] * len(prompt + answer) for prompt, answer in pairs], 0),
            "completion_mask": _padded([[0] * len(prompt) + [1] * len(answer) for prompt, answer in pairs], 0),
            **self._encoder.token_types(input_ids),
            **_images(rows * self._times),
        }
