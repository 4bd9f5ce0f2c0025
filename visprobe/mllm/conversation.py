"""Conversations as tokens: rendered once, tokenized once by the processor, and cut into turns by character offsets.

Tokenizing turns one by one would lose the token that a tokenizer puts in front of a text, or add a space mark at each
joint for tokenizers that write one in front of every text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from jinja2 import TemplateError
from PIL import Image

from visprobe.data.rows import IMAGE, BadRow, Row, Turn
from visprobe.errors import CheckpointError
from visprobe.mllm.limits import TooLong, within

_SECONDS, _MEMORY = 5, 1 << 30  # a sane template takes about a millisecond and some kilobytes
_ANSWER = "answer"  # any word will do; the text after it is the template's end of turn
_OF_TEXT = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")


@dataclass(frozen=True)
class Tokens:
    """Conversation as token ids, with the tokens of the model's turns marked.

    Attributes:
        ids: Token ids with expanded image tokens, equal to those of `processor.apply_chat_template(tokenize=True)`.
        answered: For each token, whether it belongs to a turn of the model: the answer and its end of turn.
        images: Image tensors of the processor by name ("pixel_values", "image_grid_thw"), concatenated along dim 0.
    """

    ids: list[int]
    answered: list[bool]
    images: dict[str, torch.Tensor]


class Conversations:
    """Renderer and tokenizer of conversations, by a model's own chat template.

    Args:
        processor: Processor of transformers with a chat template and a fast tokenizer.
        end_turns: Whether an answer after which the template writes no end of turn gets the tokenizer's
            end-of-sequence token.
        positions: Positions of the language model, less the tokens still to be generated; None for no limit.

    Raises:
        CheckpointError: If the tokenizer gives no character offsets.
    """

    def __init__(self, processor: Any, *, end_turns: bool = True, positions: int | None = None) -> None:
        tokenizer = processor.tokenizer
        if not tokenizer.is_fast:
            raise CheckpointError(
                f"the tokenizer {type(tokenizer).__name__} does not say which characters a token is made of",
                hint="Save the checkpoint's tokenizer as tokenizer.json: AutoTokenizer.from_pretrained(…) and "
                "save_pretrained.",
            )
        self._processor, self._end_turns, self._positions = processor, end_turns, positions
        self._text = lru_cache(maxsize=16)(self._render)  # prefixes of a conversation are rendered several times
        self._image_tokens = lru_cache(maxsize=None)(self._count_image_tokens)

    def text(self, turns: Sequence[Turn], *, ask: bool = False) -> str:
        """Render `turns` by the chat template, with a generation prompt at the end if `ask`.

        Raises:
            BadRow: If the template refuses them.
            CheckpointError: If the template exceeds its limits on time or memory.
        """
        return self._text(tuple(turns), ask)

    def _render(self, turns: tuple[Turn, ...], ask: bool) -> str:
        messages = [{"role": turn.role, "content": content_parts(turn.text)} for turn in turns]
        try:
            with within(_SECONDS, _MEMORY):
                text: str = self._processor.apply_chat_template(messages, add_generation_prompt=ask)
        except (TooLong, MemoryError) as error:
            raise CheckpointError(
                f"the chat template does not come to an end: one text took over {_SECONDS} s or {_MEMORY >> 30} GiB",
                hint="Take the checkpoint's chat_template.jinja from its authors again.",
            ) from error
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            said = str(error).splitlines() or [type(error).__name__]
            raise BadRow(f"the chat template refuses the conversation: {said[0]}") from error
        return text

    def tokens(self, turns: Sequence[Turn], images: Sequence[Image.Image], *, ask: bool = False) -> Tokens:
        """Tokenize `turns`, and mark the tokens of the model's turns.

        Args:
            turns: The conversation.
            images: RGB images, one for each `<image>` mark in the turns.
            ask: Whether the generation prompt follows, for a conversation that ends with a question.

        Raises:
            BadRow: If the template refuses the turns or rewrites earlier ones, or images and marks do not match.
        """
        return self._tokens(self.text(turns, ask=ask), turns, images)[0]

    def pair(self, turns: Sequence[Turn], answers: Sequence[str], images: Sequence[Image.Image]) -> list[Tokens]:
        """Tokenize `turns` followed by each of several answers; images are processed once, for the first.

        Raises:
            BadRow: If the template refuses the turns or rewrites earlier ones, or images and marks do not match.
        """
        told = [(*turns, Turn("assistant", answer)) for answer in answers]
        texts = [self.text(one) for one in told]
        first, read = self._tokens(texts[0], told[0], images)
        others = zip(texts[1:], told[1:], strict=True)
        return [first, *(self._tokens(text, one, images, read)[0] for text, one in others)]

    def _tokens(
        self, text: str, turns: Sequence[Turn], images: Sequence[Image.Image], like: _Read | None = None
    ) -> tuple[Tokens, _Read]:
        """Tokenize `text`, rendered from `turns`; `like` is the reading of a text that differs in its last turn."""
        spans = list(self._answers(text, turns))
        if (marks := text.count(self._processor.image_token)) != len(images):
            raise BadRow(f"the chat template writes another number of images: {marks} of {len(images)}")
        read = self._read(text, images) if like is None else like.with_end(text)
        where = _Expanded(text, read.expanded, self._processor.image_token)
        cut = [(where.at(start), where.at(stop)) for start, stop in spans]
        # A token that spans the end of the prompt and the start of the answer is generated with the answer.
        answered = [any(start < end <= stop for start, stop in cut) for _, end in read.offsets]
        ids = read.ids
        if turns[-1].role == "assistant" and self._end_turns and not self._ends_turns:
            ids = [*ids, int(self._processor.tokenizer.eos_token_id)]
            answered = [*answered, turns[-1].learned]
        return Tokens(ids, answered, read.images), read

    def check(self, row: Row, sizes: Sequence[tuple[int, int]]) -> str:
        """Check that the model can be trained on `row`, without processing images, and return its prompt.

        Args:
            row: Row in the shape that the stage trains on.
            sizes: Height and width in pixels of its images; only their number of tokens matters.

        Returns:
            Rendered text before the last answer, with the generation prompt.

        Raises:
            BadRow: If the row cannot be trained on, with the reason.
        """
        answers = [answer for answer in (row.chosen, row.rejected) if answer is not None]
        asks = row.turns[-1].role != "assistant"
        told = [(*row.turns, Turn("assistant", answer)) for answer in answers if asks] or [row.turns]
        said = [turn.text for turns in told for turn in turns if turn.role == "assistant"]
        if marks := [mark for mark in self._ends if any(mark in text for text in said)]:
            raise BadRow(f"an answer holds the mark that ends a turn: {marks[0]}")
        if marks := [mark for mark in self._ends if any(mark in turn.text for turn in row.turns)]:
            raise BadRow(f"a question holds the mark that ends a turn: {marks[0]}")
        texts = [self.text(turns, ask=asks and not answers) for turns in told]
        if not all(map(_is_unicode, texts)):
            raise BadRow("a text with half of a character, which no tokenizer takes")
        for text, turns in zip(texts, told, strict=True):
            list(self._answers(text, turns))
            if (marks_in := text.count(self._processor.image_token)) != len(row.images):
                raise BadRow(f"the chat template writes another number of images: {marks_in} of {len(row.images)}")
        ids = [self._processor.tokenizer(text)["input_ids"] for text in texts]
        if len(ids) > 1 and ids[0] == ids[1]:
            raise BadRow(f"chosen equals rejected: {answers[0]!r} and {answers[1]!r} are the same tokens")
        longest = max(map(len, ids)) + self._beyond_marks(sizes)
        if self._positions is not None and longest > self._positions:
            raise BadRow(f"longer than the language model's positions: {longest} tokens, room for {self._positions}")
        return self.text(row.turns if asks else row.turns[:-1], ask=True)

    def _beyond_marks(self, sizes: Sequence[tuple[int, int]]) -> int:
        """Return the tokens that images of these sizes (height, width) take beyond one mark each."""
        return 0 if self._positions is None else sum(map(self._image_tokens, sizes)) - len(sizes)

    def _count_image_tokens(self, size: tuple[int, int]) -> int:
        try:
            return int(self._processor._get_num_multimodal_tokens(image_sizes=[list(size)]).num_image_tokens[0])
        except (AttributeError, TypeError, KeyError):  # not all processors have it, LLaVA's only for some towers
            # Expand a blank image instead; its mark is one token, which the difference leaves out.
            blank = Image.new("RGB", size[::-1])
            read = self._read(self.text([Turn("user", IMAGE)]), [blank])
            return len(read.ids) - len(self._processor.tokenizer(read.text)["input_ids"]) + 1

    @cached_property
    def _ends(self) -> tuple[str, ...]:
        """Special tokens that the template writes after an answer, and the tokenizer's end of sequence."""
        tokenizer = self._processor.tokenizer
        text = self.text([Turn("user", "question"), Turn("assistant", _ANSWER)])
        rest = tokenizer(text.rpartition(_ANSWER)[2], add_special_tokens=False)["input_ids"]
        special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        ends = [*tokenizer.convert_ids_to_tokens([one for one in rest if one in special]), tokenizer.eos_token]
        return tuple(dict.fromkeys(end for end in ends if end))

    @property
    def end_of_turn(self) -> str:
        """End of an answer: the template's token, "… added" if the template writes none, "none" if none is wanted."""
        if self._ends_turns:
            return self._ends[0]
        return f"{self._processor.tokenizer.eos_token} added" if self._end_turns else "none"

    @cached_property
    def _ends_turns(self) -> bool:
        """True if the template writes a special token after an answer."""
        text = self.text([Turn("user", "question"), Turn("assistant", _ANSWER)])
        return any(end in text.rpartition(_ANSWER)[2] for end in self._ends)

    def _answers(self, text: str, turns: Sequence[Turn]) -> Iterator[tuple[int, int]]:
        """Yield start and end in `text`, rendered from all `turns`, of each turn of the model that is to be learned."""
        for number, turn in enumerate(turns):
            if turn.role == "assistant" and turn.learned:
                finished = text if number == len(turns) - 1 else self.text(turns[: number + 1])
                start = self._begins(turns[:number], finished)
                if start is None or not text.startswith(finished):
                    raise BadRow("the chat template rewrites earlier turns, so the answers in it cannot be told apart")
                yield start, len(finished)

    def _begins(self, before: Sequence[Turn], finished: str) -> int | None:
        """Return the start in `finished` of the turn after `before`; None if the template rewrote `before`."""
        if before:
            # A generation prompt may open what a finished turn lacks, such as a thought; start where they part.
            start = _common(self.text(before, ask=True), finished)
            return start if start >= len(self.text(before)) else None
        question = [Turn("user", "question")]  # a template cannot render its generation prompt alone
        prompt = self.text(question, ask=True).removeprefix(self.text(question))
        return finished.index(prompt) + len(prompt) if prompt in finished else 0

    def _read(self, text: str, images: Sequence[Image.Image]) -> _Read:
        tokenizer, special = self._processor.tokenizer, {}
        if tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token):
            special = {"add_special_tokens": False}  # as in `apply_chat_template`; else it would get a second one
        given = {"images": [list(images)]} if images else {}
        with _overheard(self._processor) as heard:
            made = self._processor(text=[text], return_tensors="pt", **given, **special)
        tensors = {name: value for name, value in made.items() if name not in _OF_TEXT}
        ids, expanded = made["input_ids"][0].tolist(), heard.text
        if len(heard.offsets) > len(ids):  # some processors append text for the tokenizer and cut it off again
            expanded = expanded[: heard.offsets[len(ids)][0]]
        return _Read(text, expanded, ids, heard.offsets[: len(ids)], tensors, heard.again)


@dataclass(frozen=True)
class _Read:
    """Result of a processor for a text and its images.

    Attributes:
        text: Text with one mark per image.
        expanded: Text with the image tokens in place of each mark.
        ids: Token ids.
        offsets: For each token, its characters in `expanded`.
        images: Image tensors by name.
        again: Tokenizes another text in the same way.
    """

    text: str
    expanded: str
    ids: list[int]
    offsets: list[tuple[int, int]]
    images: dict[str, torch.Tensor]
    again: Callable[[str], tuple[list[int], list[tuple[int, int]]]]

    def with_end(self, text: str) -> _Read:
        """Tokenize a text with the same images that differs only after them, without processing images again."""
        kept = _common(self.text, text)
        # The texts part after the last image, so the rest has the same length before and after expansion.
        expanded = self.expanded[: len(self.expanded) - (len(self.text) - kept)] + text[kept:]
        ids, offsets = self.again(expanded)
        return _Read(text, expanded, ids, offsets, self.images, self.again)


class _Overheard:
    """Tokenizer wrapper that records the last text it was given and the character offsets of its tokens."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self._how = tokenizer, dict[str, Any]()
        self.text, self.offsets = "", list[tuple[int, int]]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, text: list[str], **how: Any) -> Any:
        """Call the tokenizer on one text in a list."""
        made = self._tokenizer(text, **{**how, "return_offsets_mapping": True})
        (self.text,), self._how = text, how
        self.offsets = _pairs(made.pop("offset_mapping"))
        return made

    def again(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Tokenize another text like the last one; return its ids and offsets."""
        made = self._tokenizer([text], **{**self._how, "return_tensors": None, "return_offsets_mapping": True})
        return list(made["input_ids"][0]), _pairs(made["offset_mapping"])


def _pairs(offsets: Any) -> list[tuple[int, int]]:
    return [(int(begin), int(end)) for begin, end in offsets[0]]


@contextmanager
def _overheard(processor: Any) -> Iterator[_Overheard]:
    """Give the processor a recording tokenizer, since the text with expanded images exists only in between."""
    tokenizer, listening = processor.tokenizer, _Overheard(processor.tokenizer)
    processor.tokenizer = listening
    try:
        yield listening
    finally:
        processor.tokenizer = tokenizer


class _Expanded:
    """Map from character positions of a text to those after expansion of its image marks.

    Args:
        text: Text with one mark per image.
        expanded: Text with the image tokens in place of each mark.
        mark: Image mark.
    """

    def __init__(self, text: str, expanded: str, mark: str) -> None:
        self._text, self._expanded, self._mark = text, expanded, mark

    def at(self, place: int) -> int:
        """Return the position in the expanded text.

        Raises:
            BadRow: If the position lies between two images and the text there is not unique.
        """
        text, mark = self._text, self._mark
        if mark not in text[:place]:
            return place
        if mark not in text[place:]:
            return len(self._expanded) - (len(text) - place)
        first = text.rindex(mark, 0, place) + len(mark)
        between = text[first : text.index(mark, place)]
        # Text between images survives expansion, so a piece that is unique in both texts aligns them.
        if text.count(between) != 1 or self._expanded.count(between) != 1:
            raise BadRow("a turn between two images says too little to be found among their tokens")
        return self._expanded.index(between) + place - first


def content_parts(text: str) -> list[dict[str, str]]:
    """Split a turn into the parts that chat templates expect: text, image, text."""
    parts: list[dict[str, str]] = []
    for number, piece in enumerate(text.split(IMAGE)):
        if number:
            parts.append({"type": "image"})
        if piece.strip():
            parts.append({"type": "text", "text": piece.strip("\n")})
    return parts


def _is_unicode(text: str) -> bool:
    """Return whether a text is valid Unicode: JSON may hold one half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _common(one: str, other: str) -> int:
    """Return the length of the common prefix of two texts."""
    most = min(len(one), len(other))
    return next((place for place in range(most) if one[place] != other[place]), most)
