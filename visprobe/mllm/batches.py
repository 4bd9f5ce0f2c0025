"""Rows into batches. Each row is tokenized and its images are processed once, not once per epoch.

The trainers of trl apply the template, tokenize and process images anew for every batch; on small models that is
a third of the time. Everything is padded on the right, so that positions do not depend on what else is in the batch.
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
    """A run of tokens that is either given (prompt) or answered (the model's own turn)."""

    ids: list[int]
    answered: bool


@dataclass(frozen=True)
class EncodedRow:
    """One row as tokens.

    Attributes:
        prompt: Given and answered segments up to the end of the conversation, or up to the two answers.
        chosen: Tokens of the preferred answer with its end of turn; empty for a supervised row.
        rejected: Tokens of the other answer.
        images: What the processor made of the images, by name ("pixel_values", "image_grid_thw"), along dim 0.
    """

    prompt: list[Segment]
    chosen: list[int]
    rejected: list[int]
    images: dict[str, torch.Tensor]


class RowEncoder:
    """Tokenizes rows by the model's own chat template and processes their images, each once.

    Args:
        processor: A transformers processor with a chat template.
        rows: The rows.
        memory: Bytes of encoded rows to keep; rows beyond that are encoded again each time.
        end_turns: As in `Conversations`.
    """

    def __init__(self, processor: Any, rows: Rows, *, memory: int = 1 << 30, end_turns: bool = True) -> None:
        self._processor, self._rows, self._free = processor, rows, memory
        self._conversations = Conversations(processor, end_turns=end_turns)
        self._done: dict[int, EncodedRow] = {}

    @property
    def pad(self) -> int:
        """The token that fills a batch up."""
        return int(self._processor.tokenizer.pad_token_id)

    def __getitem__(self, index: int) -> EncodedRow:
        if index in self._done:
            return self._done[index]
        row = self._rows[index]
        try:
            encoded = self.encode(row)
        except BadRow as error:  # what the check of rows, which leaves images out, cannot know
            raise DataError(f"{row.id}: {error}", hint="Take this row out and start again.") from error
        if (size := _size(encoded)) <= self._free:
            self._free -= size
            self._done[index] = encoded
        return encoded

    def encode(self, row: Row) -> EncodedRow:
        """The row as tokens.

        Raises:
            BadRow: If its images cannot be loaded or do not match its marks.
        """
        images = [self._rows.image(key) for key in row.images]
        if sum(turn.text.count(IMAGE) for turn in row.turns) != len(images):
            raise BadRow(f"it has {len(images)} images and another number of {IMAGE} marks")
        answers = [answer for answer in (row.chosen, row.rejected) if answer is not None]
        if row.turns[-1].role == "assistant" or not answers:  # the conversation itself holds the answer, or none is
            told = self._conversations.tokens(row.turns, images, ask=row.turns[-1].role != "assistant")
            return EncodedRow(_segments(told, len(told.ids)), [], [], told.images)
        both = self._conversations.pair(row.turns, answers, images)
        asked = min(_prompt(both[0], one) for one in both)
        chosen, rejected = [*(one.ids[asked:] for one in both), []][:2]
        return EncodedRow(_segments(both[0], asked), chosen, rejected, both[0].images)

    def token_types(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Which tokens stand for images (1) and which are text (0), for a model that asks for it.

        Args:
            ids: Token ids of shape (batch, length), int64.

        Returns:
            int64 of the shape of `ids`, under the name the model wants; empty for models that do not ask.
        """
        asked = [name for name in _TOKEN_TYPES if name in self._processor.model_input_names]
        if not asked:
            return {}
        marks = torch.tensor(self._processor.image_token_ids)
        return {asked[0]: torch.isin(ids, marks).long()}


def _prompt(one: Tokens, other: Tokens) -> int:
    """How many tokens stand before the last answer of `other`, as far as they are those of `one` too."""
    last = max((number for number, answered in enumerate(other.answered) if not answered), default=-1) + 1
    return next((n for n in range(last) if one.ids[n : n + 1] != other.ids[n : n + 1]), last)


def _segments(tokens: Tokens, count: int) -> list[Segment]:
    """The first `count` tokens in runs that are given or answered."""
    runs = groupby(zip(tokens.ids[:count], tokens.answered[:count], strict=True), key=lambda pair: pair[1])
    return [Segment([token for token, _ in run], answered) for answered, run in runs]


def _size(row: EncodedRow) -> int:
    """Bytes in memory, about: tensors, and 36 for each token in a list."""
    tokens = sum(len(segment.ids) for segment in row.prompt) + len(row.chosen) + len(row.rejected)
    return sum(value.nbytes for value in row.images.values()) + 36 * tokens


def _padded(sequences: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
    width = max(map(len, sequences))
    return torch.tensor([[*sequence, *[fill] * (width - len(sequence))] for sequence in sequences])


def _images(rows: Sequence[EncodedRow]) -> dict[str, torch.Tensor]:
    names = dict.fromkeys(name for row in rows for name in row.images)
    return {name: _stacked([row.images[name] for row in rows if name in row.images]) for name in names}


def _stacked(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """All `parts` along dim 0; where images were cut into different numbers of tiles, the rest is zeros."""
    if parts[0].dim() < 2:
        return torch.cat(list(parts))
    most = max(part.shape[1] for part in parts)
    filled = [torch.cat([part, part.new_zeros(len(part), most - part.shape[1], *part.shape[2:])], 1) for part in parts]
    return torch.cat(filled)


class SupervisedCollator:
    """Batches for SFT: the loss is on the model's own turns and their end-of-turn tokens only."""

    def __init__(self, encoder: RowEncoder) -> None:
        self._encoder = encoder

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Input ids, attention mask and labels of shape (batch, length), and the images."""
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
    """Batches for DPO as trl wants them: all chosen first, then all rejected.

    Args:
        encoder: The rows.
        repeat_images: Whether the images come twice too, for a model that does not repeat their features itself.
    """

    def __init__(self, encoder: RowEncoder, *, repeat_images: bool = True) -> None:
        self._encoder, self._times = encoder, 2 if repeat_images else 1

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Input ids, attention mask and completion mask of shape (2 batch, length), and the images."""
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
