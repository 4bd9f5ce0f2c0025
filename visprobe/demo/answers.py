"""Accuracy of a multimodal LLM on questions about digit scenes, with a baseline that ignores the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration

from visprobe.demo.packing import Packed, Packer, answer_logits, image_features
from visprobe.demo.questions import GROUPS, Question, blind_guess, questions_about
from visprobe.demo.scenes import DigitScenes
from visprobe.encoders.checkpoint.quiet import quiet
from visprobe.errors import UsageError
from visprobe.metrics.arrays import Array, Bools, Labels
from visprobe.metrics.intervals.clustered import clustered_mean
from visprobe.metrics.intervals.estimate import FRACTION, Scale
from visprobe.mllm.load import read_processor
from visprobe.results.result import Estimate, Result, Role, Row

SITE = "language_model"
BATCH = 50


@dataclass(frozen=True)
class Answers:
    """Correctness of one model's answers; two models on the same scenes are paired row by row.

    Attributes:
        correct: bool of shape (questions,).
        scenes: int64 of shape (questions,): index of the scene that each question is about.
        groups: Group of each question.
        kinds: Kind of each question.
    """

    correct: Bools
    scenes: Labels
    groups: tuple[str, ...]
    kinds: tuple[str, ...]


def ask(scenes: DigitScenes) -> list[list[Question]]:
    """Return the questions about every scene, one list per scene."""
    return [questions_about(scenes, index) for index in range(scenes.size)]


@torch.inference_mode()
def answer(model: Any, processor: Any, scenes: DigitScenes) -> Answers:
    """Compute exact-match correctness of greedy answers to all questions about `scenes`.

    Greedy decoding gives exactly the gold answer if, and only if, at every answer position, given the gold
    tokens before it, the likeliest token is the gold one, the end token included. So one forward pass per
    scene with all questions packed decides, without generation. Each image passes the vision tower once.

    Args:
        model: A `LlavaForConditionalGeneration`; set to evaluation mode during the call.
        processor: Processor of the model.
        scenes: Digit scenes.

    Returns:
        One entry per question, scene by scene in the order of `ask`.
    """
    was_training = model.training
    model.eval()
    packer = Packer(processor, model.config.image_seq_length)
    asked = ask(scenes)
    correct = [_correct(model, processor, packer, scenes, asked, start) for start in range(0, scenes.size, BATCH)]
    model.train(was_training)
    return _answers(np.concatenate(correct), asked)


def _correct(
    model: Any, processor: Any, packer: Packer, scenes: DigitScenes, asked: list[list[Question]], start: int
) -> Bools:
    rows = asked[start : start + BATCH]
    images = [Image.fromarray(scenes.scene(start + i).image) for i in range(len(rows))]
    pixels = processor.image_processor(images=images, return_tensors="pt")["pixel_values"]
    features = image_features(model, pixels.to(model.device, model.dtype))
    return exact_matches(model, packer.pack(rows).to(model.device), features)


def exact_matches(model: Any, packed: Packed, features: torch.Tensor) -> Bools:
    """Return for each packed question whether all its answer tokens are the likeliest; bool of shape (questions,)."""
    logits, gold = answer_logits(model, packed, features)
    # A question is correct unless one of its answer tokens is missed.
    missed = packed.question[packed.targets >= 0][logits.argmax(-1) != gold]
    correct = np.ones(int(packed.question.max()) + 1, np.bool_)
    correct[missed.cpu().numpy()] = False
    return correct


def answer_blind(train: DigitScenes, scenes: DigitScenes) -> Answers:
    """Answer each question text with its most frequent answer in `train`, ignoring the image."""
    guess = blind_guess(question for row in ask(train) for question in row)
    asked = ask(scenes)
    return _answers(np.array([guess.get(q.text) == q.answer for row in asked for q in row]), asked)


def _answers(correct: Bools, asked: list[list[Question]]) -> Answers:
    flat = [question for row in asked for question in row]
    scenes = np.repeat(np.arange(len(asked)), [len(row) for row in asked])
    return Answers(correct, scenes, tuple(q.group for q in flat), tuple(q.kind for q in flat))


def evaluate_answers(checkpoints: Mapping[str, Path], scenes: DigitScenes, blind_from: DigitScenes) -> Result:
    """Compute answer accuracy of checkpoints on the same questions, with paired differences and the blind baseline.

    Args:
        checkpoints: Folder of a LLaVA checkpoint with its processor, by name, the base first.
        scenes: Scenes that none of them was trained on.
        blind_from: Training scenes whose most frequent answers are the blind baseline.

    Returns:
        The "answers" result; see `answers_result`.
    """
    answers = {}
    for name, folder in checkpoints.items():
        with quiet():
            model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        processor = read_processor(folder)
        answers[name] = answer(model, processor, scenes)
    return answers_result(answers, answer_blind(blind_from, scenes), scenes.name)


def answers_result(answers: Mapping[str, Answers], blind: Answers, scenes: str) -> Result:
    """Collect accuracy per group and over all, paired differences, and the blind baseline in an "answers" result.

    Args:
        answers: Answers by name of the checkpoint, the base first, all to the same questions.
        blind: Blind answers to the same questions.
        scenes: Name of the scenes.

    Returns:
        Shares in [0, 1] and differences `later - earlier` for every pair of checkpoints, with 95 % intervals
        clustered by scene; the blind baseline with role "floor".

    Raises:
        UsageError: If two of them answered different questions.
    """
    if {a.kinds for a in answers.values()} != {blind.kinds}:
        raise UsageError(
            "the answers are to different questions", hint="Answer with every checkpoint on the same scenes."
        )
    masks = _masks(blind.groups)
    rows = [row for name, a in answers.items() for row in _shares(name, a, masks, "value")]
    for earlier, later in combinations(answers, 2):
        rows += [_difference(later, earlier, answers, group, mask) for group, mask in masks.items()]
    rows += _shares("blind", blind, masks, "floor")
    question = "How many questions about unseen scenes does the whole model answer exactly right?"
    everyone = {**answers, "blind": blind}
    pairs = [_difference(name, "blind", everyone, "all", masks["all"]) for name in answers]
    against = [
        {"checkpoint": row.checkpoint, "reference": "blind", "site": row.site, "measure": row.measure,
         "value": row.estimate.value, "low": row.estimate.low, "high": row.estimate.high}
        for row in pairs
    ]  # fmt: skip
    return Result(
        "answers", question, tuple(rows), {"scenes": scenes, "match": "exact, greedy", "against_floors": against}
    )


def _masks(groups: Sequence[str]) -> dict[str, Bools]:
    """Select the questions of each group, and of "all"; groups without questions are left out."""
    column = np.array(groups)
    masks: dict[str, Bools] = {group: column == group for group in GROUPS if group in groups}
    return {**masks, "all": np.ones(len(column), np.bool_)}


def _shares(name: str, answers: Answers, masks: Mapping[str, Bools], role: Role) -> list[Row]:
    correct = answers.correct.astype(np.float64)
    return [
        Row(name, SITE, f"accuracy/{group}", _estimate(correct[mask], answers.scenes[mask], FRACTION), role=role)
        for group, mask in masks.items()
    ]


def _difference(later: str, earlier: str, answers: Mapping[str, Answers], group: str, mask: Bools) -> Row:
    change = answers[later].correct[mask].astype(np.float64) - answers[earlier].correct[mask]
    estimate = _estimate(change, answers[later].scenes[mask], FRACTION.of_differences)
    return Row(later, SITE, f"accuracy/{group}", estimate, earlier, "difference")


def _estimate(values: Array, scenes: Labels, scale: Scale) -> Estimate:
    mean = clustered_mean(values, scenes, scale)
    return replace(mean, n=len(values), method="Student t 95 %, clustered by scene")
