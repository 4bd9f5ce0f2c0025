"""The numbers that are made of the log-probabilities of an answer's tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn.functional import logsigmoid

from visprobe.errors import UsageError
from visprobe.mllm.answer_tokens import Answer

TARGETS = ("answer", "rejected", "contrast", "sft-loss", "dpo-loss")
_TOKEN = "token:"
OF_TWO = ("rejected", "contrast", "dpo-loss")
Terms = Callable[[Answer], torch.Tensor]
"""From an answer to log p of each of its tokens given those before it, float32 of shape (tokens,)."""


def answer_score(
    target: str, answers: Sequence[Answer], terms: Terms, reference: tuple[float, float] | None, beta: float
) -> torch.Tensor:
    """The number `target` of one question, float32 of shape ().

    Args:
        target: One of `TARGETS`, or "token:N"; checked.
        answers: The answer, and the rejected one if the target needs it.
        terms: Gives the log-probabilities of an answer.
        reference: For "dpo-loss" the sums of `terms` of both answers under the reference.
        beta: For "dpo-loss" the factor of the margin.

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
        UsageError: If it does not.
    """
    known = target in TARGETS or (target.startswith(_TOKEN) and target.removeprefix(_TOKEN).isdecimal())
    if not known:
        raise UsageError(
            f"there is no target {target!r}", hint=f"There are {', '.join(TARGETS)}, and {_TOKEN}N for one token."
        )


def check_answers(target: str, answers: Sequence[Answer], where: str) -> None:
    """Refuse a question that does not have what `target` is a number of.

    Raises:
        UsageError: If it has one answer instead of two, or two that are the same tokens, or fewer tokens.
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
    """Log p of the answer's own text."""
    return terms(answer)[answer.first : answer.stop].sum()


def _number(target: str) -> int:
    return int(target.removeprefix(_TOKEN))
