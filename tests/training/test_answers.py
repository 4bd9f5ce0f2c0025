"""Answer accuracy: packed evaluation equals one question at a time, and equals what the model really generates."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from visprobe.demo.answers import Answers, answer, answer_blind, answers_result, evaluate_answers, exact_matches
from visprobe.demo.base import BASE
from visprobe.demo.packing import Packer, answer_logits, image_features
from visprobe.demo.questions import Question, questions_about
from visprobe.demo.scenes import DigitScenes
from visprobe.errors import UsageError
from visprobe.metrics.intervals.clustered import clustered_mean


@pytest.fixture(scope="module")
def base():
    return LlavaForConditionalGeneration.from_pretrained(BASE).eval(), AutoProcessor.from_pretrained(BASE)


SCENES = DigitScenes("val", 16, seed=9)
ASKED = [questions_about(SCENES, i) for i in range(16)]


def chat(text, answer=None):
    user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}
    turn = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
    return [user] if answer is None else [user, turn]


def encoded(processor, image, messages):
    text = processor.apply_chat_template(messages, add_generation_prompt=len(messages) == 1)
    return processor(images=Image.fromarray(image), text=text, return_tensors="pt")


@pytest.mark.thorough
def test_exact_match_equals_what_generate_says(base):
    model, processor = base
    generated = []
    for index, asked in enumerate(ASKED):
        for question in asked:
            inputs = encoded(processor, SCENES.scene(index).image, chat(question.text))
            tokens = model.generate(**inputs, do_sample=False, max_new_tokens=4)[0, inputs["input_ids"].shape[1] :]
            wanted = processor.tokenizer(question.answer + "<|im_end|>")["input_ids"]
            generated.append(tokens.tolist() == wanted)
    correct = answer(model, processor, SCENES).correct
    assert len(correct) >= 100 and 0 < correct.mean() < 1
    assert correct.tolist() == generated


def test_packed_logits_equal_one_question_at_a_time(base):
    model, processor = base
    packer = Packer(processor, 64)
    pixels = processor.image_processor(images=[Image.fromarray(SCENES.scene(0).image)], return_tensors="pt")
    with torch.inference_mode():
        features = image_features(model, pixels["pixel_values"])
        packed, gold = answer_logits(model, packer.pack(ASKED[:1]), features)
        at = 0
        for question in ASKED[0]:
            inputs = encoded(processor, SCENES.scene(0).image, chat(question.text, question.answer))
            ids = inputs["input_ids"][0]
            end = len(ids) - ids.tolist()[::-1].index(processor.tokenizer.eos_token_id)
            length = len(question.answer.split()) + 1
            alone = model(**inputs).logits[0, end - length - 1 : end - 1]
            assert gold[at : at + length].tolist() == ids[end - length : end].tolist()
            # float32 sums in another order; the logits themselves are of the order of 10
            torch.testing.assert_close(packed[at : at + length], alone, rtol=1e-4, atol=1e-3)
            at += length
    assert at == len(packed)


def test_questions_do_not_see_each_other_nor_the_padding(base):
    model, processor = base
    packer = Packer(processor, 64)
    features = torch.randn(2, 64, 128, generator=torch.Generator().manual_seed(0))
    first, *rest = ASKED[0]
    changed = [Question(q.text, q.wrong, q.answer, q.group, q.kind) for q in rest]
    with torch.inference_mode():
        alone, _ = answer_logits(model, packer.pack([[first]]), features[:1])
        among, _ = answer_logits(model, packer.pack([[first, *changed], ASKED[1]]), features)
    torch.testing.assert_close(among[: len(alone)], alone, rtol=1e-4, atol=1e-3)  # as above


def test_a_wrong_gold_answer_is_not_matched(base):
    """The second word and the end token count: right first word, wrong rest is wrong."""
    model, processor = base
    index, row = next((i, q) for i in range(16) for q in ASKED[i] if q.kind == "row")
    left = row.answer.split()[0]
    golds = [row.answer, f"{left} {left}", left]
    asked = [[Question(row.text, gold, "-", "ocr", "row") for gold in golds]]
    pixels = processor.image_processor(images=[Image.fromarray(SCENES.scene(index).image)], return_tensors="pt")
    with torch.inference_mode():
        features = image_features(model, pixels["pixel_values"])
        correct = exact_matches(model, Packer(processor, 64).pack(asked), features)
    assert correct[1:].tolist() == [False, False]


def test_the_result_holds_shares_differences_and_the_baseline():
    groups, kinds = ("general",) * 4 + ("ocr",) * 6, ("parity",) * 10
    right = {"base": [1, 1, 0, 0, 1, 0, 0, 0, 0, 0], "sft": [1, 1, 1, 0, 1, 1, 0, 0, 0, 0]}
    scenes = np.array([0, 0, 1, 1, 0, 0, 1, 1, 2, 2])
    answers = {name: Answers(np.array(hits, bool), scenes, groups, kinds) for name, hits in right.items()}
    blind = Answers(np.array([1, 0, 0, 0, 0, 0, 0, 0, 0, 0], bool), scenes, groups, kinds)
    result = answers_result(answers, blind, "digits")
    (share,) = result.select(checkpoint="sft", measure="accuracy/ocr", role="value")
    assert (share.estimate.value, share.estimate.n) == (2 / 6, 6)
    ocr = clustered_mean(np.array([1.0, 1, 0, 0, 0, 0]), scenes[4:])
    assert (share.estimate.low, share.estimate.high) == (ocr.low, ocr.high)
    assert "clustered by scene" in share.estimate.method
    (difference,) = result.select(measure="accuracy/all", role="difference")
    assert (difference.checkpoint, difference.reference) == ("sft", "base")
    assert difference.estimate.value == pytest.approx(0.2)
    assert difference.estimate.low < 0.2 < difference.estimate.high
    (baseline,) = result.select(role="baseline", measure="accuracy/all")
    assert baseline.checkpoint == "blind" and baseline.estimate.value == 0.1
    assert [row.measure for row in result.select(checkpoint="base")] == [
        "accuracy/general", "accuracy/ocr", "accuracy/all",
    ]  # fmt: skip
    assert type(result).from_json(result.to_json()) == result


def test_answers_to_different_questions_are_refused():
    ours = Answers(np.ones(1, bool), np.zeros(1, int), ("ocr",), ("read",))
    theirs = Answers(np.ones(1, bool), np.zeros(1, int), ("ocr",), ("row",))
    with pytest.raises(UsageError, match="different questions"):
        answers_result({"base": ours, "sft": theirs}, ours, "digits")


@pytest.mark.thorough
def test_checkpoints_on_disk_are_compared_with_the_blind_baseline():
    result = evaluate_answers({"base": BASE, "again": BASE}, DigitScenes("val", 60, 9), DigitScenes("train", 600, 9))
    value, baseline = (result.select(measure="accuracy/all", role=role)[0].estimate for role in ("value", "baseline"))
    assert baseline.high < value.low  # far apart: 0.3 and 0.8 or more
    (difference,) = result.select(measure="accuracy/all", role="difference")
    assert difference.estimate.value == 0


@pytest.mark.thorough
def test_the_blind_answers_use_the_training_scenes_only():
    blind = answer_blind(DigitScenes("train", 400, 9), DigitScenes("val", 200, 9))
    assert len(blind.correct) == len(blind.groups) == len(blind.kinds)
    assert 0.25 < blind.correct.mean() < 0.35  # 0.30 by construction; two standard errors at n = 1,700 are 0.02
