"""Accuracy of a multimodal LLM on questions about digit scenes, with a baseline that ignores the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration

from visprobe.analyses.core.differences import Key, Paired, difference_rows, pairs, value_rows
from visprobe.demo.packing import Packed, Packer, answer_logits, image_features
from visprobe.demo.questions import GROUPS, Question, blind_guess, questions_about
from visprobe.demo.scenes import DigitScenes
from visprobe.encoders.checkpoint.quiet import quiet
from visprobe.errors import UsageError
from visprobe.metrics.arrays import Array, Bools, Labels
from visprobe.metrics.intervals.clustered import clustered_mean
from visprobe.metrics.intervals.estimate import FRACTION, Scale
from visprobe.mllm.load import read_processor
from visprobe.results.result import Estimate, Result

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
        clustered by scene; the blind baseline with role "baseline".

    Raises:
        UsageError: If two of them answered different questions.
    """
    if {a.kinds for a in answers.values()} != {blind.kinds}:
        raise UsageError(
            "the answers are to different questions", hint="Answer with every checkpoint on the same scenes."
        )
    right = _by_group({**answers, "blind": blind})
    numbers = {key: _estimate(correct.astype(np.float64), of, FRACTION) for key, (correct, of) in right.items()}
    own = {key: number for key, number in numbers.items() if key[0] in answers}
    rows = (
        *value_rows(own, {}),
        *difference_rows(right, answers, _difference),
        *value_rows({key: number for key, number in numbers.items() if key not in own}, {"blind": "blind"}),
    )
    against = []
    for name in answers:
        for pair in (pair for pair in pairs(right, ("blind", name)) if pair.measure == "accuracy/all"):
            change = _difference(pair)
            ends = {"value": change.value, "low": change.low, "high": change.high}
            against.append({"checkpoint": name, "reference": "blind", "site": SITE, "measure": pair.measure, **ends})
    question = "How many questions about unseen scenes does the whole model answer exactly right?"
    settings = {"scenes": scenes, "match": "exact, greedy", "against_baselines": against}
    return Result("answers", question, rows, settings)


def _by_group(answers: Mapping[str, Answers]) -> dict[Key, tuple[Bools, Labels]]:
    """Return which answers are right and their scenes: of each group of questions that there is, and of all."""
    found: dict[Key, tuple[Bools, Labels]] = {}
    for name, one in answers.items():
        groups = np.array(one.groups)
        masks: dict[str, Bools] = {group: groups == group for group in GROUPS if group in one.groups}
        for group, mask in {**masks, "all": np.ones(len(groups), np.bool_)}.items():
            found[name, SITE, f"accuracy/{group}"] = one.correct[mask], one.scenes[mask]
    return found


def _difference(pair: Paired[tuple[Bools, Labels]]) -> Estimate:
    (after, scenes), (before, _) = pair.after, pair.before
    return _estimate(after.astype(np.float64) - before, scenes, FRACTION.of_differences)


def _estimate(values: Array, scenes: Labels, scale: Scale) -> Estimate:
    mean = clustered_mean(values, scenes, scale)
    return replace(mean, n=len(values), method="Student t 95 %, clustered by scene")
