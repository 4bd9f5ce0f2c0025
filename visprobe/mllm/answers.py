"""Scores and losses of answers, computed from the log-probabilities of their tokens, and a model's own answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch.nn.functional import logsigmoid

from visprobe.data.rows import Row, Turn
from visprobe.errors import DataError, UsageError
from visprobe.mllm.batches import RowEncoder
from visprobe.mllm.question import Answer, OneImage, Question

TARGETS = ("answer", "rejected", "contrast", "sft-loss", "dpo-loss")
_TOKEN = "token:"
OF_TWO = ("rejected", "contrast", "dpo-loss")
Terms = Callable[[Answer], torch.Tensor]
"""From an answer to log p of each of its tokens given those before it, float32 of shape (tokens,)."""


def answer_score(
    target: str, answers: Sequence[Answer], terms: Terms, reference: tuple[float, float] | None, beta: float
) -> torch.Tensor:
    """Compute the number `target` of one question, float32 of shape ().

    Args:
        target: One of `TARGETS`, or "token:N"; checked.
        answers: The answer, and the rejected one if the target needs it.
        terms: Returns the log-probabilities of an answer's tokens.
        reference: For "dpo-loss", the sums of `terms` of both answers under the reference.
        beta: For "dpo-loss", the factor of the margin.

    Source:
        "dpo-loss": Rafailov et al. 2023 (2305.18290), equation 7.
    """
    if target == "answer":
        return _text(answers[0], terms)
    if target == "rejected":
        return _text(answers[1], terms)
    if target == "contrast":
        return _text(answers[0], terms) - _text(answers[1], terms)
    if target == "sft-loss":
        return -terms(answers[0]).mean()
    if target == "dpo-loss":
        assert reference is not None  # checked with the target
        margin = terms(answers[0]).sum() - terms(answers[1]).sum() - (reference[0] - reference[1])
        return -logsigmoid(beta * margin)
    return terms(answers[0])[answers[0].first + _number(target)]


def check_target(target: str) -> None:
    """Refuse a target that does not exist.

    Raises:
        UsageError: If the target does not exist.
    """
    known = target in TARGETS or (target.startswith(_TOKEN) and target.removeprefix(_TOKEN).isdecimal())
    if not known:
        raise UsageError(
            f"there is no target {target!r}", hint=f"There are {', '.join(TARGETS)}, and {_TOKEN}N for one token."
        )


def check_answers(target: str, answers: Sequence[Answer], where: str) -> None:
    """Refuse a question that lacks the answers or tokens that `target` needs.

    Raises:
        UsageError: If it has one answer instead of two, two with the same tokens, or too few tokens.
    """
    if target in OF_TWO and len(answers) < 2:
        raise UsageError(f"{where}: {target} needs a rejected answer", hint="Give it one: --rejected TEXT.")
    if target in OF_TWO and answers[0].ids == answers[1].ids:
        raise UsageError(
            f"{where}: the chosen and the rejected answer are the same tokens, so that there is no contrast",
            hint="Name another rejected answer; where no answer was chosen, the chosen one is the base's own.",
        )
    tokens = answers[0].stop - answers[0].first
    if target.startswith(_TOKEN) and _number(target) >= tokens:
        raise UsageError(
            f"{where}: there is no {target}, the answer has {tokens} tokens",
            hint=f"Name one from {_TOKEN}0 to {_TOKEN}{tokens - 1}.",
        )


def _text(answer: Answer, terms: Terms) -> torch.Tensor:
    """Return log p of the answer's own text."""
    return terms(answer)[answer.first : answer.stop].sum()


def _number(target: str) -> int:
    return int(target.removeprefix(_TOKEN))


PROMPT = "Describe the image."
MOST_TOKENS = 32


@dataclass(frozen=True)
class OwnAnswer:
    """Answer that a model generates itself.

    Attributes:
        text: The answer, without special tokens.
        forced: Whether the model generates no text by itself, so that `text` is its likeliest printable token.
    """

    text: str
    forced: bool = False


def own_answer(model: Any, processor: Any, picture: Image.Image, prompt: str = PROMPT) -> OwnAnswer:
    """Generate the model's greedy answer; if it ends its turn at once, take its likeliest printable token.

    Args:
        model: A multimodal LLM of transformers, in evaluation mode.
        processor: Processor of the model, with image token and chat template.
        picture: RGB image.
        prompt: Question; the image stands in place of "<image>", or in front.

    Returns:
        Answer of at most 32 tokens.

    Raises:
        DataError: If no token of the vocabulary is printable.
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
    """Return the text of the likeliest token that has one and survives decoding and encoding."""
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    for token in logits.argsort(descending=True, stable=True).tolist():
        text: str = "" if token in special else tokenizer.decode([token]).strip()
        if text and tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]).strip() == text:
            return text
    raise DataError("no token of the tokenizer's vocabulary says anything", hint="Give an answer: --chosen TEXT.")
