"""Questions about an image as the tokens that a multimodal LLM reads, as in training."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from visprobe.data.rows import IMAGE, BadRow, Row, Turn
from visprobe.errors import UsageError
from visprobe.mllm.batches import RowEncoder


@dataclass(frozen=True)
class Answer:
    """Tokens of an answer, and the span of its own text among them.

    Attributes:
        ids: Token ids: the answer, its end of turn, and what else the chat template writes.
        first: Index in `ids` of the first token of the answer's own text.
        stop: Index after the last one.
    """

    ids: tuple[int, ...]
    first: int
    stop: int


@dataclass(frozen=True)
class TokenizedPrompt:
    """Question as tokens, with its answers and image inputs.

    Attributes:
        prompt: Token ids up to the answer.
        answers: One or two answers.
        images: Image tensors of the processor for a blank image, by name; floating-point tensors have its shape only.
        token_types: Returns the model's token types for token ids.
    """

    prompt: tuple[int, ...]
    answers: tuple[Answer, ...]
    images: dict[str, torch.Tensor]
    token_types: Callable[[torch.Tensor], dict[str, torch.Tensor]]


def tokenized(question: Question, processor: Any, blank: Image.Image, where: str) -> TokenizedPrompt:
    """Tokenize `question` by the model's own chat template.

    Args:
        question: Question with its answers.
        processor: Processor of the model, called with one image and one text.
        blank: Image that takes as many tokens as the one in question.
        where: Question and checkpoint, for messages.

    Raises:
        UsageError: If the prompt has not exactly one image, or an answer has no tokens of its own.
    """
    _check_marks(question, processor.image_token, where)
    turns, two = (Turn("user", question.turn),), (*question.answers, None)[:2]
    rows = RowEncoder(processor, OneImage(blank))
    try:
        row = rows.encode(Row(where, turns, ("blank",), chosen=two[0], rejected=two[1]))
    except BadRow as error:
        raise UsageError(
            f"{where}: {error}", hint="Copy chat_template.jinja from the model's instruct version."
        ) from error
    answers = tuple(
        _answer(processor.tokenizer, text, ids, where)
        for text, ids in zip(question.answers, (row.chosen, row.rejected), strict=False)
    )
    shapes = {name: _shape_only(tensor) for name, tensor in row.images.items()}
    return TokenizedPrompt(tuple(token for part in row.prompt for token in part.ids), answers, shapes, rows.token_types)


class OneImage:
    """Source of one image, with the interface of rows that `RowEncoder` needs.

    Args:
        image: RGB image.
    """

    name = "questions"

    def __init__(self, image: Image.Image) -> None:
        self._image = image

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int) -> Row:
        raise IndexError(index)

    def image(self, key: str) -> Image.Image:
        """Return the image."""
        return self._image

    def content_hash(self) -> str:
        """Return an empty hash: questions are in no manifest."""
        return ""


def _check_marks(question: Question, mark: str, where: str) -> None:
    marks = {IMAGE, mark}
    if sum(question.turn.count(one) for one in marks) != 1:
        raise UsageError(f"{where}: the prompt has more than one image", hint=f"Write {IMAGE} once or not at all.")
    if any(one in text for one in marks for text in question.answers):
        raise UsageError(f"{where}: an answer has an image in it", hint=f"Write {IMAGE} in the prompt only.")


def _answer(tokenizer: Any, text: str, ids: list[int], where: str) -> Answer:
    """Find the text of an answer among the tokens that the chat template makes of it."""
    sought = _plain(text)
    if not sought:
        raise UsageError(f"{where}: an answer with no tokens", hint="Give each question an answer.")

    def spelled(first: int, stop: int) -> bool:
        return sought in _plain(tokenizer.decode(ids[first:stop], skip_special_tokens=False))

    first, stop = 0, len(ids)
    if not spelled(first, stop):
        raise UsageError(
            f"{where}: the tokens of the answer {text!r} do not spell it",
            hint="The tokenizer does not know its words, or the chat template changes it; use other words.",
        )
    # Shrink the span while it still spells the answer: first from the end, then from the start.
    while spelled(first, stop - 1):
        stop -= 1
    while spelled(first + 1, stop):
        first += 1
    return Answer(tuple(ids), first, stop)


def _plain(text: str) -> str:
    """Remove what tokenizers change: spaces, capitals, Unicode variants."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def _shape_only(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.new_ones(()).expand(tensor.shape) if tensor.is_floating_point() else tensor


@dataclass(frozen=True)
class Question:
    """Question about one image, with the answer whose probability is explained.

    Attributes:
        prompt: The user's turn; the image stands in place of "<image>", or in front.
        answer: An answer, such as the preferred one.
        rejected: Another answer, to be contrasted with the first.
    """

    prompt: str
    answer: str
    rejected: str | None = None

    @property
    def turn(self) -> str:
        """User's turn with its image mark."""
        return self.prompt if IMAGE in self.prompt else f"{IMAGE}\n{self.prompt}"

    @property
    def answers(self) -> tuple[str, ...]:
        """Answer and, if there is one, the rejected answer."""
        return (self.answer,) if self.rejected is None else (self.answer, self.rejected)
