"""Packing of all questions about an image into one sequence, for the same logits at a fraction of the cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from visprobe.demo.questions import Question


@dataclass(frozen=True)
class Block:
    """Token ids of one question after the shared prefix, including its gold answer."""

    tokens: tuple[int, ...]
    answer_length: int


@dataclass(frozen=True)
class Packed:
    """Batch of packed sequences, one per image.

    Attributes:
        input_ids: int64 of shape (images, length).
        attention_mask: bool of shape (images, 1, length, length); a question sees the image and itself.
        position_ids: int64 of shape (images, length); every question restarts after the image.
        targets: int64 of shape (images, length): answer token that a position must predict, else -100.
        question: int64 of shape (images, length): index of the question of a position, counted over the whole
            batch, or -1.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor
    targets: torch.Tensor
    question: torch.Tensor

    def to(self, device: torch.device) -> Packed:
        """Move the batch to `device`."""
        parts = (self.input_ids, self.attention_mask, self.position_ids, self.targets, self.question)
        return Packed(*(part.to(device) for part in parts))


class Packer:
    """Packer of questions into batches, through the processor's own chat template.

    Args:
        processor: A `LlavaProcessor`, or any processor whose template puts the image before the question.
        image_tokens: Number of tokens per image.
    """

    def __init__(self, processor: Any, image_tokens: int) -> None:
        self._processor = processor
        self._image_tokens = image_tokens
        self._blocks: dict[tuple[str, str], Block] = {}
        self._prefix, _ = self._tokens("", None)

    def block(self, text: str, answer: str) -> Block:
        """Return the tokens of a question and its answer, without the image and the tokens before it."""
        key = (text, answer)
        if key not in self._blocks:
            _, prompt = self._tokens(text, None)
            _, whole = self._tokens(text, answer)
            self._blocks[key] = Block(whole, len(whole) - len(prompt))
        return self._blocks[key]

    def _tokens(self, text: str, answer: str | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return token ids up to the expanded image, and after it; an answer is cut after its end token."""
        messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
        if answer is not None:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        tokenizer = self._processor.tokenizer
        chat = self._processor.apply_chat_template(messages, add_generation_prompt=answer is None)
        ids = tokenizer(chat, add_special_tokens=False)["input_ids"]
        image = tokenizer.convert_tokens_to_ids(self._processor.image_token)
        at = ids.index(image)
        if answer is not None:
            ids = ids[: len(ids) - ids[::-1].index(tokenizer.eos_token_id)]
        return tuple(ids[:at]) + (image,) * self._image_tokens, tuple(ids[at + 1 :])

    def pack(self, asked: Sequence[Sequence[Question]]) -> Packed:
        """Pack the questions of several images.

        Args:
            asked: Questions of each image; at least one image and one question.

        Returns:
            Batch, padded on the right to the longest sequence.
        """
        rows = [[self.block(q.text, q.answer) for q in questions] for questions in asked]
        start = len(self._prefix)
        length = start + max(sum(len(block.tokens) for block in row) for row in rows)
        shape = (len(rows), length)
        ids = torch.full(shape, self._processor.tokenizer.pad_token_id)
        ids[:, :start] = torch.tensor(self._prefix)
        positions = torch.arange(length).expand(shape).clone()
        targets, question = torch.full(shape, -100), torch.full(shape, -1)
        index = 0
        for i, row in enumerate(rows):
            at = start
            for block in row:
                end = at + len(block.tokens)
                ids[i, at:end] = torch.tensor(block.tokens)
                positions[i, at:end] = torch.arange(start, start + len(block.tokens))
                # Logits at a position predict the next token, hence one position before each answer token.
                targets[i, end - block.answer_length - 1 : end - 1] = ids[i, end - block.answer_length : end]
                question[i, at:end] = index
                index, at = index + 1, end
        return Packed(ids, _mask(question, start), positions, targets, question)


def _mask(question: torch.Tensor, start: int) -> torch.Tensor:
    """Make a causal mask: the prefix is seen by all, a question by itself alone; padding sees prefix and padding."""
    length = question.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    in_prefix = torch.arange(length) < start
    same = question[:, :, None] == question[:, None, :]
    return (causal & (in_prefix | same))[:, None]


def answer_logits(model: Any, packed: Packed, image_features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute logits at the positions that predict answer tokens.

    Args:
        model: A `LlavaForConditionalGeneration`.
        packed: Packed questions of n images.
        image_features: Features after the projector, float of shape (n, image tokens, d).

    Returns:
        Logits of shape (answer tokens, vocabulary), and gold tokens, int64 of shape (answer tokens,).
    """
    embeddings = model.get_input_embeddings()(packed.input_ids)
    at_image = (packed.input_ids == model.config.image_token_id)[..., None]
    hidden = model.model.language_model(
        inputs_embeds=embeddings.masked_scatter(at_image, image_features.to(embeddings.dtype)),
        attention_mask=packed.attention_mask,
        position_ids=packed.position_ids,
        use_cache=False,
    ).last_hidden_state
    wanted = packed.targets >= 0
    return model.lm_head(hidden[wanted]), packed.targets[wanted]


def image_features(model: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    """Compute the projected features of each image, float of shape (n, image tokens, d)."""
    return torch.stack(list(model.get_image_features(pixel_values=pixel_values).pooler_output))
